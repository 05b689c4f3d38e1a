"""Labeled images in several files that hold many each, made into files of their own the first time they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.parquet_images import ParquetShard
from mingle_edge.data.webdataset_images import TarShard


class ShardedImages:
    """The images of shards, numbered over them in their order. Only labels are read at first."""

    def __init__(self, paths: Sequence[Path], source: ImageSource, classes: Sequence[str], *, parquet: bool) -> None:
        """Open each file, parquet or tar, and read every label.

        Raises:
            ImageFolderError: no columns or members such as `source` names, a damaged file, or labels that are not the task's
                classes.
        """
        self.taken = f"{len(paths)} {'parquet' if parquet else 'tar'} file{'s' if len(paths) > 1 else ''}"
        self.labels: list[int] = []
        self.skipped: dict[str, int] = {}
        self._shards: list[ParquetShard | TarShard] = []
        self._starts: list[int] = []  # number of the first image of each shard
        for path in paths:
            shard = ParquetShard(path, source) if parquet else TarShard(path, source)
            self._starts.append(len(self.labels))
            self._shards.append(shard)
            self.labels += shard.labels(classes)
            for reason, count in shard.skipped.items():
                self.skipped[reason] = self.skipped.get(reason, 0) + count

    def paths(self, numbers: Sequence[int], progress: Progress = silent) -> list[Path]:
        """Return files of the images with these numbers, in the cache folder; those that are not there yet are written."""
        files: dict[int, Path] = {}
        ends = [*self._starts[1:], len(self.labels)]
        for done, (shard, start, end) in enumerate(zip(self._shards, self._starts, ends, strict=True)):
            progress("images", done, len(ends), shard.path.name)
            wanted = [number - start for number in numbers if start <= number < end]
            files |= {start + image: path for image, path in shard.files(wanted).items()} if wanted else {}
        progress("images", len(ends), len(ends))
        return [files[number] for number in numbers]
