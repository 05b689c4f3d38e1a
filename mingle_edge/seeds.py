"""The few unlabeled images a task is adapted on, and the random numbers that belong to a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.images import load_images

KEPT_BYTES = 1 << 30  # of preprocessed images held in memory; beyond that they are decoded again for each batch


class SeedImages:
    """Preprocessed seed images, loaded when first needed."""

    def __init__(self, paths: list[Path], architecture: VisionArchitecture) -> None:
        self.paths = paths
        self.architecture = architecture
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, indices: list[int]) -> Tensor:
        """The images with these numbers, `[len(indices), 3, H, W]`."""
        if len(self) * 3 * self.architecture.image_size**2 * 4 > KEPT_BYTES:
            return load_images([self.paths[i] for i in indices], self.architecture)
        if self._kept is None:
            self._kept = load_images(self.paths, self.architecture)
        return self._kept[indices]

    def shuffled_batches(self, size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
        """`steps` batches of image numbers: every image once before any comes again, at most `size` a batch."""
        order: list[int] = []
        for _ in range(steps):
            if not order:
                order = torch.randperm(len(self), generator=generator).tolist()
            batch, order = order[:size], order[size:]
            yield batch


def task_generator(seed: int, task: str, purpose: str) -> torch.Generator:
    """Random numbers that depend on the setting, the task and the purpose, never on what was merged before."""
    digest = hashlib.sha256(f"{seed}/{task}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
