"""Fuzz targets of the workstation: merged models, task files, parquet, checkpoints, pictures. Needs torch."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_cases import Target, WrongAnswerError, first_refusal
from fuzz_corpus import CLASSES
from fuzz_runtime import SPEC, Pictures
from hub_parquet import IMAGE, encoded
from mutations import json_text

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.cli.inspect import describe_merged_model
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import MingleError
from mingle_edge.data.image_cache import cache_folder
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.images import load_images
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import TASK_NAME, read_task_file
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import export_bundle
from mingle_edge_export.errors import ExportError
from mingle_edge_runtime import EdgeError, EdgeModel
from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.images.preprocess import preprocess


class MergedModels(Target):
    """Merged models, of which one file is changed, opened, described and read whole."""

    name = "merged model"
    share = 10
    folder = "merged"
    refusals = (MingleError,)

    def choose(self, random: Random) -> str:
        index = random.random() < 0.5
        name = random.choice([name for name in self.names if name.endswith("mingle.json") == index])
        self._path = self.root / name.split("/")[0]
        return name

    def answer(self) -> str:
        model = MergedModel.open(self._path)
        if not all(TASK_NAME.fullmatch(name) for name in model.task_names):
            raise WrongAnswerError(f"tasks are called {model.task_names}")
        first_refusal(self.refusals, self._uses(model))
        return "right, consistent"

    def _uses(self, model: MergedModel) -> Iterator[Callable[[], None]]:
        yield partial(describe_merged_model, model)
        yield partial(_check_arrays, model.backbone)
        for task in model.task_names:
            yield partial(_check_arrays, partial(model.expert, task))
            yield partial(_check_arrays, lambda task=task: _head_arrays(model.head(task)))
            yield partial(model.gates, task)
        if model.scope == "image":
            yield from (partial(model.router_statistics, task) for task in model.task_names)
            yield partial(getattr, model, "router_depth")
            yield model.cascade


class Exports(MergedModels):
    """Bundles exported from merged models."""

    name = "export"
    share = 0.2
    refusals = (MingleError, ExportError, EdgeError)

    def answer(self) -> str:
        bundle = self.root.parent / "bundle"
        try:
            export_bundle(self._path, bundle)
            with EdgeModel.open(bundle, threads=1, verify=True):
                return "right, consistent"
        finally:
            shutil.rmtree(bundle, ignore_errors=True)


class TaskFiles(Target):
    """Task files and the settings in them."""

    name = "task file"
    share = 8
    folder = "tasks"
    refusals = (MingleError,)

    def choose(self, random: Random) -> str:
        return "classes.txt" if random.random() < 0.1 else "TASKS.toml"

    def answer(self) -> str:
        task_file = read_task_file(self.root / "TASKS.toml")
        settings = Settings.from_mapping(task_file.settings)
        if Settings.from_mapping(settings.to_json()) != settings:
            raise WrongAnswerError(f"{settings} are not what they are written as")
        for task in task_file.tasks:
            if not TASK_NAME.fullmatch(task.name) or len(set(task.classes)) != len(task.classes):
                raise WrongAnswerError(f"task {task}")
        return "right, consistent"


class Parquet(Target):
    """Images and labels in parquet files."""

    name = "parquet"
    share = 6
    folder = "parquet"
    refusals = (MingleError,)

    def change(self, random: Random) -> str:
        if random.random() < 0.6:
            return super().change(random)
        self.changed = self.choose(random)
        self.write(self.changed, _odd_table(random))
        return f"{self.changed} of other types"

    def answer(self) -> str:
        return _labeled(ImageSource(self.changed), self.root)


class Tars(Target):
    """Images and labels in tar files."""

    name = "webdataset"
    share = 4
    folder = "tars"
    refusals = (MingleError,)

    def answer(self) -> str:
        return _labeled(ImageSource(self.changed), self.root)


class Tables(Target):
    """Tables of images and labels, and data sets that have one."""

    name = "table"
    share = 3
    folder = "tables"
    refusals = (MingleError,)

    def choose(self, random: Random) -> str:
        return random.choice([name for name in self.names if not name.endswith(".png")])

    def answer(self) -> str:
        files = self.changed if self.changed.endswith(".csv") else "."
        return _labeled(ImageSource(files, usual_split="test"), self.root)


class Checkpoints(Target):
    """Checkpoints in every format, opened, compared with the backbone and read whole."""

    name = "checkpoint"
    share = 8
    folder = "checkpoints"
    refusals = (MingleError,)

    def __init__(self, corpus: Path, work: Path) -> None:
        super().__init__(corpus, work)
        self._architecture = read_architecture("model.json", self.root)

    def answer(self) -> str:
        base, name = self.root, self.changed.split("/")[0]
        if name.endswith(".json"):
            architecture = read_architecture(name, base)
            return "right, equal" if architecture == self._architecture else "right, consistent"
        checkpoint = open_checkpoint(name, base=base, architecture=self._architecture)
        check_checkpoint(checkpoint, self._architecture, backbone=True)
        shapes = self._architecture.parameter_shapes()
        for parameter, tensor in checkpoint.tensors():
            if tuple(tensor.shape) != shapes[parameter] or not tensor.isfinite().all():
                raise WrongAnswerError(f"{parameter} is {tuple(tensor.shape)}, or not finite")
        return "right, consistent"


class WorkstationPictures(Pictures):
    """Image files, as the workstation decodes them: it and the runtime must take the same, and see the same."""

    name = "pictures, workstation"
    share = 6
    refusals = (MingleError,)
    architecture = VisionArchitecture(SPEC, 8, 8, 1, 1, 8, 8, "gelu")

    def answer(self) -> str:
        path = self.root / self.changed
        theirs, refusal = None, None
        try:
            theirs = preprocess(path, SPEC)
        except EdgeError as error:
            refusal = error
        try:
            ours = load_images([path], self.architecture).numpy()
        except MingleError as error:
            if theirs is not None:
                raise WrongAnswerError(f"the runtime takes what the workstation refuses: {error}") from error
            raise
        if theirs is None:
            raise WrongAnswerError(f"the workstation takes what the runtime refuses: {refusal}")
        if not np.array_equal(ours, theirs):
            raise WrongAnswerError(f"the runtime's pixels differ by {np.abs(ours - theirs).max()}")
        return "right, equal"


def _labeled(source: ImageSource, root: Path) -> str:
    images = read_labeled(source, root, CLASSES)
    if not all(label in range(len(CLASSES)) for label in images.labels) or len(images.labels) != len(images.paths):
        raise WrongAnswerError(f"labels are {images.labels}")
    places = (root.parent.resolve(), cache_folder().resolve())
    if not all(path.stat().st_size and any(map(path.resolve().is_relative_to, places)) for path in images.paths):
        raise WrongAnswerError(f"images are {images.paths}")
    return "right, consistent"


def _odd_table(random: Random) -> bytes:
    """A whole parquet file whose columns and metadata are not those of images with labels, or not quite."""
    content = encoded(0)
    columns = {
        "image": (
            pa.array([{"bytes": content, "path": None}] * 3, IMAGE),
            pa.array([{"bytes": content}, {"bytes": None, "path": "/etc/passwd"}, None], IMAGE),
            pa.array([content] * 3),
            pa.array([{"bytes": "text"}] * 3),
            pa.array([{"bytes": b"", "path": "../secret"}] * 3, IMAGE),
            pa.array([[content]] * 3),
            pa.array([None] * 3),
        ),
        "label": (
            *(pa.array(values) for values in ([0, 1, 2], [0.0, 1.0, 2.0], [0.5, float("nan"), 1e300], [[0], [1], []])),
            *(pa.array(values) for values in (["sea", "lake", "river"], ["sea", None, "\x1b[2J"], [True, False, True])),
            *(pa.array(values) for values in ([-1, 2**62, 0], [None] * 3, [{"a": 1}] * 3, [b"sea", b"\xff", b""])),
            pa.array(["sea", "lake", "sea"]).dictionary_encode(),
            pa.array([0, 2**64 - 1, 1], pa.uint64()),
            pa.array([1, 2, 3], pa.timestamp("us")),
        ),
        random.choice(("label", "cls", "", "image.bytes", "a\0")): (pa.array([1, 2, 3]),),
    }
    table = pa.table({name: random.choice(choices) for name, choices in columns.items() if random.random() < 0.85})
    described = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}}}
    if random.random() < 0.7:
        metadata = json.dumps(described).encode()
        changed = metadata if random.random() < 0.4 else json_text(metadata, random)
        table = table.replace_schema_metadata({b"huggingface": changed})
    file = io.BytesIO()
    pq.write_table(table.slice(0, random.choice((0, 1, 3, 3, 3))), file)
    return file.getvalue()


def _head_arrays(head: Head) -> dict[str, Any]:
    return {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})


def _check_arrays(read: Callable[[], Mapping[str, Any]]) -> None:
    for name, array in read().items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise WrongAnswerError(f"{name} is {array!r:.50}")


TARGETS: tuple[type[Target], ...] = (MergedModels, Exports, TaskFiles, Parquet, Tars, Tables, Checkpoints, WorkstationPictures)
