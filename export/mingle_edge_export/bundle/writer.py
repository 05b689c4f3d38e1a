"""The files of a bundle, each written once: what is the same in every scope."""

from __future__ import annotations

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

import mingle_edge
from mingle_edge.core.progress import Progress
from mingle_edge.merging.merged_model import MergedModel, TaskRecord
from mingle_edge_export.expert_choice import ExpertChoice
from mingle_edge_export.graph.builder import Array, WeightFile
from mingle_edge_export.options import ExportOptions
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_export.report import Parity
from mingle_edge_export.tower.vision_tower import Backbone, Tower
from mingle_edge_runtime import Bundle
from mingle_edge_runtime.bundle import index as fmt
from mingle_edge_runtime.bundle.index import Precision
from mingle_edge_runtime.bundle.rules import check_rules
from mingle_edge_runtime.ort.session import check_version

TOWER, DENSE, BACKBONE, GOLDEN, HEADS = "tower.onnx", "dense.onnx", "backbone.bin", "golden.npz", "heads"
BIASES, REQUIRED_INPUTS = "biases", "tower_required_inputs.onnx"
TRIAL, TRIAL_WEIGHTS = "trial.onnx", "trial.bin"
LOSSLESS = fmt.Fidelity(golden_cosine=0.9999, golden_difference=1e-3)
FEWER_BITS = fmt.Fidelity(golden_cosine=0.999, golden_difference=0.05)
"""Looser, as machines may differ by a code where rounding decides between two: by up to 0.024 where their integer products are
exact, and from 0.16 on where those saturate (docs/device.md)."""


class StoredExpert(NamedTuple):
    """What the index says of one task's expert."""

    size: int  # bytes
    rank: int  # largest among the layers
    path: str | None = None  # of its own file in the bundle


