"""Does adapting the router's statistics to an unlabeled, shifted stream help on corrupted images? No gradients, no labels.

    python -m research.studies.router_shift --suite DIR [--pretraining-seeds 0 1 2] [--tasks 8] [--severity 5] [--part test]

The router is that of the cascade's last stage, for all images. Seeds are clean, five per class with sixteen variations; images
are corrupted as CIFAR-C's are. A stream is the images of all tasks mixed, or those of one task. From the stream's first so many
images something is estimated, and all of the stream is routed by it. `none`: nothing is estimated. `mean`: features are moved
so that their mean is the mean of the tasks' means. `mean and deviation`: and scaled per feature to the deviation the router
expects. `tasks' means`: two rounds of moving each task's mean by its posterior-weighted images, as much as their weight stands
against 50 images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mingle_edge.data.corruptions import CORRUPTIONS, Corruption
from mingle_edge.routing.depth import choose_depth
from mingle_edge.routing.router import Router, fit_router
from mingle_edge.routing.statistics import RouterStatistics
from research.studies.routes import Floats, route_alone
from research.studies.study import BATCH, VARIATIONS, Study
from research.studies.tables import Table, note, parser, percent

SEEN = 256  # images of a stream that are looked at before it is routed
ROUNDS, PRIOR = 2, 50.0  # of moving tasks' means; images a task's mean is worth

Adapted = tuple[Router, Callable[[Floats], Floats]]
Adapt = Callable[[Router, Sequence[RouterStatistics], Floats], Adapted]
"""(router, statistics, features seen) -> router to use and what to do to features before"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__, tasks=8)
    options.add_argument("--severity", type=int, default=5, choices=range(1, 6))
    options.add_argument("--part", choices=["test", "tune"], default="test")
    given = options.parse_args(arguments)
    columns = ("adapted", "clean", *CORRUPTIONS, "mean of the corrupted")
    mixed, single = Table(*columns), Table(*columns)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        statistics = [RouterStatistics.from_features(of_task) for of_task in study.drawn(study.seed_features(VARIATIONS))]
        read = study.layout.columns(choose_depth(statistics, study.layout), embedding=True)
        statistics = [s.columns(read) for s in statistics]
        router = fit_router(statistics)
        routed: dict[str, list[tuple[float, float]]] = {label: [] for label in ADAPTATIONS}
        for name in (None, *CORRUPTIONS):
            corruption = None if name is None else Corruption(name, given.severity)
            features = [_features(study, n, given.part, corruption)[:, read] for n in range(given.tasks)]
            streams = [_first(np.concatenate(features)), *map(_first, features)]  # of all tasks, and of each
            for label, adapt in ADAPTATIONS.items():
                of_all, *of_each = (adapt(router, statistics, seen) for seen in streams)
                alone = [_routed(adapted, features, [task]) for task, adapted in enumerate(of_each)]
                routed[label].append((_routed(of_all, features, range(given.tasks)), float(np.mean(alone))))
            note(f"{study.folder}: {name or 'clean'}")
        for label, shares in routed.items():
            for table, of_stream in zip((mixed, single), zip(*shares, strict=True), strict=True):
                table.add(label, *of_stream, np.mean(of_stream[1:]))
    print(
        f"{given.tasks} tasks, {given.part} part, severity {given.severity}: images routed to their own task, mean over tasks "
        "in percent; deviation over pretraining seeds.\n"
    )
    for title, table in (("A stream of all tasks, mixed", mixed), ("A stream of one task, mean over tasks", single)):
        print(f"{title}; {SEEN} of its images are looked at:\n\n{table}\n")


def _features(study: Study, number: int, part: str, corruption: Corruption | None) -> Floats:
    """Return router features `[n, F]` of a task's images."""
    images = study.images[part][number].kept(0)  # a corrupted image is used once
    batches = images.batches(study.architecture, corruption=corruption, size=BATCH)
    return study.router_features(x for _, x in batches).astype(np.float64)


def _first(features: Floats) -> Floats:
    """Return the features of what is looked at of a stream in random order."""
    return np.asarray(features[np.random.default_rng(0).permutation(len(features))[:SEEN]])


def _routed(adapted: Adapted, features: Sequence[Floats], tasks: Sequence[int]) -> float:
    """Return percent of these tasks' images whose most probable task is their own, claimed or not."""
    router, moved = adapted
    routes = route_alone(router, [moved(features[task]) for task in tasks])
    return percent([np.mean(of.posterior.argmax(axis=1) == task) for task, of in zip(tasks, routes, strict=True)])


def _none(router: Router, statistics: Sequence[RouterStatistics], seen: Floats) -> Adapted:
    return router, lambda x: x


def _mean(router: Router, statistics: Sequence[RouterStatistics], seen: Floats) -> Adapted:
    moved = _expected(statistics)[0] - seen.mean(axis=0)
    return router, lambda x: x + moved


def _mean_and_deviation(router: Router, statistics: Sequence[RouterStatistics], seen: Floats) -> Adapted:
    mean, deviation = _expected(statistics)
    of_stream, scale = seen.mean(axis=0), deviation / (seen.std(axis=0) + 1e-6)
    return router, lambda x: (x - of_stream) * scale + mean


def _tasks_means(router: Router, statistics: Sequence[RouterStatistics], seen: Floats) -> Adapted:
    for _ in range(ROUNDS):
        posterior, _ = router.posterior(seen)  # [n, T]
        weights = posterior.sum(axis=0)  # [T]
        means = (posterior.T @ seen) / np.maximum(weights, 1e-9)[:, None]  # [T, F]
        trust = (weights / (weights + PRIOR))[:, None]
        moved = [
            replace(s, mean=_float32((1 - t) * s.mean + t * mean)) for s, t, mean in zip(statistics, trust, means, strict=True)
        ]
        router = fit_router(moved)
    return router, lambda x: x


def _expected(statistics: Sequence[RouterStatistics]) -> tuple[Floats, Floats]:
    """Return mean and deviation `[F]` of a stream of all tasks in equal parts."""
    means = np.stack([s.mean for s in statistics]).astype(np.float64)
    within = np.mean([(s.factor.astype(np.float64) ** 2).sum(axis=0) / max(s.count - 1, 1) for s in statistics], axis=0)
    return means.mean(axis=0), np.sqrt(means.var(axis=0) + within)


def _float32(x: Floats) -> NDArray[np.float32]:
    return np.asarray(x, dtype=np.float32)


ADAPTATIONS: dict[str, Adapt] = {
    "none": _none,
    "mean": _mean,
    "mean and deviation": _mean_and_deviation,
    "tasks' means": _tasks_means,
}


if __name__ == "__main__":
    main()
