"""A pickle read as data: nothing that it names is imported, nothing that it would call is called.

A pickle is a program for a stack machine, and running it runs whatever functions it names. What a training wrote is nearly all
plain containers; of the rest only the name and the arguments are kept, so that tensors inside objects of any class are found
without the class (the stack machine is that of Python's `pickletools`).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

MARK = object()


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names."""

    name: str  # such as torch._utils._rebuild_tensor_v2


@dataclass(eq=False)
class Called:
    """What a pickle would make by calling a class or function, and put into what came out."""

    function: object  # a Named, unless the pickle is odd
    arguments: object
    items: dict[Hashable, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)
    state: object = None

    @property
    def name(self) -> str:
        """The name of what would be called; empty for an odd pickle."""
        return self.function.name if isinstance(self.function, Named) else ""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_NOTHING = ("PROTO", "FRAME")


def read_pickle(stream: BytesIO, persistent: Callable[[object], object]) -> Any:
    """Read one pickle from where a stream is to its end, as dicts, lists, tuples, literals, `Named` and `Called`; sets come as
    lists.

    Args:
        stream: in memory, so that no length in a pickle can ask for more than there is.
        persistent: stands for an object kept outside of the pickle, by its id: in PyTorch's files a storage.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: no pickle, or one with an operation that neither PyTorch nor
            pickle itself writes from protocol 2 on.
    """
    stack: list[Any] = []
    memo: dict[int, object] = {}
    for operation, argument, _ in pickletools.genops(stream):
        name = operation.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "STOP":
            return stack.pop()
        elif name not in _NOTHING:
            _apply(name, argument, stack, persistent)
    raise ValueError("a pickle without an end")


def _apply(name: str, argument: Any, stack: list[Any], persistent: Callable[[object], object]) -> None:
    """Apply one operation that takes values from the stack."""
    if name == "MARK":
        stack.append(MARK)
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
    elif name in ("TUPLE", "LIST", "FROZENSET", "DICT"):
        values = _marked(stack)
        stack.append(tuple(values) if name == "TUPLE" else _pairs(values) if name == "DICT" else values)
    elif name in ("APPEND", "APPENDS", "ADDITEMS"):
        values = [stack.pop()] if name == "APPEND" else _marked(stack)
        (stack[-1].elements if isinstance(stack[-1], Called) else stack[-1]).extend(values)
    elif name in ("SETITEM", "SETITEMS"):
        values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _marked(stack)
        (stack[-1].items if isinstance(stack[-1], Called) else stack[-1]).update(_pairs(values))
    elif name == "GLOBAL":
        stack.append(Named(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(Named(f"{module}.{attribute}") if isinstance(module, str) and isinstance(attribute, str) else Named(""))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        stack.append(Called(function, arguments))
    elif name == "NEWOBJ_EX":
        _, arguments, function = stack.pop(), stack.pop(), stack.pop()
        stack.append(Called(function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        if isinstance(stack[-1], Called):
            stack[-1].state = state
    elif name == "BINPERSID":
        stack.append(persistent(stack.pop()))
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        _marked(stack)
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        raise ValueError(f"the operation {name}")


def _marked(stack: list[Any]) -> list[Any]:
    """Take what was put on the stack since the last mark, and the mark."""
    place = len(stack) - 1
    while stack[place] is not MARK:
        place -= 1
        if place < 0:
            raise ValueError("no mark")
    values = stack[place + 1 :]
    del stack[place:]
    return values


def _pairs(values: list[Any]) -> dict[Hashable, object]:
    """Return keys and values that lie in turn as a dict. A key that is no string or number is of no interest; to hash it could
    take forever."""
    keys = [key if isinstance(key, str | int | float | bytes) else object() for key in values[::2]]
    return dict(zip(keys, values[1::2], strict=True))