class BundleWriter(ABC):
    """Writes a bundle's folder: experts, then graphs, then, once these were checked, golden outputs and index."""

    dense = DENSE
    """path of the tower without experts"""

    def __init__(self, folder: Path, merged: MergedModel, options: ExportOptions, choices: Mapping[str, ExpertChoice]) -> None:
        """Begin in an empty folder. Raises `ProviderError` where the ONNX Runtime installed here does not run such a bundle.

        choices: task -> how its expert is exported; `merged` has experts of these ranks.
        """
        self.folder = folder
        self.merged = merged
        self.options = options
        self.choices = choices
        check_version(self.minimum_onnxruntime)
        self.parameters: dict[str, Array] = {}
        """of the plain tower that the graphs store, by internal name"""
        self.experts: dict[str, StoredExpert] = {}
        self.router: fmt.Router | None = None
        self.defaults: fmt.Defaults | None = None
        self.page_bank: fmt.PageBank | None = None
        self.required_inputs: str | None = None
        self.norms: Array | None = None
        """layer scope: `||B_t A_t||_F` `[layers, T]`"""
        self._records: dict[str, fmt.FileRecord] = {}

    @property
    def expert_precision(self) -> Precision:
        """Return the precision of the first expert. In the image scope the tower of int8 is that of int4, too."""
        return next(iter(self.choices.values())).precision

    @property
    def minimum_onnxruntime(self) -> str:
        """Return the oldest version that runs the bundle."""
        return "1.20.0"  # the first with adapters

    @abstractmethod
    def write_experts(self, smoothing: Smoothing, progress: Progress) -> None:
        """Smooth the backbone and all experts, and write these."""

    @abstractmethod
    def add_graphs(self, backbone: Backbone) -> None:
        """Write all graphs and, with them, the weights that only they read."""

    @abstractmethod
    def tower(self, backbone: Backbone) -> Tower:
        """Build the tower with its experts; all of its own weights go to the backbone's file."""

    def note_defaults(self, backbone: Backbone) -> None:  # noqa: B027  # in two scopes of three there are none
        """Note, of a tower that was written, where what experts change of the backbone lies."""

    def write_tower(self, tower: Tower) -> None:
        """Write a tower with optional inputs, and once more with all of them required, as JavaScript must feed them."""
        tower.write(self.folder / TOWER)
        tower.graph.require_inputs()
        tower.graph.save(self.folder / REQUIRED_INPUTS)
        self.required_inputs = REQUIRED_INPUTS

    def write_graphs(self, exact: frozenset[str], progress: Progress) -> Bundle:
        """Write heads and graphs, with the weights of these layers in fp32, and open the bundle, which has no index yet."""
        progress("backbone", 0, 1)
        with (self.folder / BACKBONE).open("wb") as file:
            weights = WeightFile(file, BACKBONE)
            backbone = Backbone(self.merged.architecture, self.parameters, weights, self.options.precision, exact)
            self.add_graphs(backbone)
            self.note_defaults(backbone)
        for task in self.merged.task_names:
            self._write_head(task)
        progress("backbone", 1, 1)
        return self._open(exact, TOWER)

    @contextmanager
    def trial(self, exact: frozenset[str]) -> Iterator[Bundle]:
        """Yield, for the time of the block, a bundle of the experts and of a tower with the weights of these layers in fp32."""
        with (self.folder / TRIAL_WEIGHTS).open("wb") as file:
            weights = WeightFile(file, TRIAL_WEIGHTS)
            backbone = Backbone(self.merged.architecture, self.parameters, weights, self.options.precision, exact)
            self.tower(backbone).write(self.folder / TRIAL)
            self.note_defaults(backbone)
        yield self._open(exact, TRIAL)
        for name in (TRIAL, TRIAL_WEIGHTS):
            (self.folder / name).unlink()
            del self._records[name]

    def publish(self, bundle: Bundle, golden: Mapping[str, NDArray[Any]], parity: Parity) -> dict[str, int]:
        """Write golden.npz, then the index with what was measured, and return bytes by path."""
        with zipfile.ZipFile(self.folder / GOLDEN, "w") as archive:
            for name, array in golden.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:  # dated 1980, and so the same whenever written
                    np.lib.format.write_array(file, array, allow_pickle=False)
        fidelity = replace(bundle.index.fidelity, cosine=parity.cosine, route_agreement=parity.route_agreement)
        records = bundle.index.files | {GOLDEN: fmt.FileRecord.of(self.folder / GOLDEN)}
        index = replace(bundle.index, fidelity=fidelity, files=dict(sorted(records.items())))
        check_rules(index)
        text = json.dumps(index.to_json(), indent=1) + "\n"
        (self.folder / fmt.INDEX_NAME).write_text(text)
        return {name: file.size for name, file in index.files.items()} | {fmt.INDEX_NAME: len(text.encode())}

    def _write_head(self, task: str) -> None:
        head = self.merged.head(task)
        for folder, array in ((HEADS, head.weight), (BIASES, head.bias)):
            if array is not None:
                (self.folder / folder).mkdir(exist_ok=True)
                np.save(self.folder / folder / f"{task}.npy", array)

    def _task(self, task: TaskRecord) -> fmt.Task:
        expert, choice, bias = self.experts[task.name], self.choices[task.name], f"{BIASES}/{task.name}.npy"
        return fmt.Task(
            name=task.name,
            labels=tuple(task.classes),
            head=f"{HEADS}/{task.name}.npy",
            logit_scale=task.logit_scale,
            expert_bytes=expert.size,
            rank=expert.rank,
            precision=choice.precision,
            expert=expert.path,
            bias=bias if bias in self._records else None,
            points_lost=None if choice.form is None else choice.form.points_lost,
            agreement=None if choice.form is None else choice.form.agreement,
            smaller=choice.smaller,
            larger=choice.larger,
        )

    def _open(self, exact: frozenset[str], tower: str) -> Bundle:
        a, merged, options = self.merged.architecture, self.merged, self.options
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in self._records:  # each is hashed once
                self._records[name] = fmt.FileRecord.of(path)
        index = fmt.BundleIndex(
            format=fmt.FORMAT,
            format_version=fmt.FORMAT_VERSION,
            scope="folded" if options.fold else merged.scope,
            precision=options.precision,
            exact_layers=tuple(sorted(exact)),
            fidelity=LOSSLESS if options.lossless(choice.precision for choice in self.choices.values()) else FEWER_BITS,
            minimum_onnxruntime=self.minimum_onnxruntime,
            producer={"mingle-edge": mingle_edge.__version__, "onnx": onnx.__version__},
            source=fmt.Source(merged.backbone_sha256, {task.name: task.source_sha256 for task in merged.tasks}),
            architecture=fmt.Architecture(a.image_size, a.patch_size, a.width, a.layers, a.heads, a.output_dim, a.normalized),
            preprocess=a.preprocess,
            logit_scale=merged.logit_scale,
            top_k=options.top_k,
            tasks=tuple(self._task(task) for task in merged.tasks),
            tower=tower,
            dense=self.dense,
            golden=GOLDEN,
            files=dict(self._records),
            router=self.router,
            defaults=self.defaults,
            page_bank=self.page_bank,
            tower_required_inputs=self.required_inputs,
        )
        return Bundle.unpublished(self.folder, index)
