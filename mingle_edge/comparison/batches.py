"""Batches of test images, and rows of figures per image that are kept where they depend on nothing but the image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_BYTES = 1 << 30  # of rows; beyond that they are computed each time
_numbers = itertools.count()


@dataclass(frozen=True)
class TestBatch:
    """At most 64 images, all of one task; batch-pooled gates are pooled over them."""

    __test__ = False  # not a test class

    images: Tensor  # [n, 3, H, W], on the device
    task: str  # whose images they are; only `individual` may answer by it
    numbers: list[int]  # [n], of the images within `source`
    source: str  # identifies the test set and its corruption, for what is kept on the workbench


def fresh_batch(images: Tensor, task: str) -> TestBatch:
    """Return a batch with a source that no other ever has: nothing kept may answer in a method's place where it is measured."""
    return TestBatch(images, task, list(range(len(images))), f"measured/{next(_numbers)}")


class ImageRows:
    """One row per image for every key, such as its embedding under one expert."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._rows: dict[tuple[Hashable, str], dict[int, Tensor]] = {}  # by number of the image
        self._left = budget

    def of(
        self, key: Hashable, batch: TestBatch, compute: Callable[[Tensor], Tensor], places: list[int] | None = None
    ) -> Tensor:
        """Return rows `[n, d]` of the images at the given places of the batch, or of all; `compute` maps images to rows.

        `key` names everything but the image that a row depends on.
        """
        kept = self._rows.setdefault((key, batch.source), {})
        places = list(range(len(batch.numbers))) if places is None else places
        rows = {batch.numbers[place]: kept.get(batch.numbers[place]) for place in places}
        if missing := [place for place in places if rows[batch.numbers[place]] is None]:
            computed = compute(batch.images[missing])
            new = {batch.numbers[place]: row for place, row in zip(missing, computed, strict=True)}
            rows |= new
            if (size := computed.numel() * computed.element_size()) <= self._left:
                self._left -= size
                kept |= new
        return torch.stack([row for row in rows.values() if row is not None])
