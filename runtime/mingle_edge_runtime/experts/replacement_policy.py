"""Which resident expert to give up first: LRFU, which weighs how often and how lately an expert was used.

Every use is worth one, and half of it is forgotten every `HALF_LIFE` requests; the expert worth least goes first. A short
half-life is LRU, an endless one LFU. LRU forgets which experts come back again and again, LFU keeps those of a mission long
over; `benchmarks/eviction_policy.py` replays routes under all three, and 8 is never far from the best.

D. Lee et al., "LRFU: A spectrum of policies that subsumes the least recently used and least frequently used policies",
IEEE Transactions on Computers 50 (12), 2001.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

HALF_LIFE = 8
"""requests"""


class LRFU(Generic[K]):
    """Remembers the use of items, resident or not. Not safe to use from several threads without a lock."""

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        """Count uses that are worth half as much after every `half_life` requests."""
        self._half_life = half_life
        self._requests = 0
        # Not the worth itself, which decays with every request, but log2 of it as it would be at request 0.
        self._log_worth: dict[K, float] = {}

    def use(self, items: Iterable[K]) -> None:
        """Count one request that uses these items together."""
        self._requests += 1
        now = self._requests / self._half_life
        for item in items:
            before = self._log_worth.get(item, -math.inf)
            self._log_worth[item] = now + math.log2(1 + 2 ** (before - now))

    def order(self, items: Iterable[K]) -> list[K]:
        """Return the items, all used before, that worth least first; equal ones as they came."""
        return sorted(items, key=self._log_worth.__getitem__)
