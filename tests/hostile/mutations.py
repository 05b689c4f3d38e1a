"""Changes that an attacker or a failing disk makes to a file: of bytes anywhere, of numbers in it, and of what text says.

Every mutator takes a file's bytes and a source of randomness and returns other bytes; it needs nothing but the standard
library, and gives the same for the same randomness on every machine. What it cannot take apart it changes as bytes.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar

Mutator: TypeAlias = Callable[[bytes, Random], bytes]
Part = TypeVar("Part")

INTEGERS = (0, 1, 2, 3, 4, 7, 8, 16, 100, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 10**5, 10**7)
INTEGERS += tuple(2**power + change for power in (16, 24, 31, 32, 40, 62, 63, 64) for change in (-1, 0))
FLOATS = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e-45, 1e-38, 1e30, -1e30, 3.4e38, 1.0, -1.0)
TEXTS = ("", " ", "\0", ".", "..", "../secret", "../../secret", "/etc/passwd", "/dev/zero", "CON", "a" * 300)
TEXTS += ("é\u202e\u0007", "\x1b[2Jred", "\ud800", "%s{}", "hf://a/b", "1e5")
_TEXTS = tuple(map(json.dumps, TEXTS))
JSON_VALUES = (
    *("null", "true", "false", "-0", "-1", "1.5", "NaN", "Infinity", "1e-400", "1e999", "-1e999", "1e300", "-1e300"),
    *map(str, INTEGERS),
    *("9" * 400, "9" * 5000, '""', "[]", "{}", "[[]]", "[0, 0, 0]", '["a", "a"]', "[null]", '{"a": 1}', '{"size": 0}'),
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    *_TEXTS,
)
"""JSON texts, some of them not valid, to put where a value was."""
_JSON_OF_TYPE = {
    int: tuple(map(str, INTEGERS)),
    float: ("0.0", "-1.5", "1e-45", "1e-320", "1e38", "1e300", "-1e300", "0.999", "1.0"),
    str: _TEXTS,
    bool: ("true", "false"),
}
TOML_VALUES = (
    *("0", "-1", "1", "1.5", "inf", "nan", "1e300", "1e999", "9" * 400, "true", '""', '" "', "[]", "{}", "[[]]", "[0.0, 2]"),
    *("[1, 2]", '["a", "a"]', '["a", 1]', '{files = "a"}', "1979-05-27T07:32:00Z", "07:32:00", '"\\u0000"', "'''", '"\\ud800"'),
    *_TEXTS,
)
"""TOML texts, some of them not valid."""
_TOML_HEADERS = ("[settings]", "[[task]]", "[task]", "[[settings]]", "[backbone]", "[a.b.c]", "[[[", "x")


def any_bytes(data: bytes, random: Random) -> bytes:
    """Change, insert, remove, repeat or move bytes, more often near the ends, where headers are."""
    if not data:
        return random.randbytes(random.choice((1, 8, 100)))
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        at, length = _place(random, len(changed)), random.choice((1, 2, 4, 8, 16, 64, 1000))
        span, width = bytes(changed[at : at + length]), random.choice((1, 2, 4, 8))
        replaced, new = random.choice(
            (
                (1, bytes([changed[at] ^ 1 << random.randrange(8)])),
                (1, random.randbytes(1)),
                *[(width, hostile_integer(random, width, random.choice(("little", "big"))))] * 3,
                (length, bytes(len(span))),
                (length, random.randbytes(len(span))),
                (length, b""),
                (len(changed), b""),
                (0, span * random.choice((1, 1, 30))),
                (0, random.randbytes(random.choice((1, 4, 100)))),
            )
        )
        changed[at : at + replaced] = new
        if not changed:
            break
    return bytes(changed)


def _place(random: Random, size: int) -> int:
    """An offset: near the beginning, near the end, or anywhere."""
    return random.choice(
        (random.randrange(min(size, 128)), size - 1 - random.randrange(min(size, 512)), random.randrange(size))
    )


def float_values(data: bytes, random: Random) -> bytes:
    """Put float32 values that make arithmetic fail where any may be."""
    if len(data) < 8:
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 64))):
        at = random.randrange(len(data) // 4) * 4
        span = struct.pack("<f", random.choice(FLOATS)) * random.choice((1, 1, 1, 16, 500))
        changed[at : at + len(span)] = span[: len(changed) - at]
    return bytes(changed)


def hostile_integer(random: Random, width: int, order: Literal["little", "big"] = "little") -> bytes:
    """A number that breaks arithmetic, as `width` bytes."""
    return (random.choice(INTEGERS) % 256**width).to_bytes(width, order)


def numbers(
    data: bytes, random: Random, places: Sequence[tuple[int, int]], order: Literal["little", "big"] = "little"
) -> bytes:
    """Replace some of the numbers at `places`, of offset and width, by one that breaks arithmetic or is near the old one."""
    if not places or random.random() < 0.2:
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at, width = random.choice(places)
        old = int.from_bytes(changed[at : at + width], order)
        near = (old + random.choice((-8, -4, -1, 1, 4, 8, old, -2 * old))) % 256**width
        new = near.to_bytes(width, order) if random.random() < 0.4 else hostile_integer(random, width, order)
        changed[at : at + width] = new
    return bytes(changed)


def sizes(data: bytes, random: Random) -> bytes:
    """Change what may be offsets, lengths and counts of a binary format: little-endian numbers no larger than the file."""
    words = (int.from_bytes(data[at : at + 4], "little") for at in range(len(data) - 3))
    places = [(at, width) for at, word in enumerate(words) if 0 < word <= len(data) for width in (2, 4, 4, 8)]
    return numbers(data, random, places)


def edit(parts: MutableSequence[Part], random: Random, change: Callable[[Part], Part], at: int | None = None) -> None:
    """Change one of the parts of a file, that `at` or any, or remove, repeat or exchange it."""
    if not parts:
        return
    at = random.randrange(len(parts)) if at is None else at
    way = random.randrange(8)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts[at:at] = [parts[at]] * random.choice((1, 1, 100))
    elif way == 2:
        other = random.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    else:
        parts[at] = change(parts[at])


def json_members(data: bytes, random: Random) -> bytes:
    """Replace, remove, rename, repeat or exchange members of a JSON document, which is written again."""
    document = json.loads(data)
    raw: list[str] = []
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        places = list(_members(document))
        if not places:
            break
        container, key = random.choice(places)
        value, change = container[key], random.randrange(12)
        if change == 0:
            del container[key]
        elif change == 1:
            other, name = random.choice(places)
            container[key] = copy.deepcopy(other[name])
        elif change == 2 and isinstance(container, dict):
            container[random.choice((*container, *TEXTS))] = container.pop(key)
        elif change == 3 and isinstance(container, list):
            container[key:key] = [value] * random.choice((1, 1, 500))
        elif change in (4, 5) and isinstance(value, int | float):
            container[key] = random.choice((value + 1, value - 1, value * 2, -value))
        elif change == 6 and isinstance(value, str):
            container[key] = any_bytes(value.encode(errors="replace"), random).decode("latin-1")
        else:
            raw.append(random.choice(_JSON_OF_TYPE.get(type(value), JSON_VALUES) if change < 9 else JSON_VALUES))
            container[key] = f"@raw {len(raw) - 1}@"
    text = json.dumps(document)
    for number, value in enumerate(raw):
        text = text.replace(f'"@raw {number}@"', value)
    return _encoded(text, random)


def _members(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _members(value[key])


def _encoded(text: str, random: Random) -> bytes:
    """In UTF-8, seldom with a byte order mark, seldom in UTF-16."""
    return text.encode(random.choice(("utf-8-sig", "utf-16")) if random.random() < 0.05 else "utf-8")


def json_text(data: bytes, random: Random) -> bytes:
    """A JSON document by member, or as bytes."""
    return (json_members if random.random() < 0.85 else any_bytes)(data, random)


def toml_lines(data: bytes, random: Random) -> bytes:
    """Replace values, rename keys, and remove, repeat or exchange lines of a TOML document."""
    lines = data.decode().splitlines()
    keys = [line.partition(" = ")[0] for line in lines if " = " in line]

    def change(line: str) -> str:
        key, equals, _ = line.partition(" = ")
        way = random.randrange(7)
        if way == 0:
            return any_bytes(line.encode(), random).decode("latin-1")
        if way == 1 and equals:
            return line.replace(key, random.choice([*keys, "unknown", '""', "a.b", '"a b"']), 1)
        return f"{key} = {random.choice(TOML_VALUES)}" if equals else random.choice(_TOML_HEADERS)

    for _ in range(random.choice((1, 1, 1, 2, 3))):
        edit(lines, random, change)
    return _encoded("\n".join(lines) + "\n", random)
