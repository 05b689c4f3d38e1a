"""A head in a file of its own: labels that a device gets after its bundle was exported; docs/heads.md specifies it."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.head import LARGEST, Head
from mingle_edge_runtime.bundle.index import BundleIndex
from mingle_edge_runtime.bundle.json_record import RecordError, read_record, write_record
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy
from mingle_edge_runtime.bundle.rules import LARGEST_SCALE, fault_in_labels
from mingle_edge_runtime.bundle.stored_archive import ArchiveError, read_stored
from mingle_edge_runtime.bundle.task_names import TASK_NAME
from mingle_edge_runtime.errors import HeadError

FORMAT = "mingle-edge head"
FORMAT_VERSION = 1
_INDEX, _WEIGHT, _BIAS = "head.json", "weight.npy", "bias.npy"
_LARGEST_FILE = 1 << 30  # bytes: 250,000 labels of 1024 numbers
_AGAIN = "write it again with `mingle-edge head`"


@dataclass(frozen=True)
class HeadIndex:
    """What `head.json` says."""

    format: str
    format_version: int
    name: str
    """of the task whose labels it replaces, or of labels that are new"""
    labels: tuple[str, ...]
    """in the order of the weight's rows"""
    logit_scale: float
    """multiplier of the weight's products with an embedding"""
    backbone_sha256: str
    """of the backbone that the bundle must come from"""
    origin: str
    """what the head came from, in words"""
    task: str | None = None
    """the task whose own text tower, classifier or head it comes from; None: the backbone's text tower"""
    checkpoint_sha256: str | None = None
    """of that task's checkpoint"""
    templates: tuple[str, ...] | None = None
    """prompts it was made with, {} for the label"""


@dataclass(frozen=True)
class HeadFile:
    """A head with its labels and what it belongs to."""

    index: HeadIndex
    head: Head

    @classmethod
    def read(cls, path: str | PathLike[str]) -> HeadFile:
        """Read the file at `path`. Raises `HeadError` naming what is wrong with it; nothing in it is unpickled."""
        path = Path(path)
        try:
            entries = read_stored(_content(path), (_INDEX, _WEIGHT, _BIAS))
            index = _index(path, json.loads(entries.get(_INDEX, b"")))
            labels = len(index.labels)
            weight = _array(path, entries, _WEIGHT)
            bias = _array(path, entries, _BIAS) if _BIAS in entries else None
        except (ArchiveError, ValueError, RecursionError) as error:
            raise HeadError(f"{path} is no head that can be read: {error}; {_AGAIN}") from error
        if weight.ndim != 2 or len(weight) != labels or not weight.size:
            raise HeadError(f"{path}: the weight is {list(weight.shape)}, must be [{labels} labels, dim]; {_AGAIN}")
        if bias is not None and bias.shape != (labels,):
            raise HeadError(f"{path}: the bias is {list(bias.shape)}, must be [{labels} labels]; {_AGAIN}")
        return cls(index, Head(weight, bias, index.logit_scale))

    def write(self, file: BinaryIO) -> None:
        """Write what `read` reads into an open file."""
        arrays = {_WEIGHT: self.head.weight} | ({} if self.head.bias is None else {_BIAS: self.head.bias})
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(write_record(self.index), indent=1, ensure_ascii=False) + "\n")
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(array, np.float32), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(name), content.getvalue())  # without a time: the same head is the same bytes

    def check_belongs(self, bundle: BundleIndex, path: str | PathLike[str]) -> None:
        """Check that embeddings of a bundle mean what this head expects; `path` is for the message.

        Raises `HeadError` where the head was made with another backbone, of another task or for embeddings of other lengths.
        """
        index, dim = self.index, self.head.weight.shape[1]
        if index.backbone_sha256 != bundle.source.backbone_sha256:
            raise HeadError(
                f"{path} was made with the backbone {index.backbone_sha256[:16]}, and the bundle comes from "
                f"{bundle.source.backbone_sha256[:16]} (sha256 of the weights): make it with the bundle's task file"
            )
        if index.task is not None and bundle.source.tasks.get(index.task) != index.checkpoint_sha256:
            has = "was fine-tuned to other weights" if index.task in bundle.source.tasks else "is not in the bundle"
            raise HeadError(f"{path} belongs to the task {index.task!r}, which {has}: make it with the bundle's task file")
        if dim != bundle.architecture.output_dim:
            raise HeadError(
                f"{path} reads embeddings of {dim} numbers, and the bundle's have {bundle.architecture.output_dim}: make it "
                "with the bundle's task file"
            )


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait, a device never ends
            raise HeadError(f"{path} is no plain file; name one that `mingle-edge head` wrote")
        if status.st_size > _LARGEST_FILE:
            raise HeadError(f"{path} has {status.st_size} bytes; a head has at most {_LARGEST_FILE}")
        return path.read_bytes()
    except OSError as error:
        raise HeadError(f"{path} cannot be read: {error.strerror}; name a file that `mingle-edge head` wrote") from error


def _index(path: Path, value: Any) -> HeadIndex:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f'format in {_INDEX} must be "{FORMAT}"')
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise HeadError(f"{path}: format_version is {version}, this runtime reads up to {FORMAT_VERSION}: upgrade mingle-edge")
    try:
        index = read_record(HeadIndex, value)
    except RecordError as error:
        raise HeadError(f"{path}: {_INDEX}: {error}; {_AGAIN}") from error
    if not TASK_NAME.fullmatch(index.name):
        raise HeadError(f"{path}: name is {index.name[:80]!r}, must match {TASK_NAME.pattern}; {_AGAIN}")
    if fault := fault_in_labels(index.labels):
        raise HeadError(f"{path}: labels {fault}; {_AGAIN}")
    if not 0 < index.logit_scale <= LARGEST_SCALE:
        raise HeadError(f"{path}: logit_scale is {index.logit_scale}, must be positive and at most {LARGEST_SCALE:g}; {_AGAIN}")
    return index


def _array(path: Path, entries: dict[str, bytes], name: str) -> NDArray[np.float32]:
    if name not in entries:
        raise ArchiveError(f"it holds no {name}")
    try:
        array = read_npy(entries[name])
    except NpyError as error:
        raise ArchiveError(f"{name}: {error}") from error
    if array.dtype != np.float32:
        raise HeadError(f"{path}: {name} is {array.dtype}, must be float32; {_AGAIN}")
    with np.errstate(invalid="ignore"):
        if not (np.abs(array) <= LARGEST).all():  # so that NaN is wrong
            raise HeadError(f"{path}: {name} holds a value that is not finite or beyond {LARGEST:g}; {_AGAIN}")
    return array
