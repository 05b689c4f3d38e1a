"""A merged model to a bundle: the whole export."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import mingle_edge
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress, silent
from mingle_edge_export.bundle.contents import Contents
from mingle_edge_export.bundle.folded_scope import check_foldable, write_folded_scope
from mingle_edge_export.bundle.image_scope import write_image_scope
from mingle_edge_export.bundle.layer_scope import write_layer_scope
from mingle_edge_export.bundle.output_folder import bundle_folder, check_space
from mingle_edge_export.check.calibration import LEAST_AGREEMENT, Calibration, calibrate
from mingle_edge_export.check.fidelity import Bounds, default_bounds
from mingle_edge_export.check.golden_images import steadiest
from mingle_edge_export.check.labelled_accuracy import TaskAccuracy, accuracy_drop, label_agreement, measure_accuracy
from mingle_edge_export.check.parity import Parity, check_parity
from mingle_edge_export.check.reference import GOLDEN_IMAGES, Reference, compute_reference
from mingle_edge_export.check.task_images import TaskImages, read_task_images
from mingle_edge_export.errors import OptionError, ParityError
from mingle_edge_export.graph.builder import Array, WeightFile
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.precision.weight_precision import Precision
from mingle_edge_export.tower.graph_writer import GraphWriter
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime import bundle as fmt
from mingle_edge_runtime.golden import golden_outputs
from mingle_edge_runtime.prediction import read_heads
from mingle_edge_runtime.session import check_version

MINIMUM_ONNXRUNTIME = "1.20.0"  # the first with adapters
MINIMUM_FOR_NIBBLES = "1.23.0"  # the first whose GatherBlockQuantized takes two codes a byte
BACKBONE, GOLDEN, HEADS = "backbone.bin", "golden.npz", "heads"
STEM = frozenset({"patch_embedding"})  # stays in fp32: it reads pixels, and is a few percent of the work
EXACT = fmt.Fidelity(golden_cosine=0.9999, golden_difference=1e-3)
FEWER_BITS = fmt.Fidelity(golden_cosine=0.999, golden_difference=0.05)
"""Looser, as machines may differ by a code where rounding decides between two: by up to 0.024 where their integer products are
exact, and from 0.16 on where those saturate (docs/device.md)."""
MARGIN = 32 << 20  # bytes for everything but weights


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a merged model."""

    top_k: int = 1
    """experts per route unless a run says otherwise"""
    tasks: Sequence[str] | None = None
    """those to export, in this order; all where None"""
    fold: str | None = None
    """the only task to export, merged into the weights"""
    precision: Precision = "fp32"
    """of the backbone"""
    expert_precision: Precision | None = None
    """the backbone's where None"""
    router_precision: Precision | None = None
    """of the blocks that the router reads (image scope); the backbone's where None"""
    images: Path | None = None
    """a task file: its seeds calibrate int8, its labelled images tell what the precision costs"""
    cosine: float | None = None
    """see `Bounds`, as the next two; the precision's own where None"""
    route_agreement: float | None = None
    accuracy_drop: float | None = None

    @property
    def router(self) -> Precision:
        """The precision of the router's blocks."""
        return self.router_precision or self.precision

    @property
    def experts(self) -> Precision:
        """The precision of experts."""
        return self.expert_precision or self.precision

    def bounds(self) -> Bounds:
        """What the export must keep."""
        stored = [self.precision] if self.fold else [self.precision, self.experts, self.router]
        given = {name: getattr(self, name) for name in ("cosine", "route_agreement", "accuracy_drop")}
        return replace(default_bounds(*stored), **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how closely it computes what the merged model computes."""

    path: Path
    parity: Parity
    files: dict[str, int]
    """bytes by path in the bundle"""
    accuracy: Sequence[TaskAccuracy] = ()
    """of the tasks with labelled images"""
    exact_layers: Sequence[str] = ()
    """layers whose weights stayed in fp32"""


def export_bundle(
    merged_path: str | Path,
    bundle_path: str | Path,
    *,
    top_k: int = 1,
    tasks: Sequence[str] | None = None,
    fold: str | None = None,
    precision: Precision = "fp32",
    expert_precision: Precision | None = None,
    router_precision: Precision | None = None,
    images: Path | None = None,
    cosine: float | None = None,
    route_agreement: float | None = None,
    accuracy_drop: float | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Write the bundle of a merged model into a new folder and compare its graphs with the merged model in PyTorch.

    The options are those of `ExportOptions`. Raises `OptionError`, `OutputError`, `ParityError`; `MergedModelError` for a
    damaged merged model, `TaskFileError` and `ImageFolderError` for the images, and `ProviderError` for a missing or old ONNX
    Runtime. Whatever happens, the folder is there whole or not at all.
    """
    options = ExportOptions(
        top_k, tasks, fold, precision, expert_precision, router_precision, images, cosine, route_agreement, accuracy_drop
    )
    merged = MergedModel.open(merged_path)
    check_version(_minimum_onnxruntime(merged, options))
    merged = _selected(merged, options)
    bounds = options.bounds()
    target = Path(bundle_path)
    with bundle_folder(target) as folder:
        found = read_task_images(images, merged, progress) if images is not None else None
        export = _Export(folder, merged, options, bounds, progress)
        report = export.run(found)
        files = {name: (folder / name).stat().st_size for name in _files(folder)}
    return replace(report, path=target, files=files)


def _selected(merged: MergedModel, options: ExportOptions) -> MergedModel:
    if not merged.tasks:
        raise OptionError(f"{merged.path}: there are no tasks in it yet; merge one first")
    tasks = options.tasks
    if options.fold is not None:
        if tasks is not None:
            raise OptionError("fold: exports one task alone; leave out tasks")
        check_foldable(merged, options.fold)
        tasks = [options.fold]
    if options.fold is not None and options.expert_precision is not None:
        raise OptionError("expert_precision: a folded task has no expert beside the weights; leave it out")
    if options.router_precision is not None and (options.fold is not None or merged.scope == "layer"):
        raise OptionError("router_precision: only bundles of scope 'image' with all their tasks have a router; leave it out")
    if tasks is not None:
        if not tasks or len(set(tasks)) < len(tasks):
            raise OptionError(f"tasks must be different names, at least one, not {', '.join(tasks) or 'none'}")
        merged = merged.select(tasks)
    if not 1 <= options.top_k <= len(merged.tasks):
        raise OptionError(f"top_k is {options.top_k}, must be between 1 and the number of tasks, {len(merged.tasks)}")
    return merged


def _minimum_onnxruntime(merged: MergedModel, options: ExportOptions) -> str:
    return MINIMUM_FOR_NIBBLES if merged.scope == "layer" and options.experts == "int4" else MINIMUM_ONNXRUNTIME


class _Export:
    """One export into a temporary folder."""

    def __init__(self, folder: Path, merged: MergedModel, options: ExportOptions, bounds: Bounds, progress: Progress) -> None:
        self.folder = folder
        self.merged = merged
        self.options = options
        self.bounds = bounds
        self.progress = progress
        a = merged.architecture
        self.preprocess = fmt.Preprocess(a.image_size, a.mean, a.std)

    def run(self, images: TaskImages | None) -> ExportReport:
        """Fill the folder and check it."""
        self._check_space()
        calibration = None
        if images is not None and "int8" in (self.options.precision, self.options.experts):
            calibration = calibrate(self.merged, images.seeds, self.progress)
        reference = compute_reference(self.merged, self.preprocess, self.options.fold, self.options.top_k, self.progress)
        contents, index = self._fill_calibrated(reference, calibration)
        parity = check_parity(fmt.Bundle.open(self.folder), reference, contents.norms, self.bounds, self.progress)
        accuracy: Sequence[TaskAccuracy] = ()
        if images is not None and images.tests:
            accuracy = measure_accuracy(
                fmt.Bundle.open(self.folder), self.merged, images.tests, self.options.top_k, self.progress
            )
            self._check_accuracy(accuracy)
        fidelity = replace(index.fidelity, cosine=parity.cosine, route_agreement=parity.route_agreement)
        self._write_index(replace(index, fidelity=fidelity, files=index.files | self._own_golden(reference)))
        return ExportReport(self.folder, parity, {}, accuracy, index.exact_layers)

    def _check_space(self) -> None:
        backbone = self.merged.backbone()
        experts = 0 if self.options.fold else len(self.merged.tasks) * _size(self.merged.expert(self.merged.task_names[0]))
        check_space(self.folder, _size(backbone) + experts + MARGIN)

    def _fill_calibrated(self, reference: Reference, calibration: Calibration | None) -> tuple[Contents, fmt.BundleIndex]:
        """Write the bundle, with as many layers in fp32 as calibration images need to keep their labels, or as help most."""
        few_bits = {self.options.precision, self.options.router} & {"int8", "int4"}
        if calibration is None or self.options.precision != "int8":
            smoothing = Smoothing() if calibration is None else calibration.smoothing
            return self._fill(reference, smoothing, STEM if few_bits else frozenset())
        best, kept = -1.0, STEM
        for layers in calibration.exact_layers():
            self._clear()
            filled = self._fill(reference, calibration.smoothing, STEM | layers)
            bundle = fmt.Bundle.open(self.folder)
            agreement = label_agreement(bundle, self.merged, calibration.embeds, calibration.images)
            if agreement >= LEAST_AGREEMENT:
                return filled
            if agreement > best:
                best, kept = agreement, STEM | layers
        self._clear()
        return self._fill(reference, calibration.smoothing, kept)

    def _fill(self, reference: Reference, smoothing: Smoothing, exact: frozenset[str]) -> tuple[Contents, fmt.BundleIndex]:
        folder, merged, options = self.folder, self.merged, self.options
        backbone = smoothing.parameters(merged.backbone())
        self.progress("backbone", 0, 1)
        with (folder / BACKBONE).open("wb") as file:
            weights = WeightFile(file, BACKBONE)
            graphs = GraphWriter(
                merged.architecture,
                backbone,
                weights,
                precision=options.precision,
                expert_precision=options.experts,
                router_precision=options.router,
                exact=exact,
                smoothing=smoothing,
            )
            if options.fold is not None:
                contents = write_folded_scope(folder, merged, graphs)
            elif merged.scope == "image":
                contents = write_image_scope(folder, merged, graphs, self.progress)
            else:
                contents = write_layer_scope(folder, merged, graphs, options.top_k, self.progress)
        self.progress("backbone", 1, 1)
        (folder / HEADS).mkdir()
        for name in merged.task_names:
            np.save(folder / HEADS / f"{name}.npy", merged.head(name).astype(np.float32))
        _write_arrays(folder / GOLDEN, reference.golden())
        index = self._index(contents, exact)
        self._write_index(index)
        return contents, index

    def _own_golden(self, reference: Reference) -> dict[str, fmt.FileRecord]:
        """Replace PyTorch's golden outputs by the bundle's own where fewer bits tell them apart: devices must agree with it."""
        if self._lossless:
            return {}
        with EdgeModel.open(self.folder) as model:
            golden = partial(golden_outputs, model.bundle, model.scope, read_heads(model.bundle))
            chosen = np.arange(GOLDEN_IMAGES)
            if model.bundle.index.scope == "layer":  # in the others no embedding depends on a route
                chosen = steadiest(lambda pixels: golden(pixels)["embeds"], reference.pixels, GOLDEN_IMAGES)
            own = golden(reference.pixels[chosen])
        _write_arrays(self.folder / GOLDEN, {"images": reference.images[chosen], **own})
        return {GOLDEN: fmt.FileRecord.of(self.folder / GOLDEN)}

    @property
    def _lossless(self) -> bool:
        return {self.options.precision, self.options.experts, self.options.router} == {"fp32"}

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_accuracy(self, accuracy: Sequence[TaskAccuracy]) -> None:
        drop = accuracy_drop(accuracy)
        if not drop <= self.bounds.accuracy_drop:
            raise ParityError(
                f"the bundle's precision costs {drop:.2f} points of accuracy in the mean over {len(accuracy)} tasks, at most "
                f"{self.bounds.accuracy_drop:g} are allowed: no bundle was written; choose a higher precision or another bound"
            )

    def _write_index(self, index: fmt.BundleIndex) -> None:
        (self.folder / fmt.INDEX_NAME).write_text(json.dumps(index.to_json(), indent=1) + "\n")

    def _index(self, contents: Contents, exact: frozenset[str]) -> fmt.BundleIndex:
        a, merged, options = self.merged.architecture, self.merged, self.options
        return fmt.BundleIndex(
            format=fmt.FORMAT,
            format_version=fmt.FORMAT_VERSION,
            scope="folded" if options.fold else merged.scope,
            precision=options.precision,
            expert_precision=options.experts,
            exact_layers=tuple(sorted(exact)),
            fidelity=EXACT if self._lossless else FEWER_BITS,
            minimum_onnxruntime=_minimum_onnxruntime(merged, options),
            producer={"mingle-edge": mingle_edge.__version__, "onnx": onnx.__version__},
            source=fmt.Source(merged.backbone_sha256, {task.name: task.source_sha256 for task in merged.tasks}),
            architecture=fmt.Architecture(a.image_size, a.patch_size, a.width, a.layers, a.heads, a.output_dim),
            preprocess=self.preprocess,
            logit_scale=merged.logit_scale,
            top_k=options.top_k,
            tasks=tuple(
                fmt.Task(task.name, tuple(task.classes), f"{HEADS}/{task.name}.npy", expert.size, expert.rank, expert.path)
                for task, expert in zip(merged.tasks, contents.experts, strict=True)
            ),
            tower=contents.tower,
            dense=contents.dense,
            golden=GOLDEN,
            files={name: fmt.FileRecord.of(self.folder / name) for name in _files(self.folder) if name != fmt.INDEX_NAME},
            router=contents.router,
            defaults=contents.defaults,
            page_bank=contents.page_bank,
        )


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """An `.npz` file that cannot hold pickled objects and is the same whenever it is written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:  # dated 1980, not today
                np.lib.format.write_array(file, array, allow_pickle=False)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _size(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())
