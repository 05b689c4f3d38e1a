"""Fuzz targets of the workstation: merged models, task files, parquet, checkpoints, pictures. Needs torch."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import mutations
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_cases import Inputs, Target, WrongAnswerError, first_refusal
from fuzz_corpus import CLASSES
from fuzz_runtime import SPEC, change_picture
from hub_parquet import encoded

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.cli.inspect import describe_merged_model
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import MingleError
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.images import load_images
from mingle_edge.data.parquet_images import ParquetImages
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import TASK_NAME, read_task_file
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import export_bundle
from mingle_edge_export.errors import ExportError
from mingle_edge_runtime import EdgeError, EdgeModel
from mingle_edge_runtime.images.preprocess import preprocess


class _Files(Target):
    """Targets with one folder of inputs."""

    refusals = (MingleError,)
    folder: str

    def __init__(self, corpus: Path, work: Path) -> None:
        self._inputs = Inputs(corpus / self.folder, work / self.folder)

    def restore(self) -> None:
        self._inputs.restore()

    def _change(self, name: str, mutator: mutations.Mutator, random: Random) -> str:
        if random.random() < 0.02:
            return f"{name} {self._inputs.become(name, random)}"
        mutator = mutator if random.random() < 0.85 else mutations.any_bytes
        self._inputs.write(name, mutator(self._inputs.content[name], random))
        return name


class _Merged(_Files):
    """A merged model, of which one file is changed."""

    def change(self, random: Random) -> str:
        index = random.random() < 0.5
        names = [name for name in self._inputs.names if name.endswith("mingle.json") == index]
        name = random.choice(names)
        self._path = self._inputs.root / name.split("/")[0]
        if not index and random.random() < 0.1:
            other = random.choice(names)
            self._inputs.write(name, self._inputs.content[other])
            return f"{name} replaced by {other}"
        return self._change(name, mutations.json_text if index else mutations.safetensors, random)


class MergedModels(_Merged):
    """Merged models, opened, described and read whole."""

    name = "merged model"
    share = 10
    folder = "merged"

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
            yield partial(_check_arrays, lambda task=task: {"head": model.head(task)})
            yield partial(model.gates, task)
        if model.scope == "image":
            yield from (partial(model.router_statistics, task) for task in model.task_names)
            yield partial(getattr, model, "router_depth")
            yield model.router


class Exports(_Merged):
    """Bundles exported from merged models."""

    name = "export"
    share = 0.2
    folder = "merged"
    refusals = (MingleError, ExportError, EdgeError)

    def answer(self) -> str:
        bundle = self._inputs.root.parent / "bundle"
        try:
            export_bundle(self._path, bundle)
            with EdgeModel.open(bundle, threads=1, verify=True):
                return "right, consistent"
        finally:
            if bundle.exists():
                for path in sorted(bundle.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                bundle.rmdir()


class TaskFiles(_Files):
    """Task files and the settings in them."""

    name = "task file"
    share = 8
    folder = "tasks"

    def change(self, random: Random) -> str:
        if random.random() < 0.1:
            return self._change("classes.txt", mutations.any_bytes, random)
        return self._change("TASKS.toml", mutations.toml_lines, random)

    def answer(self) -> str:
        found = read_task_file(self._inputs.root / "TASKS.toml")
        settings = Settings.from_mapping(found.settings)
        if Settings.from_mapping(settings.to_json()) != settings:
            raise WrongAnswerError(f"{settings} are not what they are written as")
        for task in found.tasks:
            if not TASK_NAME.fullmatch(task.name) or len(set(task.classes)) != len(task.classes):
                raise WrongAnswerError(f"task {task}")
        return "right, consistent"


class Parquet(_Files):
    """Images and labels in parquet files."""

    name = "parquet"
    share = 6
    folder = "parquet"

    def change(self, random: Random) -> str:
        self._name = random.choice(self._inputs.names)
        if random.random() < 0.4:
            self._inputs.write(self._name, _odd_table(random))
            return f"{self._name} of other types"
        return self._change(self._name, mutations.any_bytes, random)

    def answer(self) -> str:
        images = ParquetImages(ImageSource(self._name), self._inputs.root, CLASSES)
        if not all(label in range(len(CLASSES)) for label in images.labels):
            raise WrongAnswerError(f"labels are {images.labels}")
        paths = images.paths(range(len(images.labels)))
        if len(paths) != len(images.labels) or not all(path.stat().st_size for path in paths):
            raise WrongAnswerError(f"images are {paths}")
        return "right, consistent"


class Checkpoints(_Files):
    """Checkpoints in every format, opened, compared with the backbone and read whole."""

    name = "checkpoint"
    share = 8
    folder = "checkpoints"

    def __init__(self, corpus: Path, work: Path) -> None:
        super().__init__(corpus, work)
        self._architecture = read_architecture("model.json", self._inputs.root)

    def change(self, random: Random) -> str:
        name = random.choice(self._inputs.names)
        self._opened = name.split("/")[0]
        mutator = {
            ".pt": mutations.zip_members(_torch_member) if random.random() < 0.7 else mutations.zip_fields,
            ".safetensors": mutations.safetensors,
            ".json": mutations.json_text,
        }[PurePosixPath(name).suffix]
        return self._change(name, mutator, random)

    def answer(self) -> str:
        base, name = self._inputs.root, self._opened
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


class WorkstationPictures(_Files):
    """Image files, as the workstation decodes them: it and the runtime must take the same, and see the same."""

    name = "pictures, workstation"
    quiet = False  # libtiff says on its own what is wrong with a file
    share = 6
    folder = "pictures"
    refusals = (MingleError,)

    def __init__(self, corpus: Path, work: Path) -> None:
        super().__init__(corpus, work)
        self._architecture = VisionArchitecture(SPEC, 8, 8, 1, 1, 8, 8, "gelu")

    def change(self, random: Random) -> str:
        return change_picture(self, self._inputs, random)

    def answer(self) -> str:
        theirs, refusal = None, None
        try:
            theirs = preprocess(self.path, SPEC)
        except EdgeError as error:
            refusal = error
        try:
            ours = load_images([self.path], self._architecture).numpy()
        except MingleError as error:
            if theirs is not None:
                raise WrongAnswerError(f"the runtime takes what the workstation refuses: {error}") from error
            raise
        if theirs is None:
            raise WrongAnswerError(f"the workstation takes what the runtime refuses: {refusal}")
        if not np.array_equal(ours, theirs):
            raise WrongAnswerError(f"the runtime's pixels differ by {np.abs(ours - theirs).max()}")
        return "right, equal"


class _Code:
    """What a checkpoint must never be asked to make."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def _torch_member(name: str) -> mutations.Mutator:
    if not name.endswith(".pkl"):
        return mutations.any_bytes
    return lambda data, random: pickle.dumps(_Code()) if random.random() < 0.1 else mutations.any_bytes(data, random)


def _odd_table(random: Random) -> bytes:
    """A whole parquet file whose columns and metadata are not those of images with labels, or not quite."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    content = encoded(0)
    columns = {
        "image": (
            pa.array([{"bytes": content, "path": None}] * 3, image),
            pa.array([{"bytes": content}, {"bytes": None, "path": "/etc/passwd"}, None], image),
            pa.array([content] * 3),
            pa.array([{"bytes": "text"}] * 3),
            pa.array([{"bytes": b"", "path": "../secret"}] * 3, image),
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
        changed = metadata if random.random() < 0.4 else mutations.json_text(metadata, random)
        table = table.replace_schema_metadata({b"huggingface": changed})
    file = io.BytesIO()
    pq.write_table(table.slice(0, random.choice((0, 1, 3, 3, 3))), file)
    return file.getvalue()


def _check_arrays(read: Callable[[], Mapping[str, Any]]) -> None:
    for name, array in read().items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise WrongAnswerError(f"{name} is {array!r:.50}")


TARGETS: tuple[type[Target], ...] = (MergedModels, Exports, TaskFiles, Parquet, Checkpoints, WorkstationPictures)
