"""What a file of PyTorch holds, without running any code from it: archives of today, of before 2020, and TorchScript.

All three are a pickle and, outside of it, the values of tensors. The pickle is read as data, and values from where they lie, so
that neither objects of any class beside or around the tensors nor TorchScript's own code stand in the way.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from mingle_edge.checkpoints.conversion_commands import save_again, save_exported
from mingle_edge.checkpoints.inert_pickle import Called, Named, read_pickle
from mingle_edge.checkpoints.tensor_location import TensorLocation, span
from mingle_edge.core.errors import CheckpointError, shown

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of before PyTorch 1.6 begins, a pickled number of ten bytes."""
MOST_PICKLE = 16 << 20
"""Bytes of what a PyTorch archive holds besides the values of its tensors; a CLIP model's has about 100 thousand."""
MOST_DEPTH = 64
MOST_OBJECTS = 1 << 18
MOST_NAME = 512
"""How deep containers may lie in each other, how many they and the tensors in them may be, and how long a tensor's name; a few
bytes can stand for any number of them."""
LARGEST = 1 << 60  # elements of a tensor, whose number is counted in 64 bits

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of an entry of a zip file: its mark, lengths of name and extra field
_STORAGES = {
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8"},
    **{"BoolStorage": "bool", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"},
    "UntypedStorage": "uint8",
}
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_PLAIN_CLASSES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values",
}
_HOLDS_NOTHING = (
    *("collections.", "builtins.", "__builtin__.", "torch.device", "torch.Size", "pathlib.", "datetime."),
    *("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"),
)
_MODULE_TABLES = ("_parameters", "_buffers", "_modules")  # of torch.nn.Module; no part of a parameter's name


@dataclass
class ArchiveContent:
    """The tensors of an archive, and what else lies where tensors may, by names that join the keys on the way with dots."""

    tensors: dict[str, TensorLocation] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)  # name -> what it is, such as "a sparse tensor"


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    elements: int


@dataclass(frozen=True)
class _Values:
    """Where the values of a storage are."""

    start: int
    nbytes: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: str
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_archive(path: Path) -> ArchiveContent:
    """Find the tensors of a file of PyTorch; values are read later.

    Raises:
        CheckpointError: damaged, compressed, or no file that `torch.save` or `torch.jit.save` writes.
        PermissionError: it may not be read.
    """
    try:
        with path.open("rb") as file:
            root, storages = _read_zip(path, file) if file.read(4) == ZIP else _read_legacy(path, file)
        content, objects = ArchiveContent(), 0
        for name, value in _walk(root, "", ()):
            objects += 1
            if isinstance(value, Mapping | list | tuple):
                objects += len(value) // 128  # to look through plain numbers is quick
            if objects > MOST_OBJECTS:
                raise CheckpointError(f"{path} holds more than {MOST_OBJECTS} objects; save model.state_dict() alone")
            if isinstance(value, Called):
                content.others[name] = _kind(value)
            elif isinstance(value, _Tensor):
                location = _locate(path, name, value, storages)
                if content.tensors.setdefault(name, location) != location:
                    raise CheckpointError(f"{path} holds two tensors called {shown(name)}; save model.state_dict() alone")
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle or zip file can raise anything
        raise CheckpointError(f"{path} is damaged ({error!r:.200}); copy or download it again") from error
    return content


def _read_zip(path: Path, file: BinaryIO) -> tuple[Any, dict[str, _Values]]:
    with zipfile.ZipFile(file) as archive:
        entries = {PurePosixPath(entry.filename).parts[1:]: entry for entry in archive.infolist()}
        if ("data.pkl",) not in entries:
            raise CheckpointError(f"{path} {_foreign_zip(path, [entry.filename for entry in archive.infolist()])}")
        for name in ("data.pkl", "byteorder"):
            if entry := entries.get((name,)):
                _check_stored(path, entry)
                if entry.file_size > MOST_PICKLE:
                    raise CheckpointError(
                        f"{path}: {shown(entry.filename)} has {entry.file_size} bytes, and at most {MOST_PICKLE} are read "
                        "besides the values of tensors; save model.state_dict() alone"
                    )
        if ("byteorder",) in entries and archive.read(entries["byteorder",]) != b"little":
            raise _converted(path, "was written on a machine that puts the largest byte first")
        root = read_pickle(BytesIO(archive.read(entries["data.pkl",])), _storage)
    storages = {}
    for parts, entry in entries.items():
        if len(parts) == 2 and parts[0] == "data" and not parts[1].startswith("."):
            _check_stored(path, entry)
            file.seek(entry.header_offset)
            mark, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if mark != ZIP:
                raise ValueError("an entry that begins elsewhere")
            storages[parts[1]] = _Values(entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length, entry.file_size)
    return root, storages


