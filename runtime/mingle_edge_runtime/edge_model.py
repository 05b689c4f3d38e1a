"""The gated runtime: a bundle opened for predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import batched
