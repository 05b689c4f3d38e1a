"""A merged model to a bundle: the whole export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mingle_edge.core.progress import Progress, silent
from mingle_edge_export.bundle.folded_scope import FoldedScopeWriter
from mingle_edge_export.bundle.image_scope import ImageScopeWriter
from mingle_edge_export.bundle.layer_scope import LayerScopeWriter
from mingle_edge_export.bundle.output_folder import bundle_folder
from mingle_edge_export.bundle.writer import BundleWriter
from mingle_edge_export.cached_model import CachedModel
from mingle_edge_export.expert_choice import ExpertChoice, choose_experts
from mingle_edge_export.options import ExportOptions
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.report import ExportReport, TaskAccuracy

MARGIN = 32 << 20  # bytes of disk for everything but weights
FLOAT = 4  # bytes
STEM = frozenset({"patch_embedding"})  # stays in fp32: it reads pixels, and is a few percent of the work
WRITERS: dict[str, type[BundleWriter]] = {"folded": FoldedScopeWriter, "image": ImageScopeWriter, "layer": LayerScopeWriter}


def export_bundle(
    merged_path: str | Path,
    bundle_path: str | Path,
    options: ExportOptions = ExportOptions(),
    *,
    progress: Progress = silent,
) -> ExportReport:
    """Write the bundle of a merged model into a new folder, and compare its graphs with the merged model in PyTorch.

    The folder is there whole or not at all. progress: called with a stage, steps done and their number.

    Raises `OptionError` where an option does not fit the model, `OutputError` where the folder cannot be written, `ParityError`
    where the graphs differ by more than the options allow; `MergedModelError` for a damaged merged model, `TaskFileError` and
    `ImageFolderError` for the images, `ProviderError` for a missing or old ONNX Runtime.
    """
    merged = options.select(CachedModel.open(merged_path))
    choices = choose_experts(merged, options)
    merged = replace(merged, ranks={name: choice.rank for name, choice in choices.items() if choice.rank is not None})
    precisions = {choice.precision for choice in choices.values()}
    bounds, lossless = options.bounds(precisions), options.lossless(precisions)
    experts = 0 if options.fold else sum(_most_bytes(merged, name, choice) for name, choice in choices.items())
    needed = MARGIN + sum(array.nbytes for array in merged.backbone().values()) + experts
    with bundle_folder(Path(bundle_path), needed) as folder:
        writer = WRITERS["folded" if options.fold else merged.scope](folder, merged, options, choices)
        # These load PyTorch, which takes seconds.
        from mingle_edge.merging.merged_tower import GatedTower
        from mingle_edge_export.check.calibration import calibrate, choose_exact_layers
        from mingle_edge_export.check.golden_images import own_golden
        from mingle_edge_export.check.labeled_accuracy import check_accuracy, measure_accuracy
        from mingle_edge_export.check.parity import check_parity
        from mingle_edge_export.check.reference import compute_reference
        from mingle_edge_export.check.task_images import read_task_images

        images = None if options.images is None else read_task_images(options.images, merged, progress)
        tower = GatedTower(merged)
        reference = compute_reference(tower, options.fold, options.top_k, progress)
        calibrated = images is not None and "int8" in {options.precision, *precisions}
        calibration = calibrate(tower, images.calibration_images, progress) if images is not None and calibrated else None
        writer.write_experts(Smoothing() if calibration is None else calibration.smoothing, progress)
        exact = STEM if {options.precision, options.router} & {"int8", "int4"} else frozenset()
        if calibration is not None and options.precision == "int8":
            exact = choose_exact_layers(calibration, merged, exact, writer.trial)
        bundle = writer.write_graphs(exact, progress)
        parity = check_parity(bundle, reference, writer.norms, bounds, progress)
        accuracy: Sequence[TaskAccuracy] = ()
        if images is not None and images.tests:
            accuracy = measure_accuracy(bundle, tower, images.tests, options.top_k, progress)
            check_accuracy(accuracy, bounds.accuracy_drop)
        files = writer.publish(bundle, reference.golden if lossless else own_golden(bundle, reference), parity)
    return ExportReport(Path(bundle_path), parity, files, accuracy, bundle.index.exact_layers, bundle.index.tasks)


def _most_bytes(merged: CachedModel, task: str, choice: ExpertChoice) -> int:
    """Return the bytes that a task's expert takes of the disk at most."""
    if choice.form is not None:
        return choice.form.bytes
    return FLOAT * sum(math.prod(shape) for shape in merged.expert_shapes(task).values())
