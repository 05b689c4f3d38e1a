"""Changes that an attacker or a failing disk makes to a file: of bytes anywhere, and of fields where a format has them.

Every mutator takes a file's bytes and a source of randomness and returns other bytes; it needs nothing but the standard
library, and gives the same for the same randomness on every machine. What it cannot take apart it changes as bytes.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeAlias

Mutator: TypeAlias = Callable[[bytes, Random], bytes]

INTEGERS = (0, 1, 2, 3, 4, 7, 8, 16, 100, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 10**5, 10**7)
INTEGERS += tuple(2**power + change for power in (16, 24, 31, 32, 40, 62, 63, 64) for change in (-1, 0))
FLOATS = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e-45, 1e-38, 1e30, -1e30, 3.4e38, 1.0, -1.0)
TEXTS = (
    "",
    " ",
    "\0",
    ".",
    "..",
    "../secret",
    "../../secret",
    "/etc/passwd",
    "/dev/zero",
    "CON",
    "a" * 300,
    "é\u202e\u0007",
    "\x1b[2Jred",
    "\ud800",
    "%s{}",
    "hf://a/b",
    "1e5",
)
JSON_VALUES: tuple[str, ...] = (
    *(
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "1.5",
        "1e-400",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "1e300",
        "-1e300",
    ),
    *map(str, INTEGERS),
    *("9" * 400, "9" * 5000, '""', "[]", "{}", "[[]]", "[0, 0, 0]", '["a", "a"]', "[null]", '{"a": 1}', '{"size": 0}'),
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    *map(json.dumps, TEXTS),
)
"""JSON texts, some of them not valid, to put where a value was."""
_JSON_OF_TYPE = {
    int: tuple(map(str, INTEGERS)),
    float: ("0.0", "-1.5", "1e-45", "1e-320", "1e38", "1e300", "-1e300", "0.999", "1.0"),
    str: tuple(map(json.dumps, TEXTS)),
    bool: ("true", "false"),
}
TOML_VALUES = (
    *("0", "-1", "1", "1.5", "inf", "nan", "1e300", "1e999", "9" * 400, "true", '""', '" "', "[]", "{}", "[[]]", "[0.0, 2]"),
    *("[1, 2]", '["a", "a"]', '["a", 1]', '{files = "a"}', "1979-05-27T07:32:00Z", "07:32:00", '"\\u0000"', "'''", '"\\ud800"'),
    *(json.dumps(text) for text in TEXTS),
)
"""TOML texts, some of them not valid."""


def any_bytes(data: bytes, random: Random) -> bytes:
    """Change, insert, remove, repeat or move bytes, more often near the ends, where headers are."""
    if not data:
        return random.randbytes(random.choice((1, 8, 100)))
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        at, length = _place(random, len(changed)), random.choice((1, 2, 4, 8, 16, 64, 1000))
        span = bytes(changed[at : at + length])
        change = random.randrange(11)
        if change == 0:
            changed[at : at + 1] = bytes([changed[at] ^ (1 << random.randrange(8))]) if at < len(changed) else b""
        elif change == 1:
            changed[at : at + 1] = random.randbytes(1)
        elif change in (2, 3, 4):
            number = hostile_integer(random, width := random.choice((1, 2, 4, 8)), random.choice(("little", "big")))
            changed[at : at + width] = number
        elif change == 5:
            changed[at : at + length] = bytes(len(span))
        elif change == 6:
            changed[at : at + length] = random.randbytes(len(span))
        elif change == 7:
            del changed[at : at + length]
        elif change == 8:
            changed[at:at] = span * random.choice((1, 1, 30))
        elif change == 9:
            del changed[at:]
        else:
            changed[at:at] = random.randbytes(random.choice((1, 4, 100)))
        if not changed:
            break
    return bytes(changed)


def float_values(data: bytes, random: Random) -> bytes:
    """Put float32 values that make arithmetic fail where any may be."""
    if len(data) < 8:
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 64))):
        at = random.randrange(len(data) // 4) * 4
        count = random.choice((1, 1, 1, 16, 500))
        span = struct.pack("<f", random.choice(FLOATS)) * count
        changed[at : at + len(span)] = span[: len(changed) - at]
    return bytes(changed)


def hostile_integer(random: Random, width: int, order: Any = "little") -> bytes:
    """A number that breaks arithmetic, as `width` bytes."""
    return (random.choice(INTEGERS) % 256**width).to_bytes(width, order)


def json_members(data: bytes, random: Random) -> bytes:
    """Replace, remove, rename, repeat or exchange members of a JSON document, which is written again."""
    document = json.loads(data)
    raw: list[str] = []
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        places = list(_members(document))
        if not places:
            break
        container, key = random.choice(places)
        change = random.randrange(12)
        if change == 0:
            del container[key]
        elif change == 1:
            other, name = random.choice(places)
            container[key] = json.loads(json.dumps(other[name]))
        elif change == 2 and isinstance(container, dict):
            container[random.choice((*container, *TEXTS))] = container.pop(key)
        elif change == 3 and isinstance(container, list):
            container[key:key] = [container[key]] * random.choice((1, 1, 500))
        elif change in (4, 5) and isinstance(container[key], int | float):
            container[key] = random.choice((container[key] + 1, container[key] - 1, container[key] * 2, -container[key]))
        elif change == 6 and isinstance(container[key], str):
            container[key] = any_bytes(container[key].encode(errors="replace"), random).decode("latin-1")
        else:
            raw.append(
                random.choice(_JSON_OF_TYPE.get(type(container[key]), JSON_VALUES))
                if change < 9
                else random.choice(JSON_VALUES)
            )
            container[key] = f"@raw {len(raw) - 1}@"
    text = json.dumps(document)
    for number, value in enumerate(raw):
        text = text.replace(f'"@raw {number}@"', value)
    if random.random() < 0.03:
        text = "\ufeff" + text
    return text.encode(errors="surrogatepass")


def _members(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _members(value[key])


def json_text(data: bytes, random: Random) -> bytes:
    """A JSON document by member, or as bytes."""
    return (json_members if random.random() < 0.85 else any_bytes)(data, random)


def toml_lines(data: bytes, random: Random) -> bytes:
    """Replace values, rename keys, and remove, repeat or exchange lines of a TOML document."""
    lines = data.decode().splitlines()
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not lines:
            break
        at = random.randrange(len(lines))
        key, equals, _value = lines[at].partition(" = ")
        change = random.randrange(10)
        if change == 0:
            del lines[at]
        elif change == 1:
            lines[at:at] = [lines[at]]
        elif change == 2:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif change == 3 and equals:
            keys = [line.partition(" = ")[0] for line in lines if " = " in line]
            lines[at] = lines[at].replace(key, random.choice([*keys, "unknown", '""', "a.b", '"a b"']), 1)
        elif change == 4:
            lines[at] = any_bytes(lines[at].encode(), random).decode("latin-1")
        elif equals:
            lines[at] = f"{key} = {random.choice(TOML_VALUES)}"
        else:
            lines[at] = random.choice(("[settings]", "[[task]]", "[task]", "[[settings]]", "[backbone]", "[a.b.c]", "[[[", "x"))
    text = "\n".join(lines) + "\n"
    if random.random() < 0.03:
        text = "\ufeff" + text
    return text.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-16")) if random.random() < 0.05 else "utf-8", "replace")


def literals(text: str, random: Random) -> str:
    """Replace a number, a word or a quoted string of a text of Python, but no key of a dictionary."""
    found = list(re.finditer(r"-?\d+(\.\d+)?|(?<=: )'[^']*'|\b(True|False)\b", text))
    if not found:
        return text
    spot = random.choice(found)
    plain = (
        "-1",
        "1e999",
        "None",
        "True",
        "()",
        "(0,)",
        "'<f8'",
        "'|O'",
        "'<U9'",
        "'>f4'",
        "'<f2'",
        "[('a','<f4')]",
        "(((",
        "9" * 5000,
    )
    return text[: spot.start()] + random.choice((*plain, *map(str, INTEGERS))) + text[spot.end() :]


def npy(data: bytes, random: Random) -> bytes:
    """Change the header of a `.npy` file, or its values."""
    if len(data) < 10 or random.random() < 0.3:
        return float_values(data, random) if random.random() < 0.6 else any_bytes(data, random)
    length = int.from_bytes(data[8:10], "little")
    header = literals(data[10 : 10 + length].decode("latin-1"), random)
    stated = len(header) if random.random() < 0.9 else random.choice(INTEGERS) % 65536
    return data[:8] + (stated % 65536).to_bytes(2, "little") + header.encode("latin-1") + data[10 + length :]


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the JSON header of a `.safetensors` file, its stated length, or the values."""
    length = int.from_bytes(data[:8], "little")
    choice = random.random()
    if choice < 0.25 or len(data) < 8 + length:
        return any_bytes(data, random)
    if choice < 0.5:
        return data[: 8 + length] + float_values(data[8 + length :], random)
    header = json_text(data[8 : 8 + length], random)
    header += b" " * (-len(header) % 8)
    stated = len(header) if choice < 0.95 else random.choice(INTEGERS) % 2**64
    return stated.to_bytes(8, "little") + header + data[8 + length :]


