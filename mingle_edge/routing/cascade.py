"""Routing in stages, each paid only for images that the one before is in doubt of.

Each stage is a router in closed form over the features of the stages before it and its own: statistics of the pixels, moments of
the tokens of the plain backbone's first blocks, the plain backbone's embedding. At the end two experts are run and judged by
their largest logits, as in TPL (Lin et al., "Class incremental learning via likelihood ratio based task prediction", ICLR 2024).
What is chosen is not the most probable task but what is expected to lose least: the Bayes decision under the losses measured
at the merge, which knows the plain backbone as one more choice. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.router import Router
from mingle_edge.routing.statistics import Array

StageName = Literal["pixels", "blocks", "embedding"]
ANOTHER_GROUP = 2.0
"""Added to what an expert outside the most probable group is expected to lose, which is at most 1."""


@dataclass(frozen=True)
class Stage:
    """One router of the cascade, over the features of the stages before it and its own."""

    name: StageName
    blocks: int  # of the plain backbone that its own features are of; 0 but in the stage of blocks
    router: Router
    doubt: float  # an image that is expected to lose more than this, or is not claimed, goes on


@dataclass(frozen=True)
class Judge:
    """Judges between experts by how typical their largest logit is of their own task, and by the router."""

    typical: Array  # [T], mean largest logit of a task's seeds under its own expert and head
    deviation: Array  # [T]
    trust: float  # weight of the logarithm of the posterior

    def scores(self, posterior: Array, logits: Array, tasks: NDArray[np.int64]) -> Array:
        """Return scores `[n, k]` of k experts of each image, `tasks [n, k]`, with their posteriors and largest logits `[n, k]`."""
        tiny = np.finfo(np.float64).tiny
        typical: Array = (logits - self.typical[tasks]) / self.deviation[tasks]
        return typical + self.trust * np.log(np.maximum(posterior, tiny))


@dataclass(frozen=True)
class Cascade:
    """Stages, and what they decide by."""

    stages: tuple[Stage, ...]
    losses: Array  # [T, T + 1]: of a task's images, labels that change under each expert and, last, the plain backbone
    groups: NDArray[np.int64]  # [T], tasks of one group share a number
    judge: Judge | None = None

    def expected(self, posterior: Array) -> Array:
        """Return what each choice is expected to lose `[n, T + 1]`, the plain backbone last, from `posterior [n, T]`.

        Experts outside the most probable group come after all others.
        """
        members = np.asarray(self.groups[:, None] == self.groups, dtype=np.float64)  # [T, T]
        of_group = posterior @ members  # [n, T], of the group of each task
        outside = of_group < of_group.max(axis=1, keepdims=True)
        losses = posterior @ self.losses
        losses[:, :-1] += ANOTHER_GROUP * outside
        return losses
