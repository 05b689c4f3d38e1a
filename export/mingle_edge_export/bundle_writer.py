"""A merged model to a bundle: the whole export."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import mingle_edge
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress, silent
from mingle_edge_export.bundle_graphs import GraphWriter
from mingle_edge_export.contents import Contents
from mingle_edge_export.errors import OptionError
from mingle_edge_export.graph import Array, WeightFile
from mingle_edge_export.image_scope import write_image_scope
from mingle_edge_export.layer_scope import write_layer_scope
from mingle_edge_export.output_folder import check_space, new_folder
from mingle_edge_export.parity import Parity, check_parity
from mingle_edge_export.reference import compute_reference
from mingle_edge_runtime import bundle as fmt
from mingle_edge_runtime.session import check_version

MINIMUM_ONNXRUNTIME = "1.20.0"  # the first with adapters
BACKBONE, DENSE, GOLDEN, HEADS = "backbone.bin", "dense.onnx", "golden.npz", "heads"
MARGIN = 32 << 20  # bytes for everything but weights


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how closely it computes what the merged model computes."""

    path: Path
    parity: Parity
    files: dict[str, int]
    """bytes by path in the bundle"""


def export_bundle(
    merged_path: str | Path,
    bundle_path: str | Path,
    *,
    top_k: int = 1,
    tasks: Sequence[str] | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Write the bundle of a merged model into a new folder and compare its graphs with the merged model in PyTorch.

    top_k: experts per route unless a run says otherwise. tasks: those to export, in this order; all by default.

    Raises `OptionError`, `OutputError`, `ParityError`; `MergedModelError` for a damaged merged model, and `ProviderError` for a
    missing or old ONNX Runtime. Whatever happens, the folder is there whole or not at all.
    """
    check_version(MINIMUM_ONNXRUNTIME)
    merged = _selected(MergedModel.open(merged_path), tasks)
    if not 1 <= top_k <= len(merged.tasks):
        raise OptionError(f"top_k is {top_k}, must be between 1 and the number of tasks, {len(merged.tasks)}")
    target = Path(bundle_path)
    with new_folder(target) as folder:
        parity = _write(folder, merged, top_k, progress)
        files = {name: (folder / name).stat().st_size for name in _files(folder)}
    return ExportReport(target, parity, files)


def _selected(merged: MergedModel, tasks: Sequence[str] | None) -> MergedModel:
    if not merged.tasks:
        raise OptionError(f"{merged.path}: there are no tasks in it yet; merge one first")
    if tasks is None:
        return merged
    if not tasks or len(set(tasks)) < len(tasks):
        raise OptionError(f"tasks must be different names, at least one, not {', '.join(tasks) or 'none'}")
    return merged.select(tasks)


def _write(folder: Path, merged: MergedModel, top_k: int, progress: Progress) -> Parity:
    """Fill the folder and check it."""
    backbone = merged.backbone()
    experts = len(merged.tasks) * _size(merged.expert(merged.task_names[0]))
    check_space(folder, _size(backbone) + experts + MARGIN)
    progress("backbone", 0, 1)
    with (folder / BACKBONE).open("wb") as file:
        graphs = GraphWriter(merged.architecture, backbone, WeightFile(file, BACKBONE))
        graphs.dense(folder / DENSE)
        progress("backbone", 1, 1)
        if merged.scope == "image":
            contents = write_image_scope(folder, merged, graphs, progress)
        else:
            contents = write_layer_scope(folder, merged, graphs, top_k, progress)
    (folder / HEADS).mkdir()
    for name in merged.task_names:
        np.save(folder / HEADS / f"{name}.npy", merged.head(name).astype(np.float32))
    a = merged.architecture
    preprocess = fmt.Preprocess(a.image_size, a.mean, a.std)
    reference = compute_reference(merged, preprocess, progress)
    _write_arrays(folder / GOLDEN, reference.golden())
    index = _index(folder, merged, top_k, preprocess, contents)
    (folder / fmt.INDEX_NAME).write_text(json.dumps(index.to_json(), indent=1) + "\n")
    return check_parity(fmt.Bundle.open(folder), reference, contents.norms, progress)


def _index(folder: Path, merged: MergedModel, top_k: int, preprocess: fmt.Preprocess, contents: Contents) -> fmt.BundleIndex:
    a = merged.architecture
    return fmt.BundleIndex(
        format=fmt.FORMAT,
        format_version=fmt.FORMAT_VERSION,
        scope=merged.scope,
        precision="fp32",
        minimum_onnxruntime=MINIMUM_ONNXRUNTIME,
        producer={"mingle-edge": mingle_edge.__version__, "onnx": onnx.__version__},
        source=fmt.Source(merged.backbone_sha256, {task.name: task.source_sha256 for task in merged.tasks}),
        architecture=fmt.Architecture(a.image_size, a.patch_size, a.width, a.layers, a.heads, a.output_dim),
        preprocess=preprocess,
        logit_scale=merged.logit_scale,
        top_k=top_k,
        learned_gates=contents.learned_gates,
        tasks=tuple(
            fmt.Task(task.name, tuple(task.classes), f"{HEADS}/{task.name}.npy", expert.size, expert.rank, expert.path)
            for task, expert in zip(merged.tasks, contents.experts, strict=True)
        ),
        tower=contents.tower,
        dense=DENSE,
        golden=GOLDEN,
        files={name: fmt.FileRecord.of(folder / name) for name in _files(folder)},
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