# Protobuf: nested messages of tag, length and value.


def protobuf(data: bytes, random: Random) -> bytes:
    """Change one field at some depth of a protobuf message, and the lengths around it with it."""
    fields = _protobuf_fields(data)
    if not fields:
        return any_bytes(data, random)
    weights = [1 + len(value) ** 0.5 if isinstance(value, bytes) else 1 for _, _, value in fields]
    (at,) = random.choices(range(len(fields)), weights)
    number, wire, value = fields[at]
    if isinstance(value, bytes) and wire == 2 and len(value) > 3 and random.random() < 0.85:
        fields[at] = (number, wire, protobuf(value, random))
        return _protobuf_message(fields)
    change = random.randrange(8)
    if change == 0:
        del fields[at]
    elif change == 1:
        fields[at:at] = [fields[at]] * random.choice((1, 1, 200))
    elif change == 2:
        fields[at] = (random.choice((0, 1, 5, 20, 2**20, number + 1)), wire, value)
    elif change == 3:
        other = random.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif change == 4:
        fields[at] = (number, *random.choice(((0, random.choice(INTEGERS)), (2, b""), (2, b"\xff\xfe"), (1, bytes(8)))))
    elif wire == 0:
        fields[at] = (number, 0, random.choice(INTEGERS))
    elif isinstance(value, bytes):
        texts = (b"../secret", b"backbone.bin", b"", b"\xff", b"Identity", b"-1", b"9" * 30)
        fields[at] = (number, wire, random.choice(texts) if wire == 2 and random.random() < 0.4 else any_bytes(value, random))
    return _protobuf_message(fields)


