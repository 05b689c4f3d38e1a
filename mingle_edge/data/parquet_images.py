"""Images that are rows of parquet files, made into files the first time they are asked for."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingle_edge.core.errors import ImageFolderError, MingleError, shown
from mingle_edge.core.extras import advice
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_folder import match_classes
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_columns import Columns, class_numbers, find_columns, find_shards
from mingle_edge.files.atomic_files import why_not_written
from mingle_edge.files.partial_folder import partial_folder
from mingle_edge.files.plain_file import refusal
from mingle_edge_runtime.images.image_file import open_image

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH = 64  # rows read at a time
MOST_ROWS = 10_000_000
"""Of one file: as many labels fit in memory, and a few bytes can stand for any number of equal ones."""
MOST_EXPANSION, LEAST_EXPANDED = 100, 64 << 20
"""A column that is said to become more than this many times as large, and this many bytes, is none of encoded images."""
_FILE = re.compile(r"(\d{7,})\.[a-z0-9]+")


VARIABLE = "MINGLE_EDGE_CACHE"


def cache_folder() -> Path:
    """Return the folder that `MINGLE_EDGE_CACHE` in the environment names, or `~/.cache/mingle-edge`; it need not exist yet."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "mingle-edge"


class ParquetImages:
    """The images of a labeled source, numbered over its files in the order of their names. Only labels are read at first."""

    def __init__(self, source: ImageSource, base: Path, classes: Sequence[str]) -> None:
        """Find files and columns and read every label.

        Raises:
            ImageFolderError: no such files or columns, a damaged file, or labels that are not the task's classes.
        """
        self.labels: list[int] = []
        self._shards: list[_Shard] = []
        self._starts: list[int] = []  # number of the first image of each shard
        for path in find_shards(source.files, base):
            shard = _Shard(path, source)
            self._starts.append(len(self.labels))
            self._shards.append(shard)
            self.labels += shard.labels(classes)

    def paths(self, numbers: Sequence[int], progress: Progress = silent) -> list[Path]:
        """Return files of the images with these numbers, in the cache folder; those that are not there yet are written."""
        files: dict[int, Path] = {}
        ends = [*self._starts[1:], len(self.labels)]
        for done, (shard, start, end) in enumerate(zip(self._shards, self._starts, ends, strict=True)):
            progress("images", done, len(ends), shard.path.name)
            wanted = [number - start for number in numbers if start <= number < end]
            files |= {start + row: path for row, path in shard.files(wanted).items()} if wanted else {}
        progress("images", len(ends), len(ends))
        return [files[number] for number in numbers]


