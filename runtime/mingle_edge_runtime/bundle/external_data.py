"""Which files an ONNX graph reads its weights from, and which operators it has, found without the `onnx` package.

ONNX Runtime before 1.24 follows external data out of the model's folder; a bundle must not be able to make it do so. This
walks the protobuf messages of the file along the fields that lead to tensors and checks every `location` it finds. On the way
it checks operators: a loop may never end, and a malformed equation of `Einsum` ends a process with ONNX Runtime 1.20.1; and
that tensors have the bytes that their shapes say, which the same version copies without a look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mingle_edge_runtime.errors import BundleError

# Message -> field number -> message, for the fields of onnx.proto that lead to a TensorProto.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2  # fields of an entry of TensorProto.external_data
_OPERATOR = 4  # field of a node
_DIMS, _ELEMENTS, _RAW, _NAME = 1, 2, 9, 8  # fields of a tensor
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
"""of an element, by its type in onnx.proto"""
_REFUSED = frozenset(["Einsum", "If", "Loop", "Scan", "SequenceMap"])

_LONGEST_VARINT = 10  # bytes


def check_external_data(graph: bytes, name: str, allowed: Collection[str]) -> list[str]:
    """Return the files that a graph has external data in, relative to its folder.

    name: what to call it in an error.

    Raises `BundleError` where one is not `allowed`, an operator is refused, or this is no ONNX file.
    """
    try:
        found = set(_texts(memoryview(graph), "model"))
    except (IndexError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{name} is not an ONNX file: copy or export it again") from error
    if refused := sorted(text for kind, text in found if kind == "operator" and text in _REFUSED):
        raise BundleError(
            f"{name} has an operator {refused[0]}, which no bundle needs and which may end or keep a process: do not use it"
        )
    if lies := sorted(text for kind, text in found if kind == "tensor"):
        raise BundleError(
            f"{name} has a tensor {lies[0]!r} of more or fewer bytes than its shape says: copy or export it again"
        )
    locations = sorted(text for kind, text in found if kind == "location")
    for location in locations:
        if location not in allowed:
            raise BundleError(f"{name} reads weights from {location!r}, which is no file of the bundle: do not use it")
    return locations


def _texts(message: memoryview, kind: str) -> Iterator[tuple[str, str]]:
    """Yield all locations of external data, operators, and tensors whose bytes do not fit their shapes, with what each is."""
    if kind == "tensor" and not _fits(message):
        names = [
            bytes(content).decode() for field, content in _fields(message) if field == _NAME and not isinstance(content, int)
        ]
        yield "tensor", names[-1] if names else ""
    if kind == "entry":
        entry = {field: bytes(content) for field, content in _fields(message) if not isinstance(content, int)}
        if entry.get(_KEY) == b"location":
            yield "location", entry.get(_VALUE, b"").decode()
        return
    for field, content in _fields(message):
        if isinstance(content, int):
            continue
        if (kind, field) == ("node", _OPERATOR):
            yield "operator", bytes(content).decode()
        elif field in _LEADS[kind]:
            yield from _texts(content, _LEADS[kind][field])


def _fits(tensor: memoryview) -> bool:
    """Return whether the raw bytes of a tensor, if it has any, are as many as its shape and type say."""
    elements, bits, size = 1, 0, None
    for field, content in _fields(tensor):
        if field == _DIMS:
            for side in [content] if isinstance(content, int) else _packed(content):
                elements *= side
        elif field == _ELEMENTS and isinstance(content, int):
            bits = _BITS.get(content, 0)
        elif field == _RAW and not isinstance(content, int):
            size = len(content)
    return size is None or (bits > 0 and size == -(-elements * bits // 8))


def _packed(numbers: memoryview) -> Iterator[int]:
    at = 0
    while at < len(numbers):
        value, at = _varint(numbers, at)
        yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield field number and content of every field that has a length or is a varint.

    Raises `IndexError` where the message is cut short.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire_type == 2:
            size, at = _varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            at += {1: 8, 5: 4}.get(wire_type, len(message) + 1)  # anything else is not protobuf as onnx writes it
    if at != len(message):
        raise IndexError("the message ends inside a field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError("a number is longer than any")
