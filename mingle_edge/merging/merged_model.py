"""The merged model on disk: reading it, and adding one task so that a kill at any moment loses nothing.

The format is specified in docs/merged-model-format.md. Only numpy and safetensors are needed to read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import MergedModelError, NoMergedModelError
from mingle_edge.data.settings import Settings
from mingle_edge.files.atomic_files import replacing, why_not_written
from mingle_edge.files.new_folder import new_folder
from mingle_edge.files.partial_folder import abandoned
from mingle_edge.merging.merged_index import INDEX, Backbone, MergedIndex, read_index
from mingle_edge.merging.merged_index import TaskRecord as TaskRecord
from mingle_edge.merging.tensor_file import Arrays, check_shapes, check_tensors, find, length, read_shapes, read_tensors, save
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.cascade_fit import fit_cascade
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.outlook import Outlook, outlook
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts
from mingle_edge_runtime.bundle.head import LARGEST, Head

BACKBONE, EXPERTS, HEADS = "backbone.safetensors", "experts", "heads"
ROUTER, GATES, NULL_SPACE = "router.safetensors", "gates.safetensors", "null_space.safetensors"

_MOST_SEEDS = 1 << 24  # float32 counts no further


@dataclass(frozen=True)
class TaskTensors:
    """Everything `commit_task` writes of one task; shapes as in docs/merged-model-format.md."""

    expert: Arrays
    head: Arrays  # weight, and bias where there is one
    router: RouterStatistics | None = None
    gates: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)
    null_space: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class MergedModel:
    """A merged model folder, or a view of some of its tasks. Tensors are read when asked for, never kept."""

    path: Path
    architecture: VisionArchitecture
    settings: Settings
    tasks: tuple[TaskRecord, ...]
    logit_scale: float
    backbone_source: str
    backbone_sha256: str

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the index of a merged model. Raises `MergedModelError` naming the file and the reason."""
        path = Path(path)
        if find(path / INDEX) is None:
            raise NoMergedModelError(
                f"{path}: not a merged model, there is no {INDEX} in it; give the folder that `mingle-edge merge -o` wrote"
            )
        index = read_index(path / INDEX)
        backbone = index.backbone
        return cls(
            path, backbone.architecture, index.settings, index.tasks, backbone.logit_scale, backbone.source, backbone.sha256
        )

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all files in the folder."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def index(self) -> MergedIndex:
        """Return what `mingle.json` says of these tasks."""
        backbone = Backbone(self.architecture, self.backbone_source, self.backbone_sha256, self.logit_scale)
        return MergedIndex(backbone, self.settings, self.tasks)

    @property
    def scope(self) -> Literal["image", "layer"]:
        """Return `image` (one route for the whole network) or `layer` (a route in every gated layer)."""
        return self.settings.scope

    @property
    def task_names(self) -> list[str]:
        """Return names in order of merging."""
        return [task.name for task in self.tasks]

    def task(self, name: str) -> TaskRecord:
        """Return the record of one task. Raises `MergedModelError` listing the tasks there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise NoMergedModelError(f"{self.path}: there is no task {name!r}; tasks are: {', '.join(self.task_names)}")

    def select(self, names: Sequence[str]) -> Self:
        """Return a view with these tasks in this order; the state after task t is `select(task_names[:t])`."""
        return replace(self, tasks=tuple(self.task(name) for name in names))

    def backbone(self) -> Arrays:
        """Return the pretrained vision tower by internal name."""
        return self._read(BACKBONE, self.architecture.parameter_shapes())

    def expert(self, task: str) -> Arrays:
        """Return `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and in the image scope the fine-tuned values of vectors.

        In the image scope, layers and vectors that are the backbone's own are absent.
        """
        path = self._expert_path(task)
        tensors = read_tensors(path, "", empty=self.scope == "image")
        check_tensors(path, tensors, self._shapes_of_expert({name: array.shape for name, array in tensors.items()}))
        return tensors

    def expert_shapes(self, task: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what `expert` returns, and read no tensor."""
        path = self._expert_path(task)
        shapes = read_shapes(path)
        check_shapes(path, shapes, self._shapes_of_expert(shapes))
        return shapes

    def head(self, task: str) -> Head:
        """Return the linear layer from embeddings to the logits of a task's classes."""
        record = self.task(task)
        path, count = self.path / HEADS / f"{record.name}.safetensors", len(record.classes)
        tensors = read_tensors(path, "")
        shapes: dict[str, tuple[int, ...]] = {"weight": (count, self.architecture.output_dim)}
        check_tensors(path, tensors, shapes | ({"bias": (count,)} if "bias" in tensors else {}))
        if (largest := max(float(np.abs(values).max()) for values in tensors.values())) > LARGEST:
            raise MergedModelError(f"{path}: a value is {largest:.3g}, at most {LARGEST:g} may be; restore it or merge again")
        return Head(tensors["weight"], tensors.get("bias"), record.logit_scale)

    def gates(self, task: str) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return weight `[d_in]` and bias `[1]` of each gated layer (layer scope)."""
        inputs = {layer: self.architecture.linear_shape(layer)[1] for layer in self.settings.expert_layers(self.architecture)}
        shapes = {f"{layer}/weight": (d_in,) for layer, d_in in inputs.items()} | {f"{layer}/bias": (1,) for layer in inputs}
        rows = self._read(GATES, shapes, prefix=f"{self.task(task).name}/")
        return {layer: (rows[f"{layer}/weight"], rows[f"{layer}/bias"]) for layer in inputs}

    def router_statistics(self, task: str) -> RouterStatistics:
        """Return what the image router keeps of a task, of the features of the largest depth it may be of."""
        tensors = read_tensors(self.path / ROUTER, f"{self.task(task).name}/")
        features, rows = self.layout.features, length(tensors, "factor")
        shapes: dict[str, tuple[int, ...]] = {"mean": (features,), "factor": (rows, features), "count": (1,)}
        if "coordinates" in tensors:
            shapes["coordinates"] = (length(tensors, "coordinates"), length(tensors, "coordinates", 1), rows)
        check_tensors(self.path / ROUTER, tensors, shapes)
        count = float(tensors["count"][0])
        if not 1 <= count < _MOST_SEEDS:
            raise MergedModelError(
                f"{self.path / ROUTER}: {task}/count is {count}, which counts no seeds; restore it or merge again"
            )
        return RouterStatistics(tensors["mean"], tensors["factor"], int(count), tensors.get("coordinates"))

    @cached_property
    def layout(self) -> Layout:
        """Return, in the image scope, where the router's statistics have the features of each stage."""
        return Layout.of(self.architecture, deepest(self.settings.router_blocks, self.architecture.layers))

    @cached_property
    def router_depth(self) -> int | None:
        """Return, in the image scope, the blocks of the plain backbone that the router of these tasks reads; None: none.

        Unless the setting fixes it, it is chosen from the statistics of these tasks and nothing else.
        """
        blocks = self.settings.router_blocks
        if blocks != "auto":
            return blocks
        statistics = [self.router_statistics(name) for name in self.task_names]
        with self._computing():
            return choose_depth(statistics, self.layout)

    def cascade(self) -> Cascade:
        """Return, in the image scope, the router of these tasks: its stages, and what wrong experts cost."""
        statistics = [self.router_statistics(name) for name in self.task_names]
        seen = [WrongExperts.of_record(task.record) for task in self.tasks]
        with self._computing():
            return fit_cascade(
                statistics,
                self.layout,
                self.router_depth,
                self.task_names,
                seen,
                [task.group for task in self.tasks],
                self.settings.refused,
            )

    def outlook(self) -> Outlook | None:
        """Return, in the image scope, what seeds that its router has not seen say of it; None where none can be spared."""
        cascade = self.cascade()
        columns = self.layout.of_stages(cascade)[-1]
        statistics = [self.router_statistics(name).columns(columns) for name in self.task_names]
        with self._computing():
            return outlook(statistics, self.task_names, cascade.losses, self.settings.refused)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute with stored statistics; where they are too large for it, the error is a `MergedModelError`."""
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                yield
        except (np.linalg.LinAlgError, ArithmeticError) as error:
            raise MergedModelError(
                f"{self.path / ROUTER}: no router can be computed from these statistics ({error}); restore it or merge again"
            ) from error

    def null_space(self, task: str) -> Arrays:
        """Return directions `[added, d]` that this task added to each layer's protected subspace."""
        tensors = read_tensors(self.path / NULL_SPACE, f"{self.task(task).name}/")
        biased = self.settings.subspace_inputs == "mean"  # the bias then counts as a weight
        inputs = {
            layer: self.architecture.linear_shape(layer)[1] + biased for layer in self.settings.expert_layers(self.architecture)
        }
        shapes = {layer: (length(tensors, layer), d) for layer, d in inputs.items()}
        check_tensors(self.path / NULL_SPACE, tensors, shapes)
        return tensors

    def _shapes_of_expert(self, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes that the tensors of an expert must have, of the layers, ranks and vectors that it has."""
        layers = {key[:-2] for key in found if key.endswith((".A", ".B"))} & set(self.architecture.linear_layers())
        vectors = self.architecture.vector_shapes() if self.scope == "image" else {}
        shapes = {vector: shape for vector, shape in vectors.items() if vector in found}
        for layer in layers:
            d_out, d_in = self.architecture.linear_shape(layer)
            rank, *_ = *found.get(f"{layer}.A", ()), 0
            shapes |= {f"{layer}.A": (rank, d_in), f"{layer}.B": (d_out, rank)}
        return shapes

    def _expert_path(self, task: str) -> Path:
        return self.path / EXPERTS / f"{self.task(task).name}.safetensors"

    def _read(self, name: str, shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> Arrays:
        tensors = read_tensors(self.path / name, prefix)
        check_tensors(self.path / name, tensors, shapes)
        return tensors


def create(
    path: Path,
    *,
    backbone: Arrays,
    architecture: VisionArchitecture,
    settings: Settings,
    logit_scale: float,
    source: str,
    sha256: str,
) -> MergedModel:
    """Write a merged model without tasks into a folder that is new or empty. Raises `OSError` where it is not."""
    model = MergedModel(path, architecture, settings, (), logit_scale, source, sha256)
    with new_folder(path, INDEX) as folder:
        save(folder / BACKBONE, backbone)
        _write_index(replace(model, path=folder))
    return model


def commit_task(model: MergedModel, record: TaskRecord, tensors: TaskTensors) -> MergedModel:
    """Add one task; it exists from the moment the index is renamed, and nothing of an older task changes.

    `model` must hold all committed tasks, in order. Returns the model with the task in it. Raises `MergedModelError` where the
    disk refuses a file, or the record holds a figure that is not finite; the model is then what it was.
    """
    grown = replace(model, tasks=(*model.tasks, record))
    grown.index().to_text()
    save(model.path / EXPERTS / f"{record.name}.safetensors", tensors.expert)
    save(model.path / HEADS / f"{record.name}.safetensors", tensors.head)
    if tensors.router is not None:
        rows = {
            "mean": tensors.router.mean,
            "factor": tensors.router.factor,
            "count": np.array([tensors.router.count], dtype=np.float32),
        }
        if tensors.router.coordinates is not None:
            rows["coordinates"] = tensors.router.coordinates
        _append(model, ROUTER, record.name, rows)
    if tensors.gates:
        gates = {f"{layer}/weight": weight for layer, (weight, _) in tensors.gates.items()}
        _append(model, GATES, record.name, gates | {f"{layer}/bias": b for layer, (_, b) in tensors.gates.items()})
    if tensors.null_space:
        _append(model, NULL_SPACE, record.name, tensors.null_space)
    _write_index(grown)
    return grown


def clear_remains(path: Path) -> None:
    """Remove what killed merges left unfinished in a merged model's folder. Whoever calls this holds its lock."""
    for folder in (path, path / EXPERTS, path / HEADS):
        for _ in abandoned(folder):
            pass


def _append(model: MergedModel, name: str, task: str, rows: Arrays) -> None:
    """Write the rows of all committed tasks, unchanged, and those of `task`; leftovers of a killed merge go."""
    path = model.path / name
    kept: Arrays = {}
    if model.tasks:
        everything = read_tensors(path, "")
        kept = {key: value for key, value in everything.items() if key.split("/")[0] in model.task_names}
    save(path, kept | {f"{task}/{key}": value for key, value in rows.items()})


def _write_index(model: MergedModel) -> None:
    text, path = model.index().to_text(), model.path / INDEX
    try:
        with replacing(path) as written:
            written.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MergedModelError(f"{path}: {why_not_written(error)}") from error
