"""Batches of test images, and rows of figures per image that are kept where they depend on nothing but the image."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_BYTES = 1 << 30  # of rows; beyond that they are computed each time


@dataclass(frozen=True)
class TestBatch:
    """At most 64 images, all of one task; batch-pooled gates are pooled over them."""

    __test__ = False  # not a test class

    images: Tensor  # [n, 3, H, W], on the device
    task: str  # whose images they are; only `individual` may answer by it
    numbers: list[int]  # [n], of the images within `source`
    source: str  # identifies the test set and its corruption, for what is kept on the workbench


class ImageRows:
    """One row per image for every key, such as its embedding under one expert."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._rows: dict[tuple[Hashable, str], tuple[Tensor, Tensor]] = {}  # rows [images, d], which are known [images]
        self._left = budget

    def of(
        self, key: Hashable, batch: TestBatch, compute: Callable[[Tensor], Tensor], places: list[int] | None = None
    ) -> Tensor:
        """Return rows `[n, d]` of the images at the given places of the batch, or of all; `compute` maps images to rows.

        `key` names everything but the image that a row depends on.
        """
        places = list(range(len(batch.numbers))) if places is None else places
        numbers = torch.tensor([batch.numbers[place] for place in places])
        stored = self._rows.get((key, batch.source))
        known = torch.zeros(len(numbers), dtype=torch.bool)
        if stored is not None:
            within = numbers < len(stored[1])
            known[within] = stored[1][numbers[within]]
        if known.all() and stored is not None:
            return stored[0][numbers.to(stored[0].device)]
        missing = (~known).nonzero().flatten().tolist()
        images = batch.images if len(missing) == len(batch.images) else batch.images[[places[i] for i in missing]]
        new = compute(images)
        self._keep((key, batch.source), numbers[missing], new)
        if len(missing) == len(numbers) or stored is None:
            return new
        rows = new.new_empty(len(numbers), *new.shape[1:])
        rows[missing] = new
        rows[known.to(rows.device)] = stored[0][numbers[known].to(rows.device)]
        return rows

    def _keep(self, key: tuple[Hashable, str], numbers: Tensor, new: Tensor) -> None:
        rows, known = self._rows.get(key, (new.new_empty(0, *new.shape[1:]), torch.zeros(0, dtype=torch.bool)))
        if (more := int(numbers.max()) + 1 - len(known)) > 0:
            more = max(more, len(known))  # room for twice as many: few copies in all
            bytes_more = more * new[0].numel() * new.element_size()
            if bytes_more > self._left:
                return
            self._left -= bytes_more
            rows = torch.cat([rows, rows.new_empty(more, *rows.shape[1:])])
            known = torch.cat([known, torch.zeros(more, dtype=torch.bool)])
        rows[numbers.to(rows.device)] = new
        known[numbers] = True
        self._rows[key] = (rows, known)