class _Shard:
    """One parquet file."""

    def __init__(self, path: Path, source: ImageSource) -> None:
        self.path = path
        with self._open() as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
        if rows > MOST_ROWS:
            raise ImageFolderError(f"{path} has {rows} rows, and at most {MOST_ROWS} of a file are read; write it as several")
        self.columns: Columns = find_columns(schema, path, source.image, source.label)

    def labels(self, classes: Sequence[str]) -> list[int]:
        """Return the class number of each row."""
        with self._open() as file:
            self._check_expansion(file, self.columns.label)
            values: list[Any] = file.read(columns=[self.columns.label]).column(self.columns.label).to_pylist()
        if None in values:
            raise ImageFolderError(f"{self.path}: row {values.index(None)} has no {self.columns.label}; leave the row out")
        if values and isinstance(values[0], str):
            return self._by_name(values, classes)
        numbers = class_numbers(self.columns.names, classes, str(self.path))
        for row, value in enumerate(values):
            if not 0 <= value < len(numbers):
                raise ImageFolderError(
                    f"{self.path}: row {row} has {self.columns.label} {value}, and the {len(numbers)} classes of the task are "
                    f"numbered from 0 to {len(numbers) - 1}; correct the classes, or name another column of labels"
                )
        return [numbers[value] for value in values]

    def files(self, rows: Sequence[int]) -> dict[int, Path]:
        """Return row -> file, of these rows; those not in the cache folder yet are written, each whole or not at all."""
        folder = self._folder()
        try:
            there = _finished(folder)
            missing = sorted(set(rows) - there.keys())
            if missing:
                folder.mkdir(parents=True, exist_ok=True)
                with partial_folder(folder, "images") as unfinished:
                    (unfinished / ".source").write_bytes(os.fsencode(self.path.resolve()) + b"\n")
                    os.replace(unfinished / ".source", folder / ".source")
                    for row, content in self._encoded(missing):
                        name = _name(row, content, self.path)
                        (unfinished / name).write_bytes(content)
                        os.replace(unfinished / name, folder / name)
                        there[row] = folder / name
        except OSError as error:
            raise ImageFolderError(
                f"{folder}: {why_not_written(error)} (the environment variable {VARIABLE} names the folder for images of "
                "parquet files)"
            ) from error
        if lacking := set(rows) - there.keys():
            raise ImageFolderError(f"{self.path}: row {min(lacking)} has no {self.columns.image}; copy or download it again")
        return {row: there[row] for row in rows}

    def _folder(self) -> Path:
        """Return a folder that belongs to this file as it is now, and to the column of its images."""
        status = self.path.stat()
        identity = f"{self.path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{self.columns.image}"
        digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
        return cache_folder() / "images" / f"{self.path.stem}-{digest[:16]}"

    def _encoded(self, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        """Yield rows with their encoded images, one group of rows after another; groups without any are not read."""
        if not rows:
            return
        with self._open() as file:
            self._check_expansion(file, f"{self.columns.image}.bytes")
            start = 0
            for group in range(file.metadata.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                wanted = rows[bisect.bisect_left(rows, start) : bisect.bisect_left(rows, end)]
                if wanted:
                    yield from self._group(file, group, start, set(wanted))
                start = end

    def _group(self, file: pq.ParquetFile, group: int, start: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        column = f"{self.columns.image}.bytes"
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column]):
            content = batch.column(self.columns.image).field("bytes")
            for offset in range(len(content)):
                if (row := start + offset) in wanted:
                    value = content[offset].as_py()
                    if value is None:
                        raise ImageFolderError(
                            f"{self.path}: row {row} has no bytes in column {self.columns.image}; images must be inside the "
                            "file, not beside it"
                        )
                    yield row, value
            start += len(content)

    def _by_name(self, values: list[str], classes: Sequence[str]) -> list[int]:
        matched = match_classes(sorted(set(values)), classes)
        places = {matched[name]: number for number, name in enumerate(classes) if name in matched}
        if unknown := sorted(set(values) - places.keys()):
            raise ImageFolderError(
                f"{self.path}: column {self.columns.label} has {shown(unknown[0])}, which is no class; correct the classes"
            )
        return [places[value] for value in values]

    def _check_expansion(self, file: pq.ParquetFile, column: str) -> None:
        """Refuse by the sizes a file declares what would take far more memory than the file has bytes."""
        for group in range(file.metadata.num_row_groups):
            described = file.metadata.row_group(group)
            for number in range(described.num_columns):
                chunk = described.column(number)
                if chunk.path_in_schema != column:
                    continue
                size = chunk.total_uncompressed_size
                if size > LEAST_EXPANDED and size > MOST_EXPANSION * chunk.total_compressed_size:
                    raise ImageFolderError(
                        f"{self.path}: column {column} says that its {chunk.total_compressed_size} bytes of row group {group} "
                        f"become {size}, more than {MOST_EXPANSION} times as many; copy or download it again"
                    )

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        """Open the file. Whatever pyarrow finds wrong with it becomes one error that names it."""
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImageFolderError(f"{self.path}: reading parquet files needs pyarrow; {advice(error, 'pyarrow')}") from error
        try:
            # By a file of Python's: pyarrow takes a path for a URI where it can, and for text in UTF-8 always.
            with self.path.open("rb") as stream, pq.ParquetFile(stream) as file:
                yield file
        except MingleError:
            raise
        except PermissionError as error:
            raise ImageFolderError(f"{self.path} {refusal(error)}") from error
        except Exception as error:  # besides pyarrow's own: what Python makes of values that are not what their types say
            raise ImageFolderError(
                f"{self.path} cannot be read as parquet ({error!s:.200}); copy or download it again"
            ) from error


def _finished(folder: Path) -> dict[int, Path]:
    """List the images of a cache folder by row; an empty file is what a power failure left, and others are not ours."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        named = ((entry, _FILE.fullmatch(entry.name)) for entry in entries)
        return {int(match[1]): Path(entry.path) for entry, match in named if match and entry.stat().st_size > 0}


def _name(row: int, content: bytes, source: Path) -> str:
    """Name the file of a row."""
    try:
        with open_image(io.BytesIO(content)) as image:
            suffix = f".{image.format or 'image'}".lower()
    except Exception as error:  # Pillow raises much besides OSError on broken files
        raise ImageFolderError(f"{source}: the image of row {row} cannot be read ({error}); leave the row out") from error
    return f"{row:07d}{suffix}"
