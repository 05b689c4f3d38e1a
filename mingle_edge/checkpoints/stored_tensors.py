"""Named tensors in files, read one at a time: safetensors and PyTorch's, told apart by how they begin, whole or in shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mingle_edge.checkpoints.foreign_files import foreign_file
from mingle_edge.checkpoints.safetensors_file import is_safetensors, read_safetensors_header
from mingle_edge.checkpoints.tensor_location import TensorLocation
from mingle_edge.checkpoints.torch_archive import LEGACY, ZIP, read_torch_archive
from mingle_edge.core.errors import CheckpointError, FileError, shown
from mingle_edge.data.weights_folder import weights_files
from mingle_edge.files.plain_file import check_plain_file, find_file, refusal

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Element types that weights may have; all are read as float32."""

_BEGINNING = 1 << 10  # bytes of a file that tell what it is


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


@dataclass
class TensorFiles:
    """Tensors in safetensors and PyTorch's files. Keys of containers around them come before their names, joined by dots."""

    files: list[Path]
    others: dict[str, str] = field(default_factory=dict)  # what lies where tensors may: name -> "a sparse tensor"
    _locations: dict[str, TensorLocation] = field(default_factory=dict)

    def names(self) -> list[str]:
        return list(self._locations)

    def location(self, name: str) -> TensorLocation:
        """Return where the values of one tensor are."""
        return self._locations[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._locations[name].shape

    def dtype(self, name: str) -> str:
        return self._locations[name].dtype

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        location = self._locations[name]
        if location.dtype not in FLOATS:
            raise CheckpointError(
                f"{location.path}: {shown(name)} is {location.dtype}, not floating point; use it before quantization"
            )
        return location.read(name, rows)


def open_tensors(path: Path) -> TensorFiles:
    """Open a file of tensors, or the weights in a folder.

    Raises:
        CheckpointError: nothing there, no plain file, not to be read by this user, of another format, or damaged.
    """
    try:
        if find_file(path) is None and not path.is_symlink():
            raise CheckpointError(f"there is no checkpoint {path}; correct the path")
        tensors = TensorFiles(weights_files(path))
        for file in tensors.files:
            locations, others = _open_file(file)
            for name, location in locations.items():
                if (before := tensors._locations.setdefault(name, location)) is not location:
                    raise CheckpointError(
                        f"{file} holds {shown(name)}, and so does {before.path}; copy or download the shards again"
                    )
            tensors.others |= others
    except FileError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"{path} {refusal(error)}") from error
    return tensors


def _open_file(path: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """Find the tensors of one file, and what else lies where tensors may."""
    size = check_plain_file(path).st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith((ZIP, LEGACY)):
        content = read_torch_archive(path)
        return content.tensors, content.others
    if not is_safetensors(beginning, size) and (foreign := foreign_file(path, beginning)):
        raise CheckpointError(f"{path} {foreign}")
    if path.suffix == ".safetensors" or is_safetensors(beginning, size):
        return read_safetensors_header(path), {}
    raise CheckpointError(
        f"{path} is damaged, or neither a safetensors file nor one that PyTorch writes; copy it again, or save the model's "
        "state dict with torch.save"
    )
