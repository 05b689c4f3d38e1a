"""Changes of the fields of binary formats, whose lengths and checksums are mostly right again; and mutators by suffix."""

from __future__ import annotations

import functools
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import PurePosixPath
from random import Random
from typing import Any, TypeAlias

from mutations import INTEGERS, Mutator, any_bytes, edit, float_values, hostile_integer, json_text, numbers, sizes, toml_lines

Field: TypeAlias = tuple[int, int, int | bytes]
"""number, wire type and value of a protobuf field"""

_LITERALS = ("-1", "1e999", "None", "True", "()", "(0,)", "'<f8'", "'|O'", "'<U9'", "'>f4'", "'<f2'", "[('a','<f4')]", "(((")
_LITERALS += ("9" * 5000, *map(str, INTEGERS))


def npy(data: bytes, random: Random) -> bytes:
    """Change a number, a word or a string in the header of a `.npy` file, but no key, or its values."""
    if len(data) < 10 or random.random() < 0.3:
        return float_values(data, random) if random.random() < 0.6 else any_bytes(data, random)
    end = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:end].decode("latin-1")
    literals = list(re.finditer(r"-?\d+(\.\d+)?|(?<=: )'[^']*'|\b(True|False)\b", header))
    if literals:
        start, stop = random.choice(literals).span()
        header = header[:start] + random.choice(_LITERALS) + header[stop:]
    stated = len(header) if random.random() < 0.9 else random.choice(INTEGERS)
    return data[:8] + (stated % 65536).to_bytes(2, "little") + header.encode("latin-1") + data[end:]


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the JSON header of a `.safetensors` file, its stated length, or the values."""
    end = 8 + int.from_bytes(data[:8], "little")
    choice = random.random()
    if choice < 0.25 or len(data) < end:
        return any_bytes(data, random)
    if choice < 0.5:
        return data[:end] + float_values(data[end:], random)
    header = json_text(data[8:end], random)
    header += b" " * (-len(header) % 8)
    stated = len(header).to_bytes(8, "little") if choice < 0.95 else hostile_integer(random, 8)
    return stated + header + data[end:]


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
    else:
        edit(fields, random, lambda field: _changed_field(field, random), at)
    return b"".join(map(_protobuf_field, fields))


def _changed_field(field: Field, random: Random) -> Field:
    number, wire, value = field
    way = random.randrange(5)
    if way == 0:
        return random.choice((0, 1, 5, 20, 2**20, number + 1)), wire, value
    if way == 1:
        return number, *random.choice(((0, random.choice(INTEGERS)), (2, b""), (2, b"\xff\xfe"), (1, bytes(8))))
    if isinstance(value, int):
        return number, 0, random.choice(INTEGERS)
    texts = (b"../secret", b"backbone.bin", b"", b"\xff", b"Identity", b"-1", b"9" * 30)
    return number, wire, random.choice(texts) if wire == 2 and random.random() < 0.4 else any_bytes(value, random)


def _protobuf_fields(data: bytes) -> list[Field]:
    """The fields of a message, none where this is no message."""
    fields: list[Field] = []
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


def _protobuf_field(field: Field) -> bytes:
    number, wire, value = field
    tag = _as_varint(number << 3 | wire)
    if isinstance(value, int):
        return tag + _as_varint(value)
    return tag + (_as_varint(len(value)) if wire == 2 else b"") + value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _as_varint(value: int) -> bytes:
    value %= 2**64
    sevens = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(seven | 0x80 for seven in sevens[:-1]), sevens[-1]])


# Archives.


def zip_members(data: bytes, random: Random) -> bytes:
    """Change, remove, rename, repeat, exchange or compress members of an archive and write it again, with right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except Exception:  # the archive was no archive
        members = []
    if not members:
        return any_bytes(data, random)
    names = ("../secret", "a/b", "x.npy", "", "\x1b[2J", *(name for name, _ in members))

    def change(member: tuple[str, bytes]) -> tuple[str, bytes]:
        name, content = member
        return (random.choice(names), content) if random.random() < 0.15 else (name, mutated(name, content, random))

    way, bombed = random.randrange(10), random.choice(members)
    if way > 1:
        edit(members, random, change)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, content in members:
            kind = zipfile.ZIP_STORED if way else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name or "x"), content, compress_type=kind, compresslevel=1)
        if way == 1:
            _add_bomb(archive, *bombed)
    return file.getvalue()


