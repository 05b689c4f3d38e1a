"""Between two experts, for images that the router is in doubt of to the end: both run, and the more typical answer counts."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import index
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import Head, read_heads

MOST_TYPICAL = 1.0
"""deviations above the typical logit that count: more is no better a sign that an image is known"""


class Judge:
    """Scores experts by how typical their largest logit is of their own task, and by the router's posterior."""

    def __init__(self, bundle: Bundle, record: index.Judge) -> None:
        """Read nothing yet; the tasks' own heads are read with the first image that is judged."""
        self._bundle, self._trust, self._bound = bundle, record.trust, record.bound
        self._typical, self._deviation = np.array(record.typical), np.array(record.deviation)
        self._heads: list[Head] | None = None
        self._lock = threading.Lock()

    def typicality(self, task: int, embed: NDArray[np.float32]) -> float:
        """Return by how many deviations the largest logit of an embedding `[dim]` exceeds what is typical of a task."""
        with self._lock:
            if self._heads is None:
                self._heads = list(read_heads(self._bundle).values())
        largest = self._heads[task].logits(embed).max()
        return float((largest - self._typical[task]) / self._deviation[task])

    def score(self, typicality: float, posterior: np.float32) -> float:
        """Return the score of a task, from an image's typicality and probability of it."""
        return typicality + self._trust * float(np.log(np.maximum(np.float64(posterior), np.finfo(np.float64).tiny)))

    def accepts(self, confidence: float, typicality: float) -> bool:
        """Return whether an expert that was chosen may answer; else the plain backbone does.

        confidence: of the router's last stage.
        """
        return confidence + min(typicality, MOST_TYPICAL) >= self._bound
