"""Named tensors in files, read one at a time: safetensors, whole or in shards, and PyTorch archives without their code."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mingle_edge.errors import CheckpointError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SHARD_INDEX = "model.safetensors.index.json"
FOLDER_FILES = ("model.safetensors", SHARD_INDEX, "pytorch_model.bin")
"""What holds the weights in a Hugging Face folder, in order of preference."""

_SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Element types that weights may have; all are read as float32."""


class StoredTensors(Protocol):
    """Tensors by the names they have on disk; nothing is read before `read`."""

    files: list[Path]

    def names(self) -> list[str]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""

    def dtype(self, name: str) -> str:
        """Element type of one tensor, as torch spells it where torch has it."""

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """One tensor, or some of its rows, as stored. Raises `CheckpointError` when the file cannot be read."""


def open_tensors(path: Path) -> StoredTensors:
    """Open a file of tensors, or the weights of a Hugging Face folder.

    Raises:
        CheckpointError: nothing there, of another format, damaged, or holding anything besides tensors.
    """
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path} holds none of {', '.join(FOLDER_FILES)}; name the file with the weights")
        path = found[0]
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; correct the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if path.name == SHARD_INDEX:
        return _SafetensorsFiles(_shards(path))
    if path.suffix == ".safetensors":
        return _SafetensorsFiles([path])
    if path.suffix in TORCH_SUFFIXES:
        return _TorchFile(path)
    suffixes = ", ".join((".safetensors", *TORCH_SUFFIXES))
    raise CheckpointError(f"{path}: the suffix {path.suffix!r} is none of {suffixes}; save the state dict as one of these")


@dataclass(frozen=True)
class _Stored:
    path: Path
    shape: tuple[int, ...]
    dtype: str


class _SafetensorsFiles:
    """Opens a file anew for every read: a map that stays open keeps each page ever read in this process's memory."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._stored: dict[str, _Stored] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as handle:
                    for name in sorted(handle.keys()):
                        piece = handle.get_slice(name)
                        self._stored[name] = _Stored(path, tuple(piece.get_shape()), str(piece.get_dtype()))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path} is damaged or not a safetensors file ({error}); copy or download it again"
                ) from error

    def names(self) -> list[str]:
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        stored = self._stored[name].dtype
        return _SAFETENSORS_TYPES.get(stored, stored)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        path = self._stored[name].path
        try:
            with safe_open(path, framework="pt") as handle:
                tensor: Tensor = handle.get_tensor(name) if rows is None else handle.get_slice(name)[rows]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot read {name!r} ({error}); copy the file again") from error
        return tensor


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
        tensor = self._tensors[name]
        return tensor if rows is None else tensor[rows]


def without_module(names: list[str]) -> dict[str, str]:
    """Name in the file -> name, without the `module.` that training on several devices puts before each."""
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {name: name.removeprefix(prefix) for name in names}


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r}); copy or download it again") from error
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the shard {name!r}, but shards are .safetensors files beside it; do not use this folder"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is missing; copy or download it again")
    return [index.parent / name for name in names]


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict of a PyTorch archive, mapped rather than read, without running any code from it."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if not zipped:
        raise CheckpointError(
            f"{path} is damaged, or no PyTorch archive of today's format; copy it again, or load and save it with a "
            "current PyTorch"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            scripted = any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that are refused later, and archives that are code
            content = None if scripted else torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, and mingle-edge runs no code from a checkpoint; if you trust it, "
            "load it yourself and save model.state_dict() alone"
        ) from error
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
                f"{path} is not a state dict: {name!r} is a {type(value).__name__}, not a tensor; save model.state_dict()"
            )
    return dict(content)