class _Code:
    """What a checkpoint must never be asked to make."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def pickled(data: bytes, random: Random) -> bytes:
    """Change bytes of a pickle, or make it one that runs a program."""
    return pickle.dumps(_Code()) if random.random() < 0.1 else any_bytes(data, random)


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

_CHUNKS = (b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"IEND")
_PNG_HEADER = ((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1))
_LARGE = ((13000, 13000), (3, 80_000_000), (80_000_000, 1), (70000, 3))
_SEGMENTS = (0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xE2, 0xFE)


def png(data: bytes, random: Random) -> bytes:
    """Change chunks of a PNG, with right checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return any_bytes(data, random)

    def change(chunk: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        name, content = chunk
        return name, numbers(content, random, _PNG_HEADER, "big") if name == b"IHDR" else any_bytes(content, random)

    way = random.randrange(12)
    if way == 0:  # few bytes that say they are many pixels, and are
        head = struct.pack(">IIBBBBB", *random.choice(_LARGE), 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", b"\x78\x9c" + _zeros()), (b"IEND", b"")]
    elif way == 1:
        bomb = b"k\0\0\x78\x9c" + _zeros()
        added = random.choice((b"", bytes(30), random.randbytes(20), bomb))
        chunks.insert(random.randrange(1, len(chunks) + 1), (random.choice(_CHUNKS), added))
    for _ in range(random.choice((1, 1, 2)) if way else 0):
        edit(chunks, random, change, 0 if way in (2, 3) else None)
    return data[:8] + b"".join(
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    )


def jpeg(data: bytes, random: Random) -> bytes:
    """Change, remove, repeat or exchange a segment of a JPEG, its kind, or the length it states."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + size])
        at += size
    if not segments or random.random() < 0.2:
        return any_bytes(data, random)

    def change(segment: bytes) -> bytes:
        way = random.randrange(4)
        if way == 0:
            return segment[:2] + hostile_integer(random, 2, "big") + segment[4:]
        if way == 1:
            return segment[:1] + bytes([random.choice(_SEGMENTS)]) + segment[2:]
        content = any_bytes(segment[4:], random)[: 65535 - 2]
        return segment[:2] + (len(content) + 2).to_bytes(2, "big") + content

    edit(segments, random, change)
    return data[:2] + b"".join(segments) + data[at:]


def _one_of(share: float, often: Mutator, seldom: Mutator) -> Mutator:
    return lambda data, random: (often if random.random() < share else seldom)(data, random)


_archive = _one_of(0.65, zip_members, sizes)


def tar(data: bytes, random: Random) -> bytes:
    """Change a field of a header of a tar file, whose checksum is then right again; or the end, or what members hold."""
    headers = [start for start in range(0, len(data), 512) if data[start + 257 : start + 262] == b"ustar"]
    if not headers or random.random() < 0.2:
        return sizes(data, random)
    start, changed = random.choice(headers), bytearray(data)
    if random.random() < 0.2:
        return bytes(changed[:start] + changed[random.choice((start, start + 512, *headers)) :])
    place, width = random.choice(((0, 100), (124, 12), (156, 1), (157, 100), (345, 155)))  # name, size, type, link, prefix
    octal = b"%011o\0" % random.choice((0, 1, 600, 1 << 20, 1 << 32))
    values = {1: (bytes([random.choice(b"0123456LKxgS\0V")]),), 12: (octal, b"\x80" + random.randbytes(11), b"-0000000001\0")}
    names = (b"../a.png", b"/a.cls", b"1.png", b"1.cls", b"a/b", b".png", b"\xff.json", b"2.txt", b"x" * 100)
    changed[start + place : start + place + width] = random.choice(values.get(width, names)).ljust(width, b"\0")[:width]
    changed[start + 148 : start + 156] = b" " * 8
    changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
    return bytes(changed)


MUTATORS: dict[str, Mutator] = {
    **{".json": json_text, ".toml": toml_lines, ".bin": _one_of(0.7, float_values, any_bytes), ".npy": npy},
    **{".onnx": protobuf, ".onnx_adapter": _one_of(0.85, sizes, float_values), ".safetensors": safetensors},
    **{".npz": _archive, ".pt": _archive, ".pkl": pickled},
    **{".png": png, ".jpg": jpeg, ".tif": sizes, ".bmp": sizes, ".gif": sizes, ".webp": sizes, ".parquet": sizes, ".tar": tar},
}
"""by suffix; other files are changed as bytes"""


def mutated(name: str, data: bytes, random: Random) -> bytes:
    """Change a file as its suffix says, now and then as bytes."""
    return (MUTATORS.get(PurePosixPath(name).suffix, any_bytes) if random.random() < 0.85 else any_bytes)(data, random)
