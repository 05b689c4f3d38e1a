"""Frozen dataclasses to JSON and back, checked on the way: the schema of `bundle.json` is its dataclasses.

Reading is strict about types (a boolean is no number, NaN is refused, integers have 64 bits) and names the offending value by
its path, as in `tasks[2].rank`. No text holds what a terminal would obey: control characters, breaks of lines, turns of the
direction of writing, halves of surrogate pairs. Unknown members are ignored, so that a writer may add information without a
new format version.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LARGEST = 2**63
_MOST_SHOWN = 60  # characters


class RecordError(ValueError):
    """A JSON value does not have the type its dataclass asks for."""


def read_record(kind: type[T], value: object, where: str = "") -> T:
    """Read the dataclass `kind` from a parsed JSON object; members whose field is `X | None` may be absent.

    Raises `RecordError` naming the path of the first value that is missing or of another type.
    """
    members = _expect(value, dict, "an object", where)
    hints = _type_hints(cast(Any, kind))
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, kind)):
        path = f"{where}.{field.name}" if where else field.name
        fields[field.name] = _read(hints[field.name], members.get(field.name), path)
    return kind(**fields)


def write_record(record: object) -> Any:
    """Return the JSON value that `read_record` turns back into an equal dataclass; `None` members are left out."""
    if dataclasses.is_dataclass(record):
        members = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        return {name: write_record(member) for name, member in members.items() if member is not None}
    if isinstance(record, dict):
        return {name: write_record(member) for name, member in record.items()}
    if isinstance(record, tuple):
        return [write_record(member) for member in record]
    return record


@functools.cache
def _type_hints(kind: type[Any]) -> dict[str, Any]:
    """Return resolved annotations, kept: resolving takes far longer than reading a record, and an index has one per file."""
    return get_type_hints(kind)


def _read(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:  # X | None
        return None if value is None else _read(arguments[0], value, where)
    if dataclasses.is_dataclass(hint):
        return read_record(cast(type, hint), value, where)
    if origin is Literal:
        if value not in arguments or not isinstance(value, str):
            raise RecordError(f"{where} must be one of {', '.join(arguments)}, is {_shown(value)}")
        return value
    if origin is dict:
        members = _expect(value, dict, "an object", where)
        return {_text(name, where): _read(arguments[1], member, f"{where}.{name}") for name, member in members.items()}
    if origin is list:
        return list(_read_tuple((*arguments, ...), value, where))
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    return _read_scalar(hint, value, where)


def _read_tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    members = _expect(value, list, "a list", where)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(members)
    if len(members) != len(arguments):
        raise RecordError(f"{where} must have {len(arguments)} items, has {len(members)}")
    return tuple(_read(hint, member, f"{where}[{i}]") for i, (hint, member) in enumerate(zip(arguments, members, strict=True)))


def _read_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is bool:
        return _expect(value, bool, "true or false", where)
    if hint is str:
        return _text(_expect(value, str, "a string", where), where)
    if isinstance(value, bool):
        raise RecordError(f"{where} must be a number, is {_shown(value)}")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise RecordError(f"{where} must be a number of 64 bits, has {value.bit_length()}")
    if hint is int:
        return _expect(value, int, "an integer", where)
    number = float(_expect(value, (int, float), "a number", where))
    if not math.isfinite(number):
        raise RecordError(f"{where} must be finite, is {number}")
    return number


def _expect(value: object, kind: type | tuple[type, ...], name: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise RecordError(f"{where or 'the file'} must be {name}, is {_shown(value)}")
    return value


def _text(value: str, where: str) -> str:
    if _OBEYED.search(value):
        raise RecordError(f"{where} must hold no control characters, is {_shown(value)}")
    return value


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    if value and isinstance(value, (dict, list)):  # whose own text may be as deep as the file is long
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value[:_MOST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
