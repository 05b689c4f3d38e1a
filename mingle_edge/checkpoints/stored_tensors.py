"""Named tensors in files, read one at a time: safetensors, whole or in shards, and PyTorch archives without their code."""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mingle_edge.core.errors import CheckpointError, FileError, shown
from mingle_edge.files.plain_file import check_plain_file, find_file, refusal
from mingle_edge.files.text_file import read_json

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SHARD_INDEX = "model.safetensors.index.json"
FOLDER_FILES = ("model.safetensors", SHARD_INDEX, "pytorch_model.bin")
"""What holds the weights in a Hugging Face folder, in order of preference."""

MOST_HEADER = 16 << 20
"""Bytes of a safetensors header; that of a CLIP model has about 50 thousand."""
MOST_PICKLE = 16 << 20
"""Bytes of what a PyTorch archive holds besides the values of its tensors; a CLIP model's has about 100 thousand."""

_SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ALLOCATES = b"bytearray\n"
"""In a pickle the name of the one thing besides tensors that PyTorch makes of any size: a few bytes could take all memory."""
_LENGTH = 8  # bytes before a safetensors header, its own length in little endian

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Element types that weights may have; all are read as float32."""


class StoredTensors(Protocol):
    """Tensors by the names they have on disk; nothing is read before `read`."""

    files: list[Path]

    def names(self) -> list[str]:
        """Return the names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""

    def dtype(self, name: str) -> str:
        """Return the element type of one tensor, as torch spells it where torch has it."""

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read one tensor, or some of its rows, as stored. Raises `CheckpointError` when the file cannot be read."""


def open_tensors(path: Path) -> StoredTensors:
    """Open a file of tensors, or the weights of a Hugging Face folder.

    Raises:
        CheckpointError: nothing there, no plain file, not to be read by this user, of another format, damaged, or holding
            anything besides tensors.
    """
    try:
        if path.is_dir():
            stored = [path / name for name in FOLDER_FILES if find_file(path / name) is not None or (path / name).is_symlink()]
            if not stored:
                raise CheckpointError(f"{path} holds none of {', '.join(FOLDER_FILES)}; name the file with the weights")
            path = stored[0]
        if find_file(path) is None and not path.is_symlink():
            raise CheckpointError(f"there is no checkpoint {path}; correct the path")
        if check_plain_file(path).st_size == 0:
            raise CheckpointError(f"{path} is empty; copy or download it again")
        if path.name == SHARD_INDEX:
            return _SafetensorsFiles(_shards(path))
        if path.suffix == ".safetensors":
            return _SafetensorsFiles([path])
        if path.suffix in TORCH_SUFFIXES:
            return _TorchFile(path)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"{path} {refusal(error)}") from error
    suffixes = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise CheckpointError(f"{path}: the suffix {path.suffix!r} is none of {suffixes}; save the state dict as one of these")


@dataclass(frozen=True)
class _Stored:
    path: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it
    start: int  # bytes from the beginning of the file


class _SafetensorsFiles:
    """Safetensors files, whose headers are read once.

    Values are read rather than mapped: a map that stays open keeps each page ever read in this process's memory, and one that
    is opened anew reads the header anew, for every tensor.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._stored: dict[str, _Stored] = {}
        for path in files:
            for name, stored in _stored(path).items():
                if name in self._stored:
                    raise CheckpointError(
                        f"{path} holds {shown(name)}, and so does {self._stored[name].path}; copy or download the shards again"
                    )
                self._stored[name] = stored

    def names(self) -> list[str]:
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        stored = self._stored[name].dtype
        return _SAFETENSORS_TYPES.get(stored, stored)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        stored = self._stored[name]
        if stored.dtype not in _SAFETENSORS_TYPES:
            raise CheckpointError(
                f"{stored.path}: {shown(name)} is {stored.dtype}, not floating point; use it before quantization"
            )
        dtype: torch.dtype = getattr(torch, _SAFETENSORS_TYPES[stored.dtype])
        first, shape = 0, stored.shape
        if rows is not None:
            first, shape = rows.start, (rows.stop - rows.start, *shape[1:])
        start = stored.start + first * math.prod(shape[1:]) * dtype.itemsize
        try:
            content = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
            with stored.path.open("rb") as file:
                file.seek(start)
                complete = file.readinto(memoryview(content.numpy())) == len(content)  # type: ignore[arg-type]
        except OSError as error:
            raise CheckpointError(f"{stored.path} {refusal(error)}") from error
        except (RuntimeError, MemoryError) as error:  # what torch raises where there is not enough memory
            raise CheckpointError(f"{stored.path}: cannot read {shown(name)} ({error}); free some memory") from error
        if not complete:
            raise CheckpointError(f"{stored.path}: ends within {shown(name)}, and did not before; copy the file again")
        return content.view(dtype).reshape(shape)


