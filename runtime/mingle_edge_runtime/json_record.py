"""Frozen dataclasses to JSON and back, checked on the way: the schema of `bundle.json` is its dataclasses.

Reading is strict about types (a boolean is no number, NaN is refused) and names the offending value by its path, as in
`tasks[2].rank`. Unknown members are ignored, so that a writer may add information without a new format version.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class RecordError(ValueError):
    """A JSON value does not have the type its dataclass asks for."""


def read_record(kind: type[T], value: object, where: str = "") -> T:
    """The dataclass `kind` from a parsed JSON object; members whose field is `X | None` may be absent.

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
    """The JSON value that `read_record` turns back into an equal dataclass; `None` members are left out."""
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
    """Resolving annotations takes far longer than reading a record, and an index has a record per file."""
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
        return {name: _read(arguments[1], member, f"{where}.{name}") for name, member in members.items()}
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
        return _expect(value, str, "a string", where)
    if isinstance(value, bool):
        raise RecordError(f"{where} must be a number, is {_shown(value)}")
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


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