def _check_stored(path: Path, entry: zipfile.ZipInfo) -> None:
    """Check that an entry does not expand: PyTorch compresses nothing of what is read here."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise _converted(path, f"holds {shown(entry.filename)} compressed, which PyTorch's archives are not")


def _foreign_zip(path: Path, names: list[str]) -> str:
    """Say what a zip file without a pickle is."""
    if names and all(name.endswith(".npy") for name in names):
        return "is a numpy archive; save the weights as .safetensors under the names that open_clip or Hugging Face give them"
    if any(name.endswith(("archive_format", "models/model.json")) for name in names):
        return f"is a program of torch.export; if you trust it, save its weights: {save_exported(path)}"
    return "is a zip file, but no archive of PyTorch; unpack it, and name the file with the weights"


def _read_legacy(path: Path, file: BinaryIO) -> tuple[Any, dict[str, _Values]]:
    """Read the format of before 2020: five pickles, and then for each storage the number of its elements and their values."""
    file.seek(0)
    stream = BytesIO(file.read(MOST_PICKLE))
    seen: dict[str, _Storage] = {}

    def persistent(identity: object) -> object:
        if isinstance(identity, tuple) and identity[0] == "module":  # a class, with the text of its source
            return identity[1]
        if isinstance(identity, tuple) and len(identity) > 5 and identity[5] is not None:
            raise _converted(path, "holds storages that are parts of others, as PyTorch wrote before 2017")
        storage = _storage(identity)
        return seen.setdefault(storage.key, storage) if isinstance(storage, _Storage) else storage

    _, _, system, root, keys = (read_pickle(stream, persistent) for _ in range(5))
    if system["little_endian"] is not True:
        raise _converted(path, "was written on a machine that puts the largest byte first")
    storages, start = {}, stream.tell()
    for key in keys:
        if not isinstance(key, str):  # to hash it could take forever
            raise ValueError("a storage without a name")
        file.seek(start)
        (elements,) = struct.unpack("<q", file.read(8))
        if elements != seen[key].elements:
            raise ValueError(f"a storage of {elements} elements")
        storages[key] = _Values(start + 8, elements * _itemsize(seen[key].dtype))
        start += 8 + storages[key].nbytes
    if start > file.seek(0, 2):
        raise ValueError("the file ends within its values")
    return root, storages


def _converted(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}; if you trust it, save it with a current PyTorch: {save_again(path)}")


def _storage(identity: object) -> object:
    """Return the storage that a persistent id of PyTorch stands for."""
    match identity:
        case ("storage", Named(name), str(key), str(), int(elements), *_) if name.rpartition(".")[2] in _STORAGES:
            return _Storage(_STORAGES[name.rpartition(".")[2]], key, elements)
    return Called(Named("a storage of another kind"), ())


_Found = Mapping[Any, object] | list[object] | tuple[object, ...] | Called | _Tensor


def _walk(value: object, name: str, within: tuple[int, ...]) -> Iterator[tuple[str, _Found]]:
    """Yield every tensor and every object whose content cannot be seen, by name; and containers, so that they are counted."""
    if id(value) in within:  # a module that knows its parent
        return
    if len(within) > MOST_DEPTH:
        raise RecursionError(f"containers lie more than {MOST_DEPTH} deep in each other")
    inner = (*within, id(value))
    if isinstance(value, Called):
        if (tensor := _tensor(value)) is not None:
            yield name, tensor
            return
        if not (value.items or value.elements or isinstance(value.state, Mapping) or _slots(value.state)):
            if not value.name.startswith(_HOLDS_NOTHING):
                yield name, value
            return
        parts: list[object] = [value.items, value.elements, *_slots(value.state)]
        for part in parts:
            yield from _walk(part, name, inner)
        if isinstance(value.state, Mapping):
            yield from _walk_module(value.state, name, inner)
        return
    if not isinstance(value, Mapping | list | tuple):
        return
    yield name, value
    for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(part, Mapping | list | tuple | Called):
            yield from _walk(part, _joined(name, key), inner)


def _walk_module(state: Mapping[Any, object], name: str, within: tuple[int, ...]) -> Iterator[tuple[str, _Found]]:
    """Walk through the attributes of an object; those of a torch.nn.Module under the names of its state dict."""
    temporary = state.get("_non_persistent_buffers_set")
    if isinstance(temporary, Called) and isinstance(temporary.arguments, tuple):  # a set, before protocol 4
        temporary = temporary.arguments[0] if temporary.arguments else ()
    hidden = [key for key in temporary if isinstance(key, str)] if isinstance(temporary, list) else []
    for key, part in state.items():
        if key not in _MODULE_TABLES:
            yield from _walk({key: part}, name, within)
        elif isinstance(part, Mapping | Called):
            table = part if isinstance(part, Mapping) else part.items
            yield from _walk({key: value for key, value in table.items() if key not in hidden}, name, within)


def _slots(state: object) -> tuple[object, ...]:
    """Return the attributes in an object's state where it is the pair of a class with slots."""
    pair = isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, Mapping | None) for part in state)
    return state if pair else ()  # type: ignore[return-value]