class _TorchFile:
    def __init__(self, path: Path) -> None:
        self.files = [path]
        self._tensors = _load_state_dict(path)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        tensor = self._tensors[name]
        return str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        tensor = self._tensors[name].detach()
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{self.files[0]}: {shown(name)} is {list(tensor.shape)}, and fewer values are stored; save a copy of it: "
                "tensor.contiguous()"
            )
        return tensor if rows is None else tensor[rows]


def without_module(names: list[str]) -> dict[str, str]:
    """Name in the file -> name, without the `module.` that training on several devices puts before each."""
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {name: name.removeprefix(prefix) for name in names}


def _stored(path: Path) -> dict[str, _Stored]:
    """Find where each tensor of a safetensors file is, by name in alphabetical order. The library checks the header first."""
    size = check_plain_file(path).st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if MOST_HEADER < length <= size:
            raise CheckpointError(f"{path} has a header of {length} bytes, and at most {MOST_HEADER} are read; save it again")
        try:
            with safe_open(path, framework="pt"):
                header: dict[str, Any] = json.loads(file.read(length))
            return {
                name: _Stored(path, tuple(header[name]["shape"]), header[name]["dtype"], start)
                for name in sorted(header.keys() - {"__metadata__"})
                for start in [_LENGTH + length + header[name]["data_offsets"][0]]
            }
        except PermissionError:
            raise
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
            raise CheckpointError(
                f"{path} is damaged or not a safetensors file ({error}); copy or download it again"
            ) from error


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = read_json(index)["weight_map"]
        names = sorted(set(weight_map.values()))
    except FileError as error:
        raise CheckpointError(f"{index} is not an index of shards: it {error.reason}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r:.200}); copy or download it again") from error
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the shard {shown(name)}, but shards are .safetensors files beside it; do not use this folder"
            )
        if find_file(index.parent / name) is None:
            raise CheckpointError(f"{index} names the shard {name}, which is missing; copy or download it again")
    return [index.parent / name for name in names]


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    """Open the state dict of a PyTorch archive, mapped rather than read, without running any code from it."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if not zipped:
        raise CheckpointError(
            f"{path} is damaged, or no PyTorch archive of today's format; copy it again, or load and save it with a "
            "current PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            scripted = any(PurePosixPath(entry.filename).name == "constants.pkl" for entry in entries)
            if not scripted:
                _check_entries(path, entries)
                if any(_ALLOCATES in archive.read(entry) for entry in entries if entry.filename.endswith("data.pkl")):
                    raise pickle.UnpicklingError("bytearray")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that are refused later, and archives that are code
            content = None if scripted else torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, and mingle-edge runs no code from a checkpoint; if you trust it, "
            "load it yourself and save model.state_dict() alone"
        ) from error
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged ({error!r:.200}); copy or download it again") from error
    if scripted:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is code; if you trust it, save its weights with "
            f'torch.save(torch.jit.load("{path.name}", map_location="cpu").state_dict(), "weights.pt")'
        )
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} is not a state dict: {shown(name)} is a {type(value).__name__}, not a tensor; save model.state_dict()"
            )
        if value.is_meta or value.is_nested:
            raise CheckpointError(f"{path}: {shown(name)} is a tensor without values of its own; save model.state_dict()")
    return dict(content)


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check that nothing in an archive expands: PyTorch compresses none of its own, and reads all but values into memory."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"{path}: {shown(entry.filename)} is compressed, which PyTorch's archives are not; load it where you trust it, "
                "and save model.state_dict()"
            )
        values = PurePosixPath(entry.filename).parent.name == "data"
        if not values and entry.file_size > MOST_PICKLE:
            raise CheckpointError(
                f"{path}: {shown(entry.filename)} has {entry.file_size} bytes, and at most {MOST_PICKLE} are read besides the "
                "values of tensors; save model.state_dict() alone"
            )
