"""Fitting a cascade to the statistics of tasks, and when an image goes on to its next stage. numpy only.

All of it is decided on seeds that the routers have not seen (`calibration.left_out`), and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mingle_edge.routing.calibration import LeftOut, bound, calibrated, left_out
from mingle_edge.routing.cascade import MOST_TYPICAL, Cascade, Judge, Stage, StageName
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.router import fit_router, softmax
from mingle_edge.routing.statistics import Array, RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts, expected_losses

GOING_ON = 0.06, 0.03
"""Shares of a stage's images that go on: those expected to lose most, and those of the least confidence."""
JUDGED = 0.04, 0.05
"""The same of the last stage, whose images go on to the judge, who runs one expert more."""
TRUST = 0.5
"""The judge's weight of the logarithm of the posterior: it is sure of more than it knows; chosen on the suite's tune images."""
FEWEST = 8  # seeds of a task whose largest logits tell what is typical


def fit_cascade(
    statistics: Sequence[RouterStatistics],
    layout: Layout,
    blocks: int | None,
    tasks: Sequence[str],
    seen: Sequence[WrongExperts],
    groups: Sequence[str | None],
    refused: float,
) -> Cascade:
    """Fit the cascade of T >= 1 tasks.

    Args:
        statistics: of each task, of all features in `layout`.
        layout: where the features of a stage are.
        blocks: what the stage of blocks reads; None: there is no such stage.
        tasks: names.
        seen: what experts did to each task's seeds.
        groups: the group of each task; None: it is alone.
        refused: share of tasks' own images, at most, that no task claims.
    """
    plan = [_fit(statistics, layout.columns(None), "pixels", 0, refused)]
    if blocks is not None:
        plan.append(_fit(statistics, layout.columns(blocks), "blocks", blocks, refused))
    plan.append(_fit(statistics, layout.columns(blocks, embedding=True), "embedding", 0, refused))
    cascade = Cascade(tuple(f.stage for f in plan), expected_losses(tasks, seen), group_numbers(groups))
    if plan[-1].images is None:
        return cascade  # nothing tells when an image is in doubt
    judged = _judged(plan[-1], cascade)
    judge = _judge(plan[-1], judged, cascade, seen, refused)
    stages = [_going_on(fitted, cascade) for fitted in plan[:-1]]
    return replace(cascade, stages=(*stages, plan[-1].stage if judge is None else judged), judge=judge)


def group_numbers(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the number of each task's group, from 0 in order of first appearance; a task without one is alone in its own.

    Where no task has a group, all are in one, so that nothing but the losses decides between them.
    """
    if not any(groups):
        return np.zeros(len(groups), np.int64)
    names = [name if name is not None else f"\0{number}" for number, name in enumerate(groups)]
    order = list(dict.fromkeys(names))
    return np.array([order.index(name) for name in names], np.int64)


@dataclass(frozen=True)
class _Fitted:
    """A stage before it is known when an image goes on: every image does."""

    stage: Stage
    images: LeftOut | None

    @property
    def posterior(self) -> Array:
        """Return that of the images left out."""
        assert self.images is not None
        return softmax(self.images.scores / self.stage.router.temperature)

    @property
    def confidence(self) -> Array:
        """Return that of the images left out."""
        assert self.images is not None
        return self.stage.router.confidence(self.posterior, self.images.nearness)


def _fit(
    statistics: Sequence[RouterStatistics], columns: NDArray[np.int64], name: StageName, blocks: int, refused: float
) -> _Fitted:
    own = [s.columns(columns) for s in statistics]
    router, images = fit_router(own), left_out(own)
    router = router if images is None else calibrated(router, images, refused)
    return _Fitted(Stage(name, blocks, router, -1.0), images)


def _going_on(fitted: _Fitted, cascade: Cascade) -> Stage:
    """Return the stage with the doubt and the confidence from which images go on to the next."""
    doubtful, unsure = GOING_ON
    router = replace(fitted.stage.router, confidence_bound=bound(fitted.confidence, unsure))
    return replace(fitted.stage, router=router, doubt=_doubt(fitted, cascade, doubtful))


def _doubt(fitted: _Fitted, cascade: Cascade, share: float) -> float:
    """Return the expected loss that at most this share of the images exceeds."""
    expected = cascade.expected(fitted.posterior).min(axis=1)
    return float(np.quantile(expected, 1 - share, method="higher"))


def _judged(fitted: _Fitted, cascade: Cascade) -> Stage:
    """Return the last stage with the doubt from which experts are judged; what is refused is left to the judge."""
    router = replace(fitted.stage.router, confidence_bound=-np.inf)
    return replace(fitted.stage, router=router, doubt=_doubt(fitted, cascade, JUDGED[0]))


def _judge(fitted: _Fitted, stage: Stage, cascade: Cascade, seen: Sequence[WrongExperts], refused: float) -> Judge | None:
    """Return the judge, which may refuse a share of the images; None where too few seeds tell what is typical."""
    if len(seen) < 2 or any(len(of_task.largest_logits) < FEWEST for of_task in seen):
        return None
    logits = [np.array(of_task.largest_logits) for of_task in seen]
    assert fitted.images is not None
    judge = Judge(
        typical=np.array([own.mean() for own in logits]),
        deviation=np.array([max(float(own.std()), 1e-6) for own in logits]),
        trust=TRUST,
        unsure=bound(fitted.confidence, JUDGED[1]),
        bound=-np.inf,
    )
    images = fitted.images
    known = ~images.varied & (images.seeds < np.array([len(own) for own in logits])[images.tasks])
    largest = np.array([logits[task][seed] for task, seed in zip(images.tasks[known], images.seeds[known], strict=True)])
    typicality = judge.typicality(largest[:, None], images.tasks[known][:, None])[:, 0]
    confidence = fitted.confidence[known]
    doubtful = cascade.expected(fitted.posterior[known]).min(axis=1) > stage.doubt
    judged = doubtful | (confidence < judge.unsure)
    together = np.where(judged, confidence + np.minimum(typicality, MOST_TYPICAL), np.inf)
    return replace(judge, bound=bound(together, refused)) if judged.any() else judge