def _joined(name: str, key: object) -> str:
    text = key if isinstance(key, str) else str(key) if isinstance(key, int) else "?"
    if len(name) + len(text) > MOST_NAME:
        raise ValueError(f"a name of more than {MOST_NAME} characters")
    return f"{name}.{text}" if name else text


def _tensor(value: Called) -> _Tensor | None:
    """Return the tensor that a call makes; None if it makes none, or one that is more than its values."""
    arguments = value.arguments if isinstance(value.arguments, tuple) else ()
    if value.name in _PARAMETERS and arguments and isinstance(arguments[0], Called):
        return _tensor(arguments[0])
    match value.name, arguments:
        case "torch._tensor._rebuild_from_type_v2", (function, Named(kind), made, _) if kind in _PLAIN_CLASSES:
            return _tensor(Called(function, made))
        case "torch._utils._rebuild_tensor", (_Storage() as storage, offset, shape, strides):
            return _checked(storage, storage.dtype, offset, shape, strides)
        case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, offset, shape, strides, _, _, *metadata):
            return None if any(metadata) else _checked(storage, storage.dtype, offset, shape, strides)
        case "torch._utils._rebuild_tensor_v3", (_Storage() as storage, offset, shape, strides, _, _, Named(kind), *metadata):
            return None if any(metadata) else _checked(storage, kind.removeprefix("torch."), offset, shape, strides)
    return None


def _checked(storage: _Storage, dtype: str, offset: object, shape: object, strides: object) -> _Tensor:
    (start,), sizes, steps = (_numbers(value) for value in ((offset,), shape, strides))
    if math.prod(max(size, 1) for size in sizes) > LARGEST:
        raise ValueError("a tensor larger than any")
    return _Tensor(storage, dtype, start, sizes, steps)


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or any(type(number) is not int or not 0 <= number <= LARGEST for number in value):
        raise ValueError("a tensor whose sizes are none")
    return value


def _locate(path: Path, name: str, tensor: _Tensor, storages: Mapping[str, _Values]) -> TensorLocation:
    """Find the values of a tensor in the file."""
    values = storages.get(tensor.storage.key, _Values(0, 0))
    itemsize = _itemsize(tensor.dtype)
    if (tensor.offset + span(tensor.shape, tensor.strides)) * itemsize > values.nbytes:
        raise CheckpointError(f"{path} is damaged: it ends within {shown(name)}; copy or download it again")
    start = values.start + tensor.offset * itemsize
    return TensorLocation(path, start, tensor.shape, tensor.strides, tensor.dtype)


def _itemsize(dtype: str) -> int:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"the element type {dtype:.40}")
    return kind.itemsize


def _kind(value: Called) -> str:
    """Say what an object is whose content cannot be seen."""
    arguments = value.arguments if isinstance(value.arguments, tuple) else ()
    if value.name in _PARAMETERS and arguments and isinstance(arguments[0], Called):
        return _kind(arguments[0])
    if value.name in _KINDS:
        return _KINDS[value.name]
    named = next((part.name for part in arguments[:2] if isinstance(part, Named) and not part.name.startswith("torch._")), "")
    return f"an object of {named or value.name or 'no name'}"