def _protobuf_fields(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """The fields of a message, none where this is no message."""
    fields: list[tuple[int, int, int | bytes]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            value: int | bytes
            if wire == 0:
                value, at = _varint(data, at)
            else:
                size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
                value = data[at : at + size]
                at += size
            if not number or at > len(data):
                return []
            fields.append((number, wire, value))
    except (IndexError, KeyError):
        return []
    return fields


def _protobuf_message(fields: Sequence[tuple[int, int, int | bytes]]) -> bytes:
    parts = []
    for number, wire, value in fields:
        parts.append(_as_varint(number << 3 | wire))
        if isinstance(value, int):
            parts.append(_as_varint(value))
        else:
            parts += [_as_varint(len(value))] if wire == 2 else []
            parts.append(value)
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    value %= 2**64
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# Flatbuffers, as ONNX Runtime's adapters: tables found by offsets.

_ADAPTER = ("<i", "<i", "<i", ("table", (("text", ""), ("vector", "<q"), "<i", ("vector", "<B"))))
"""Adapter: versions of format, adapter and model, parameters; a parameter: name, dims, type, raw data."""


def adapter(data: bytes, random: Random) -> bytes:
    """Change offsets, lengths, dims, types, names or values of an ONNX Runtime adapter."""
    if random.random() < 0.25:
        return (float_values if random.random() < 0.5 else any_bytes)(data, random)
    try:
        places = [(0, "<I"), (4, "<I"), *_table(data, struct.unpack_from("<I", data, 0)[0], _ADAPTER)]
    except (struct.error, IndexError):
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at, kind = random.choice(places)
        width = struct.calcsize(kind)
        (old,) = struct.unpack_from(kind, data, at)
        near = (old + random.choice((-8, -4, -1, 1, 4, 8, old, -2 * old))) % 256**width
        new = near.to_bytes(width, "little") if random.random() < 0.5 else hostile_integer(random, width)
        changed[at : at + width] = new
    return bytes(changed)


def _table(data: bytes, at: int, kinds: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Places and formats of the numbers of a table."""
    yield at, "<i"
    vtable = at - struct.unpack_from("<i", data, at)[0]
    yield vtable, "<H"
    yield vtable + 2, "<H"
    fields = (struct.unpack_from("<H", data, vtable)[0] - 4) // 2
    for number, kind in enumerate(kinds[:fields]):
        entry = vtable + 4 + 2 * number
        yield entry, "<H"
        offset = struct.unpack_from("<H", data, entry)[0]
        if not offset:
            continue
        yield at + offset, "<I" if isinstance(kind, tuple) else kind
        if isinstance(kind, tuple):
            vector = at + offset + struct.unpack_from("<I", data, at + offset)[0]
            yield vector, "<I"
            count = struct.unpack_from("<I", data, vector)[0]
            if kind[0] == "table":
                for item in range(vector + 4, vector + 4 + 4 * count, 4):
                    yield item, "<I"
                    yield from _table(data, item + struct.unpack_from("<I", data, item)[0], kind[1])
            elif kind[0] == "vector":
                width = struct.calcsize(kind[1])
                yield from ((vector + 4 + width * i, kind[1]) for i in range(min(count, 4)))


# Archives.


def zip_fields(data: bytes, random: Random) -> bytes:
    """Change numbers in the headers of a zip archive."""
    layouts = {
        b"PK\x03\x04": (4, 6, 8, 10, 14, 18, 22, 26, 28),
        b"PK\x01\x02": (8, 10, 16, 20, 24, 28, 30, 32, 42),
        b"PK\x05\x06": (8, 10, 12, 16, 20),
    }
    places = [
        (found.start(), field)
        for signature, fields in layouts.items()
        for found in re.finditer(re.escape(signature), data)
        for field in fields
    ]
    if not places or random.random() < 0.2:
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2))):
        start, field = random.choice(places)
        width = random.choice((1, 2, 4))
        changed[start + field : start + field + width] = hostile_integer(random, width)
    return bytes(changed)


def zip_members(member: Callable[[str], Mutator]) -> Mutator:
    """Change, remove, rename, repeat or compress members of an archive and write it again, with right checksums.

    member: the mutator of a member by its name.
    """

    def mutate(data: bytes, random: Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        except Exception:  # the archive was no archive
            return any_bytes(data, random)
        if not members:
            return any_bytes(data, random)
        at = random.randrange(len(members))
        name, content = members[at]
        change = random.randrange(10)
        kind = zipfile.ZIP_DEFLATED if change == 0 else zipfile.ZIP_STORED
        if change == 1:
            del members[at]
        elif change == 2:
            members[at] = (random.choice(("../secret", "a/b", "x.npy", "", "\x1b[2J", *(name for name, _ in members))), content)
        elif change == 3:
            members[at] = (name, members[random.randrange(len(members))][1])
        elif change != 4:
            members[at] = (name, member(name)(content, random))
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two members of one name are meant
            for entry, value in members:
                archive.writestr(zipfile.ZipInfo(entry or "x"), value, compress_type=kind, compresslevel=1)
            if change == 4:
                _add_bomb(archive, name, content)
        return written.getvalue()

    return mutate


_BOMB = 1 << 30
"""bytes that `_zeros` expands to"""


@functools.cache
def _zeros() -> bytes:
    """A deflate stream of zeros without end mark: one piece, many times."""
    piece = 1 << 24
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (compressor.compress(bytes(piece)) + compressor.flush(zlib.Z_FULL_FLUSH)) * (_BOMB // piece)


def _add_bomb(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member of many zeros after its `content`, or as a whole array where its name says that it is one."""
    if name.endswith(".npy"):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({_BOMB},), }}".encode().ljust(117) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = compressor.compress(content) + compressor.flush(zlib.Z_FULL_FLUSH) + _zeros() + b"\x03\x00"
    entry = zipfile.ZipInfo(name)
    archive.writestr(entry, stream)
    entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, len(content) + _BOMB  # as its entry in the directory says


# Images.


def png(data: bytes, random: Random) -> bytes:
    """Change chunks of a PNG, with right checksums."""
    chunks = _png_chunks(data)
    if not chunks:
        return any_bytes(data, random)
    for _ in range(random.choice((1, 1, 2))):
        if not chunks:
            break
        at = random.randrange(len(chunks))
        name, content = chunks[at]
        change = random.randrange(12)
        if change == 0:
            del chunks[at]
        elif change == 1:
            chunks[at:at] = [chunks[at]] * random.choice((1, 1, 50))
        elif change == 2:
            other = random.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif change in (3, 4, 5):
            head = bytearray(chunks[0][1])
            where, width = random.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
            head[where : where + width] = hostile_integer(random, width, "big")
            chunks[0] = (chunks[0][0], bytes(head))
        elif change == 6:
            added = random.choice(
                (b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"IEND")
            )
            bomb = b"k\0\0\x78\x9c" + _zeros()
            chunks.insert(
                random.randrange(1, len(chunks) + 1), (added, random.choice((b"", bytes(30), random.randbytes(20), bomb)))
            )
        elif change == 7:  # few bytes that say they are many pixels, and are
            head = struct.pack(
                ">IIBBBBB", *random.choice(((13000, 13000), (3, 80_000_000), (80_000_000, 1), (70000, 3))), 8, 2, 0, 0, 0
            )
            chunks = [(b"IHDR", head), (b"IDAT", b"\x78\x9c" + _zeros()), (b"IEND", b"")]
        else:
            chunks[at] = (name, any_bytes(content, random))
    return data[:8] + b"".join(
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    )


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks = []
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def jpeg(data: bytes, random: Random) -> bytes:
    """Change, remove or repeat a segment of a JPEG, or the length it states."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((at, at + size))
        at += size
    if not segments or random.random() < 0.2:
        return any_bytes(data, random)
    start, end = random.choice(segments)
    content = data[start + 4 : end]
    change = random.randrange(6)
    if change == 0:
        return data[:start] + data[end:]
    if change == 1:
        return data[:end] + data[start:end] * random.choice((1, 30)) + data[end:]
    if change == 2:
        return data[: start + 2] + hostile_integer(random, 2, "big") + data[start + 4 :]
    if change == 3:
        return (
            data[: start + 1]
            + bytes([random.choice((0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xE2, 0xFE))])
            + data[start + 2 :]
        )
    content = any_bytes(content, random)[: 65535 - 2]
    return data[: start + 2] + (len(content) + 2).to_bytes(2, "big") + content + data[end:]


def tiff(data: bytes, random: Random) -> bytes:
    """Change entries of the first directory of a little-endian TIFF."""
    if len(data) < 8 or data[:2] != b"II" or random.random() < 0.2:
        return any_bytes(data, random)
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    if not 0 < count < 200:
        return any_bytes(data, random)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2))):
        where, width = random.choice(((0, 2), (2, 2), (4, 4), (8, 4)))
        start = at + 2 + 12 * random.randrange(count) + where
        changed[start : start + width] = hostile_integer(random, width)
    return bytes(changed)


IMAGES: dict[str, Mutator] = {".png": png, ".jpg": jpeg, ".tif": tiff}
"""By suffix; other images are changed as bytes."""


def _place(random: Random, size: int) -> int:
    """An offset: near the beginning, near the end, or anywhere."""
    choice = random.randrange(3)
    if choice == 0:
        return random.randrange(min(size, 128))
    if choice == 1:
        return size - 1 - random.randrange(min(size, 512))
    return random.randrange(size)
