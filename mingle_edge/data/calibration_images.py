"""Random numbers that belong to one task, and batches in an order drawn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def task_generator(seed: int, task: str, purpose: str) -> torch.Generator:
    """Return random numbers that depend on the setting, the task and the purpose, never on what was merged before."""
    import torch

    digest = hashlib.sha256(f"{seed}/{task}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def permutation(count: int, generator: torch.Generator) -> list[int]:
    """Return the numbers below `count` in an order drawn from the generator."""
    import torch

    return torch.randperm(count, generator=generator).tolist()


def shuffled_batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield `steps` batches of numbers below `count`: each once before any comes again, at most `size` a batch."""
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = permutation(count, generator)
        batch, order = order[:size], order[size:]
        yield batch
