"""Routing in stages, each paid only for images that the one before is in doubt of.

Each stage is a router in closed form over the features of the stages before it and its own: statistics of the pixels, moments
of the tokens of the plain backbone's first blocks, the plain backbone's embedding. At the end two experts are run and judged
by their largest logits, as in TPL (Lin et al., "Class incremental learning via likelihood ratio based task prediction", ICLR
2024). What is chosen is not the most probable task but what is expected to lose least: the Bayes decision under the losses
measured at the merge, which knows the plain backbone as one more choice. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.router import Router
from mingle_edge.routing.statistics import Array

StageName = Literal["pixels", "blocks", "embedding"]
MOST_TYPICAL = 1.0
"""Deviations above the typical logit that count: more is no better a sign that an image is known."""
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
    """Judges between the two experts that are expected to lose least, by how typical their largest logit is of their own task.

    It is asked for images of the last stage that are claimed and in doubt: expected to lose more than its `doubt`, or with a
    confidence below `unsure`. What it then claims is told by both, the router's confidence and how typical the answer is.
    """

    typical: Array  # [T], mean largest logit of a task's seeds under its own expert and head
    deviation: Array  # [T]
    trust: float  # weight of the logarithm of the posterior
    unsure: float  # confidence
    bound: float  # an image whose confidence and typicality add to less runs on the plain backbone

    def typicality(self, logits: Array, tasks: NDArray[np.int64]) -> Array:
        """Return how many deviations largest logits `[n, k]` of experts `tasks [n, k]` are above the typical ones, `[n, k]`."""
        return np.asarray((logits - self.typical[tasks]) / self.deviation[tasks])

    def claims(self, confidence: Array, typicality: Array) -> NDArray[np.bool_]:
        """Say whether images `[n]` are claimed, from their confidence and the typicality of the expert chosen `[n]` each."""
        return np.asarray(confidence + np.minimum(typicality, MOST_TYPICAL) >= self.bound)

    def scores(self, posterior: Array, logits: Array, tasks: NDArray[np.int64]) -> Array:
        """Return scores `[n, k]` of each image's experts `tasks [n, k]`, from their posteriors and largest logits `[n, k]`."""
        tiny = np.finfo(np.float64).tiny
        return self.typicality(logits, tasks) + self.trust * np.log(np.maximum(posterior, tiny))


@dataclass(frozen=True)
class Cascade:
    """Stages, and what they decide by."""

    stages: tuple[Stage, ...]
    losses: Array  # [T, T + 1]: of a task's images, labels that change under each expert and, last, the plain backbone
    groups: NDArray[np.int64]  # [T], tasks of one group share a number, from 0 without gaps
    judge: Judge | None = None

    def expected(self, posterior: Array) -> Array:
        """Return what each choice is expected to lose `[n, T + 1]`, the plain backbone last, from `posterior [n, T]`.

        Experts outside the most probable group come after all others.
        """
        members = np.asarray(self.groups[:, None] == np.arange(self.groups.max() + 1), dtype=np.float64)  # [T, groups]
        best = (posterior @ members).argmax(axis=1)  # [n]
        losses = posterior @ self.losses
        losses[:, :-1] += ANOTHER_GROUP * (self.groups != best[:, None])
        return np.asarray(losses)

    def settled(self, number: int, posterior: Array, confidence: Array) -> NDArray[np.bool_]:
        """Say of images at a stage whether they go no further, `[n]`, from `posterior [n, T]` and `confidence [n]`.

        At the last stage the others are judged, if there is a judge, and claimed by no task otherwise.
        """
        stage, last = self.stages[number], number == len(self.stages) - 1
        sure = self.expected(posterior).min(axis=1) <= stage.doubt
        if not last:
            return np.asarray(sure & (confidence >= stage.router.confidence_bound))
        if self.judge is None or len(self.losses) < 2:
            return np.ones(len(posterior), np.bool_)
        unclaimed = confidence < stage.router.confidence_bound
        return np.asarray(unclaimed | (sure & (confidence >= self.judge.unsure)))

    def without_judge(self) -> Cascade:
        """Return the cascade that runs no expert to choose one: for routes of several experts."""
        return replace(self, judge=None)


class StageFeatures(Protocol):
    """The features of n images that a stage reads: an array `[n, F]`, or what computes those of the images asked for."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, numbers: NDArray[np.int64], /) -> Array:
        """Return the features `[m, F]` of the images with these numbers `[m]`."""


LargestLogits = Callable[[NDArray[np.int64], NDArray[np.int64]], Array]
"""(numbers of m images, tasks [m, 2]) -> largest logit [m, 2] of each image under each task's expert and head"""


@dataclass(frozen=True)
class Decisions:
    """What a cascade decides for n images."""

    posterior: Array  # [n, T], of the stage that was reached last
    confidence: Array  # [n]
    expected: Array  # [n, T + 1], of that stage
    choice: NDArray[np.int64]  # [n], the expert that answers; T: the plain backbone
    stage: NDArray[np.int64]  # [n], number of the stage; one more than the last: judged


def decide(cascade: Cascade, features: Sequence[StageFeatures], largest_logits: LargestLogits) -> Decisions:
    """Route n images by the features of every stage, of which those of later ones are asked for images in doubt alone."""
    n, T = len(features[0]), len(cascade.losses)
    posterior, confidence, expected = np.zeros((n, T)), np.zeros(n), np.zeros((n, T + 1))
    choice, reached = np.zeros(n, np.int64), np.zeros(n, np.int64)
    going = np.arange(n)
    for number, (stage, of_stage) in enumerate(zip(cascade.stages, features, strict=True)):
        posterior[going], confidence[going] = stage.router.posterior(of_stage[going])
        expected[going] = cascade.expected(posterior[going])
        reached[going] = number
        settled = cascade.settled(number, posterior[going], confidence[going])
        if number == len(cascade.stages) - 1:
            unclaimed = confidence[going] < stage.router.confidence_bound
            choice[going] = np.where(unclaimed, T, expected[going].argmin(axis=1))
        else:
            choice[going] = expected[going].argmin(axis=1)
        going = going[~settled]
    if cascade.judge is not None and len(going):
        two = np.argsort(expected[going, :T], axis=1, kind="stable")[:, :2]  # [m, 2]
        logits = largest_logits(going, two)
        scores = cascade.judge.scores(np.take_along_axis(posterior[going], two, axis=1), logits, two)
        best = scores.argmax(axis=1)[:, None]
        typicality = np.take_along_axis(cascade.judge.typicality(logits, two), best, axis=1)[:, 0]
        winner = np.take_along_axis(two, best, axis=1)[:, 0]
        choice[going] = np.where(cascade.judge.claims(confidence[going], typicality), winner, T)
        reached[going] = len(cascade.stages)
    return Decisions(posterior, confidence, expected, choice, reached)
