"""Labelled images of one task, preprocessed once and kept as the bytes they come from, or decoded again for each pass."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.corruptions import Corruption
from mingle_edge.images import load_images

BATCH = 64  # images; what batch-pooled gates are pooled over, as in the paper's evaluation
KEPT_BYTES = 1 << 28  # of preprocessed images of one set; larger sets are decoded again whenever they are needed


class ImageSet:
    """Images with labels, in batches of at most 64."""

    def __init__(
        self,
        paths: list[Path],
        labels: list[int],
        architecture: VisionArchitecture,
        corruption: Corruption | None = None,
    ) -> None:
        self.paths = paths
        self.labels = torch.tensor(labels)  # [n]
        self.corruption = corruption
        self._architecture = architecture
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int) -> list[int]:
        """Numbers of `count` images spread evenly over the set, whose classes follow one another; all if there are no more."""
        if count >= len(self):
            return list(range(len(self)))
        return [i * len(self) // count for i in range(count)]

    def batches(self, numbers: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Image numbers and preprocessed images `[n, 3, H, W]`, the next batch decoded while one is used."""
        parts = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
        if len(self) * 3 * self._architecture.image_size**2 * 4 <= KEPT_BYTES:
            if self._kept is None:
                self._kept = self._load(list(range(len(self))))
            for part in parts:
                yield part, self._kept[part]
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = [pool.submit(self._load, parts[0])] if parts else []
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                images = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self._load, following))
                yield part, images

    def _load(self, numbers: list[int]) -> Tensor:
        return load_images([self.paths[n] for n in numbers], self._architecture, self.corruption)
