"""Images that are rows of parquet files, made into files the first time they are asked for."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingle_edge.core.errors import ImageFolderError, MingleError
from mingle_edge.core.extras import advice
from mingle_edge.data.class_matching import written_classes
from mingle_edge.data.image_cache import cached_images
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_columns import Columns, class_numbers, find_columns
from mingle_edge.files.plain_file import refusal

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH = 64  # rows read at a time
MOST_ROWS = 10_000_000
"""Of one file: as many labels fit in memory, and a few bytes can stand for any number of equal ones."""
MOST_EXPANSION, LEAST_EXPANDED = 100, 64 << 20
"""A column that is said to become more than this many times as large, and this many bytes, is none of encoded images."""


class ParquetShard:
    """One parquet file: an image and its label in every row."""

    def __init__(self, path: Path, source: ImageSource) -> None:
        self.path = path
        self.skipped: dict[str, int] = {}
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
            return written_classes(values, classes, f"{self.path}: column {self.columns.label}")
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
        return cached_images(self.path, self.columns.image, rows, self._encoded, "row {}".format)

    def _encoded(self, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        """Yield rows with their encoded images, one group of rows after another; groups without any are not read."""
        if not rows:
            return
        with self._open() as file:
            self._check_expansion(file, ".".join(self.columns.content))
            start = 0
            for group in range(file.metadata.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                wanted = rows[bisect.bisect_left(rows, start) : bisect.bisect_left(rows, end)]
                if wanted:
                    yield from self._group(file, group, start, set(wanted))
                start = end

    def _group(self, file: pq.ParquetFile, group: int, start: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        outer, *inner = self.columns.content
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=[".".join(self.columns.content)]):
            content = batch.column(outer)
            for name in inner:
                content = content.field(name)
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
