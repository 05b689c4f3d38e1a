"""Images in tar files as WebDataset writes them: `key.jpg` beside `key.cls`, `key.txt` or `key.json`, member after member.

The format: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import ImageFolderError, shown
from mingle_edge.data.class_matching import check_numbers, written_classes
from mingle_edge.data.image_cache import cached_images
from mingle_edge.data.image_folder import suffixes
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_columns import LABEL_NAMES
from mingle_edge.data.tar_members import Member, opened, read_members
from mingle_edge.data.task_file_table import MOST_CHARACTERS

MOST_IMAGE = 1 << 28
MOST_LABEL = 1 << 20
"""Bytes of one member that are read into memory."""
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
LABEL_SUFFIXES = ("cls", "txt", "json")
"""Where labels stand, in order of preference."""


class TarShard:
    """One archive: the image and the label of every sample, and where they lie."""

    def __init__(self, path: Path, source: ImageSource) -> None:
        self.path = path
        self.skipped: dict[str, int] = {}
        self._images: list[Member] = []
        self._labels: list[Member] = []
        suffix, _, self._field = (source.label or "").partition(".")
        self._label_suffix, self._image_suffix = suffix.lower() or None, source.image and source.image.lower()
        keys: set[str] = set()
        for key, members in _samples(path, self.skipped):
            if key in keys:
                raise ImageFolderError(
                    f"{path}: the members of sample {shown(key)} do not follow one another; write the archive in order of names"
                )
            keys.add(key)
            self._add(key, members)

    def labels(self, classes: Sequence[str]) -> list[int]:
        """Return the class number of each sample."""
        found: list[Any] = []
        with opened(self.path) as file:
            for member in self._labels:
                file.seek(member.start)
                found.append(self._label(member, file.read(member.size)))
        where = f"{self.path}: label"
        numbers = [value for value in found if isinstance(value, int)]
        if numbers and len(numbers) < len(found):
            raise ImageFolderError(f"{self.path}: some labels are numbers and some are text; write all as one or the other")
        if numbers:
            check_numbers(numbers, classes, str(self.path))
            return numbers
        return written_classes(found, classes, where)

    def files(self, samples: Sequence[int]) -> dict[int, Path]:
        """Return sample -> file, of these samples; those not in the cache folder yet are written, each whole or not at all."""
        part = f"image {self._image_suffix or ''}".strip()
        return cached_images(self.path, part, samples, self._encoded, lambda number: shown(self._images[number].name))

    def _encoded(self, samples: list[int]) -> Iterator[tuple[int, bytes]]:
        with opened(self.path) as file:
            for sample in samples:
                member = self._images[sample]
                file.seek(member.start)
                yield sample, file.read(member.size)

    def _add(self, key: str, members: dict[str, Member]) -> None:
        """Choose the image and the label among the members of a sample."""
        images = [suffix for suffix in members if f".{suffix}" in suffixes()]
        labels = [suffix for suffix in LABEL_SUFFIXES if suffix in members]
        image = self._chosen(key, members, images, self._image_suffix, "image")
        label = self._chosen(key, members, labels[:1] if "cls" in labels else labels, self._label_suffix, "label")
        for what, suffix, most in (("image", image, MOST_IMAGE), ("label", label, MOST_LABEL)):
            if members[suffix].size > most:
                raise ImageFolderError(
                    f"{self.path}: member {shown(members[suffix].name)} has {members[suffix].size} bytes, and at most {most} "
                    f"of {'an' if what == 'image' else 'a'} {what} are read; shorten it, or leave the sample out"
                )
        self._images.append(members[image])
        self._labels.append(members[label])
        if others := len(members) - 2:
            reason = "members that are neither image nor label"
            self.skipped[reason] = self.skipped.get(reason, 0) + others

    def _chosen(self, key: str, members: dict[str, Member], fit: list[str], named: str | None, what: str) -> str:
        if named is not None:
            fit = [named] if named in members else []
        if len(fit) == 1:
            return fit[0]
        there = ", ".join(shown(f".{suffix}") for suffix in sorted(members))
        if fit:
            raise ImageFolderError(
                f"{self.path}: sample {shown(key)} has {len(fit)} members that may be the {what}; name one: {what} = "
                f'"{fit[0]}"; it has {there}'
            )
        usual = f".{named}" if named else ", ".join(f".{suffix}" for suffix in LABEL_SUFFIXES) if what == "label" else ".jpg"
        raise ImageFolderError(
            f"{self.path}: sample {shown(key)} has no member that is its {what} (such as {usual}), but {there}; add it, leave "
            f"the sample out, or name another: {what} = ..."
        )

    def _label(self, member: Member, content: bytes) -> int | str:
        """Return a label's number or name."""
        where = f"{self.path}: member {shown(member.name)}"
        suffix = member.name.lower().rpartition(".")[2]
        try:
            text = content.decode("utf-8-sig").strip()
            value = json.loads(text) if suffix == "json" else text
        except (ValueError, RecursionError) as error:
            kind = "JSON" if suffix == "json" else "text in UTF-8"
            raise ImageFolderError(
                f"{where} is no valid {kind} ({error!s:.100}); correct it, or leave the sample out"
            ) from error
        if isinstance(value, dict):
            fields = [self._field] if self._field else [name for name in LABEL_NAMES if name in value][:1]
            if not fields or fields[0] not in value:
                names = ", ".join(shown(name) for name in sorted(value)[:10])
                raise ImageFolderError(
                    f'{where} has no {self._field or "label"}; name the field: label = "json.FIELD"; it has {names or "none"}'
                )
            value = value[fields[0]]
        if isinstance(value, bool) or not isinstance(value, int | str) or not 0 < len(str(value)) <= MOST_CHARACTERS:
            raise ImageFolderError(f"{where} says {shown(value)}, no name or whole number; correct it, or leave the sample out")
        if suffix == "cls" and isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
            return int(value)
        return value


def _samples(path: Path, skipped: dict[str, int]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield the key of every sample with its members by suffix: members of one key follow one another."""
    key: str | None = None
    members: dict[str, Member] = {}
    for member in read_members(path):
        name = member.name.removeprefix("./")
        if any(part.startswith(".") for part in name.split("/")):
            skipped["hidden"] = skipped.get("hidden", 0) + 1
            continue
        match = _KEY.fullmatch(name)
        if match is None:
            skipped["without a suffix"] = skipped.get("without a suffix", 0) + 1
            continue
        suffix = match[2].lower()
        if match[1] != key:
            if key is not None:
                yield key, members
            key, members = match[1], {}
        if suffix in members:
            raise ImageFolderError(f"{path}: member {shown(member.name)} is there twice; write the archive again")
        members[suffix] = member
    if key is not None:
        yield key, members
