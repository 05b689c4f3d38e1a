"""The merged model on disk: reading it, and adding one task so that a kill at any moment loses nothing.

The format is specified in docs/merged-model-format.md. Only numpy and safetensors are needed to read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.durable import flush
from mingle_edge.errors import MergedModelError
from mingle_edge.router import Discriminants, discriminants
from mingle_edge.router_depth import choose_depth, deepest
from mingle_edge.router_statistics import MOMENTS, RouterStatistics
from mingle_edge.settings import Settings

FORMAT = "mingle-edge merged model"
FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)  # 1 has a fixed router_blocks and no coordinates; 1 and 2 have two moments
INDEX = "mingle.json"
ROUTER, GATES, NULL_SPACE = "router.safetensors", "gates.safetensors", "null_space.safetensors"

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TaskRecord:
    """What the index says of one task."""

    name: str
    classes: list[str]
    templates: list[str]  # empty when the head came ready-made
    source: str  # as the task file names the checkpoint
    source_sha256: str
    seeds: int  # unlabeled images it was adapted on
    record: dict[str, Any] = field(default_factory=dict)  # seconds, losses, energy


@dataclass(frozen=True)
class TaskTensors:
    """Everything `commit_task` writes of one task; shapes as in docs/merged-model-format.md."""

    expert: Arrays
    head: NDArray[np.float32]
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
    def open(cls, path: str | Path) -> MergedModel:
        """Read the index of a merged model. Raises `MergedModelError` naming the file and the reason."""
        path = Path(path)
        index = path / INDEX
        try:
            record = json.loads(index.read_text())
        except FileNotFoundError:
            raise MergedModelError(
                f"{path}: not a merged model, there is no {INDEX} in it; give the folder that `mingle-edge merge -o` wrote"
            ) from None
        except (OSError, ValueError) as error:
            raise MergedModelError(f"{index}: cannot be read ({error}); merge again or restore the file") from error
        _check_format(index, record)
        try:
            return cls(
                path=path,
                architecture=VisionArchitecture.from_json(record["backbone"]["architecture"]),
                settings=Settings.from_mapping(record["settings"], f"{index}: settings"),
                tasks=tuple(TaskRecord(**task) for task in record["tasks"]),
                logit_scale=float(record["backbone"]["logit_scale"]),
                backbone_source=record["backbone"]["source"],
                backbone_sha256=record["backbone"]["sha256"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MergedModelError(f"{index}: damaged, {type(error).__name__}: {error}; restore the file") from error

    @property
    def scope(self) -> Literal["image", "layer"]:
        """`image`: one route for the whole network; `layer`: a route in every gated layer."""
        return self.settings.scope

    @property
    def task_names(self) -> list[str]:
        """Names in order of merging."""
        return [task.name for task in self.tasks]

    def task(self, name: str) -> TaskRecord:
        """The record of one task. Raises `MergedModelError` listing the tasks there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise MergedModelError(f"{self.path}: there is no task {name!r}; tasks are: {', '.join(self.task_names)}")

    def select(self, names: Sequence[str]) -> MergedModel:
        """A view with these tasks in this order; the state after task t is `select(task_names[:t])`."""
        return replace(self, tasks=tuple(self.task(name) for name in names))

    def backbone(self) -> Arrays:
        """The pretrained vision tower by internal name."""
        return self._read("backbone.safetensors")

    def expert(self, task: str) -> Arrays:
        """`<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and in the image scope the vectors' fine-tuned values."""
        return self._read(f"experts/{self.task(task).name}.safetensors")

    def head(self, task: str) -> NDArray[np.float32]:
        """Class embeddings `[classes, output_dim]`, rows of unit length."""
        return self._read(f"heads/{self.task(task).name}.safetensors")["embeddings"]

    def gates(self, task: str) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weight `[d_in]` and bias `[1]` of each gated layer; empty where no gates were learned."""
        if not self.settings.gated:
            return {}
        rows = self._read(GATES, prefix=f"{self.task(task).name}/")
        layers = [name.removesuffix("/weight") for name in rows if name.endswith("/weight")]
        return {layer: (rows[f"{layer}/weight"], rows[f"{layer}/bias"]) for layer in layers}

    def router_statistics(self, task: str) -> RouterStatistics:
        """What the image router keeps of a task, of the features of the largest depth it may be of."""
        rows = self._read(ROUTER, prefix=f"{self.task(task).name}/")
        return RouterStatistics(rows["mean"], rows["factor"], int(rows["count"][0]), rows.get("coordinates"))

    @cached_property
    def router_depth(self) -> int:
        """Image scope: the blocks of the plain backbone that the router of these tasks reads.

        Unless the setting fixes it, it is chosen from the statistics of these tasks and nothing else.
        """
        blocks = self.settings.router_blocks
        if blocks != "auto":
            return blocks
        return choose_depth([self.router_statistics(name) for name in self.task_names], self._features_per_depth)

    def router(self) -> Discriminants:
        """Image scope: the discriminants of these tasks at `router_depth`."""
        features = (self.router_depth + 1) * self._features_per_depth
        return discriminants([self.router_statistics(name).first(features) for name in self.task_names])

    @cached_property
    def router_moments(self) -> int:
        """Image scope: features of each channel at each depth, those of the first task for all."""
        if not self.tasks:
            return MOMENTS
        depths = deepest(self.settings.router_blocks, self.architecture.layers) + 1
        (features,) = _stored_shape(self.path / ROUTER, f"{self.tasks[0].name}/mean")
        return features // (depths * self.architecture.width)

    @property
    def _features_per_depth(self) -> int:
        return self.router_moments * self.architecture.width

    def null_space(self, task: str) -> Arrays:
        """Directions `[added, d]` that this task added to each layer's protected subspace."""
        return self._read(NULL_SPACE, prefix=f"{self.task(task).name}/")

    def _read(self, name: str, prefix: str = "") -> Arrays:
        return _read_tensors(self.path / name, prefix)


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
    """A merged model without tasks in a folder that is new or empty."""
    path.mkdir(parents=True, exist_ok=True)
    _save(path / "backbone.safetensors", backbone)
    model = MergedModel(path, architecture, settings, (), logit_scale, source, sha256)
    _write_index(model)
    return model


def commit_task(model: MergedModel, record: TaskRecord, tensors: TaskTensors) -> MergedModel:
    """Add one task; it exists from the moment the index is renamed, and nothing of an older task changes.

    `model` must hold all committed tasks, in order. Returns the model with the task in it.
    """
    _save(model.path / f"experts/{record.name}.safetensors", tensors.expert)
    _save(model.path / f"heads/{record.name}.safetensors", {"embeddings": tensors.head})
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
    grown = replace(model, tasks=(*model.tasks, record))
    _write_index(grown)
    return grown


def _append(model: MergedModel, name: str, task: str, rows: Arrays) -> None:
    """Write the rows of all committed tasks, unchanged, and those of `task`; leftovers of a killed merge go."""
    path = model.path / name
    kept: Arrays = {}
    if model.tasks:
        everything = _read_tensors(path, "")
        kept = {key: value for key, value in everything.items() if key.split("/")[0] in model.task_names}
    _save(path, kept | {f"{task}/{key}": value for key, value in rows.items()})


def _read_tensors(path: Path, prefix: str) -> Arrays:
    with _opened(path) as file:
        names = [name for name in sorted(file.keys()) if name.startswith(prefix)]
        found = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    if not found:
        raise MergedModelError(f"{path}: holds no tensors named {prefix}*; restore it or merge again")
    return found


def _stored_shape(path: Path, name: str) -> tuple[int, ...]:
    with _opened(path) as file:
        return tuple(file.get_slice(name).get_shape())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file of tensors; what goes wrong within the block is a `MergedModelError`."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise MergedModelError(f"{path}: missing from the merged model; restore it or merge again") from None
    except (SafetensorError, OSError) as error:
        raise MergedModelError(f"{path}: cannot be read ({error}); restore it or merge again") from error


def _save(path: Path, tensors: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary)
        _publish(temporary, path)
    except SafetensorError as error:  # what a full disk looks like from here
        raise MergedModelError(
            f"{path}: cannot be written ({error}); free some space and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_index(model: MergedModel) -> None:
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": {
            "architecture": model.architecture.to_json(),
            "source": model.backbone_source,
            "sha256": model.backbone_sha256,
            "logit_scale": model.logit_scale,
        },
        "settings": model.settings.to_json(),
        "tasks": [asdict(task) for task in model.tasks],
    }
    temporary = model.path / f".{INDEX}.tmp"
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    _publish(temporary, model.path / INDEX)


def _publish(temporary: Path, path: Path) -> None:
    """Flush a finished file to disk and give it its name, so that it is there whole or not at all."""
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)


def _check_format(index: Path, record: Any) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise MergedModelError(f"{index}: is not the index of a merged model (field format is not {FORMAT!r})")
    version = record.get("format_version")
    if version not in READABLE_VERSIONS:
        raise MergedModelError(
            f"{index}: format version {version}; this release reads {', '.join(map(str, READABLE_VERSIONS))}; "
            "use the release of mingle-edge that wrote it, or a newer one"
        )
