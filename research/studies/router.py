"""What each part of the router is worth: its stages, losses, judge, seeds; how honest it is, and what it refuses.

    python -m research.studies.router --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--part test]

Seeds are five per class with sixteen variations. "routed" is the share of images that go to their own task, P1 the accuracy
when the head is given and the route is not, "no task" the share that run on the plain backbone, all means over tasks in
percent; then the share of images that each stage settles. What the router does by default is marked with a star. Routers of
one stage are closed-form ones over those features alone, the most probable task answers, and they refuse the images below
their bound. `--part tune` gives the same of the validation images, by which the router was designed.

Foreign images are those of a task that the router of all other tasks has never seen, at its last stage, in turn; the area
under the ROC curve is that of its confidence in their own images against those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mingle_edge.evaluation.router_figures import JUDGED, RoutedImages, router_report
from mingle_edge.routing.calibration import calibrated, left_out
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.outlook import area_under_curve, routers_without
from mingle_edge.routing.router import Router, fit_router
from mingle_edge.routing.statistics import RouterStatistics
from research.studies.routes import AnyFloats, Floats, Route, own_route, route_alone
from research.studies.study import VARIATIONS, Study
from research.studies.tables import Table, note, parser, percent

STAGES = ("pixels", "blocks", "embedding", JUDGED)
FEWER_VARIATIONS = (0, 4)
SEEDS_PER_CLASS = (1, 2, 3, 10)
AMONG = (1, 2, 3)
REFUSED = (0.01, 0.02, 0.04)  # of own images
FAILURES = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--part", choices=["test", "tune"], default="test")
    given = options.parse_args(arguments)
    routers = Table("router", "routed", "P1", "no task", *STAGES)
    among = Table("most probable", "own task among them")
    honest = Table("probabilities", "expected calibration error")
    foreign = Table("refused", "own images refused", "foreign images refused", "area under the curve, 0 to 100")
    confused: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        pool = study.seed_features(VARIATIONS)
        seeds = study.drawn(pool)
        _alone(study, given.part, seeds, routers)
        note(f"{study.folder}: routers of one stage")
        cascade, routes = _cascades(study, given.part, pool, routers)
        note(f"{study.folder}: cascades")
        for count in AMONG:
            among.add(f"{count}", _among(routes, count))
        for name, error in _calibration(study, cascade, routes).items():
            honest.add(name, error)
        _foreign(study, given.part, seeds, cascade, foreign)
        for task, of_task in enumerate(routes):
            for other in set(range(len(routes))) - {task}:
                names = study.tasks[task].name, study.tasks[other].name
                confused[names].append(percent([np.mean(of_task.answering == other)]))
    worst = Table("task", "routed to", "of its images")
    for names, shares in sorted(confused.items(), key=lambda pair: -float(np.mean(pair[1])))[:FAILURES]:
        for share in shares:
            worst.add(names, share)
    print(f"{given.tasks} tasks, {given.part} part, percent; deviation over pretraining seeds.\n\n{routers}")
    print(f"\nThe own task among the most probable, by the stage that settled an image:\n\n{among}")
    print(f"\nHow far probabilities are from the share that is right:\n\n{honest}")
    print(f"\nImages of a task left out:\n\n{foreign}")
    print(f"\nWhere it fails: the most frequent wrong routes.\n\n{worst}")


def _alone(study: Study, part: str, seeds: Sequence[NDArray[np.float32]], table: Table) -> None:
    """Add the rows of routers that read one set of features for all images."""
    features, layout = study.features(part), study.layout
    last = np.arange(layout.features - layout.dim, layout.features)
    pixels = layout.columns(None)
    columns = {"pixels": pixels}
    columns |= {f"pixels and {m} blocks": layout.columns(m) for m in range(study.depth + 1)}
    columns |= {"pixels and embedding": layout.columns(None, embedding=True)}
    columns |= {f"{m} blocks (the former router)": layout.columns(m)[len(pixels) :] for m in range(study.depth + 1)}
    columns |= {"embedding": last}
    for name, own in columns.items():
        router = _router([RouterStatistics.from_features(of_task[..., own]) for of_task in seeds], study.settings.refused)
        _add(study, part, table, name, route_alone(router, [of_task[:, own] for of_task in features]))
    for name, some in (("", 1), (" and variations", None)):
        known = [np.asarray(of_task[:, :some, last].reshape(-1, len(last)), dtype=np.float64) for of_task in seeds]
        nearest = [_nearest(of_task[:, last], known) for of_task in features]
        _add(study, part, table, f"nearest seed{name} by cosine in the embedding", nearest)


def _router(statistics: Sequence[RouterStatistics], refused: float) -> Router:
    router, images = fit_router(statistics), left_out(statistics)
    return router if images is None else calibrated(router, images, refused)


def _nearest(images: Floats, seeds: Sequence[Floats]) -> Route:
    """Return the route to the task of the nearest seed, of embeddings of unit length, where Euclid would say the same."""
    nearness = np.stack([(images @ of_task.T).max(axis=1) for of_task in seeds], axis=1)  # [n, T]
    nobody = np.zeros(len(images), np.int64)
    return Route(nearness, nearness.max(axis=1), nearness.argmax(axis=1), nobody)


def _cascades(study: Study, part: str, pool: Sequence[NDArray[np.float32]], table: Table) -> tuple[Cascade, list[Route]]:
    """Add the rows of cascades; returns the default one, and its routes."""
    seeds = study.drawn(pool)
    cascade = study.cascade(seeds)
    routes = study.route(cascade, part)
    _add(study, part, table, "cascade *", routes, cascade)
    _add(study, part, table, "cascade, no judge", study.route(cascade, part, judged=False), cascade)
    others = {"cascade, no losses": study.cascade(seeds, losses=False)}
    for name, other in others.items():
        _add(study, part, table, name, study.route(other, part), other)
    for blocks in (None, *range(study.depth + 1)):
        of_depth = study.cascade(seeds, blocks)
        name = "cascade, no stage of blocks" if blocks is None else f"cascade, {blocks} blocks"
        _add(study, part, table, name, study.route(of_depth, part), of_depth)
    known: dict[str, Sequence[AnyFloats]] = {
        f"cascade, {count} variations of a seed": [of_task[:, : 1 + count] for of_task in seeds] for count in FEWER_VARIATIONS
    }
    for name, of_tasks in known.items():
        other = study.cascade(of_tasks)
        _add(study, part, table, name, study.route(other, part), other)
    for count in SEEDS_PER_CLASS:
        chosen = [study.draw(number, count, 0) for number in range(len(study.tasks))]
        other = study.cascade(study.drawn(pool, count), chosen=chosen)
        _add(study, part, table, f"cascade, {count} seeds per class", study.route(other, part), other)
    return cascade, routes


def _add(study: Study, part: str, table: Table, name: str, routes: Sequence[Route], cascade: Cascade | None = None) -> None:
    """Add the row of a router's routes, and of the stages where it has several."""
    right = [study.right_along(number, part, of_task.answering).mean() for number, of_task in enumerate(routes)]
    nobody = percent([np.mean(of_task.answering < 0) for of_task in routes])
    table.add(name, own_route(routes), percent(right), nobody, *_settled(routes, cascade))


def _settled(routes: Sequence[Route], cascade: Cascade | None) -> list[float | str]:
    """Return the share of images that each stage settles, in percent; an empty text for stages that a router has not."""
    if cascade is None:
        return [""] * len(STAGES)
    names = [*(stage.name for stage in cascade.stages), *([JUDGED] if cascade.judge else [])]
    shares = {name: percent([np.mean(r.stage == number) for r in routes]) for number, name in enumerate(names)}
    return [shares.get(name, 0.0) for name in STAGES]


def _among(routes: Sequence[Route], count: int) -> float:
    """Return images whose own task is among the most probable, in percent."""
    ranked = [np.argsort(-of_task.posterior, axis=1)[:, :count] for of_task in routes]
    return percent([(of_task == task).any(axis=1).mean() for task, of_task in enumerate(ranked)])


def _calibration(study: Study, cascade: Cascade, routes: Sequence[Route]) -> dict[str, float]:
    """Return the expected calibration error before and after the temperature, as an evaluation reports it."""
    images = [RoutedImages(t, r.posterior, r.confidence, r.stage, None, None, 0.0) for t, r in enumerate(routes)]
    return router_report(cascade, [task.name for task in study.tasks], images).calibration_error


def _foreign(study: Study, part: str, seeds: Sequence[NDArray[np.float32]], cascade: Cascade, table: Table) -> None:
    """Add the rows of what the routers without a task refuse, by what they may refuse of their own."""
    columns = study.layout.of_stages(cascade)[-1]
    statistics = [RouterStatistics.from_features(of_task[..., columns]) for of_task in seeds]
    images, features = left_out(statistics), [of_task[:, columns] for of_task in study.features(part)]
    assert images is not None  # of five seeds per class some can be spared
    figures: dict[float, list[tuple[float, float, float]]] = {refused: [] for refused in REFUSED}
    for task, (router, _) in enumerate(routers_without(statistics, images, REFUSED[0])):
        strange = router.posterior(features[task])[1]
        known = [router.posterior(of_task)[1] for number, of_task in enumerate(features) if number != task]
        area = area_under_curve(np.concatenate(known), strange)
        rest = images.without_task(task)
        for refused in REFUSED:
            bound = calibrated(router, rest, refused).confidence_bound
            shares = float(np.mean([(of_task < bound).mean() for of_task in known])), float((strange < bound).mean())
            figures[refused].append((*shares, area))
        note(f"{study.folder}: without {study.tasks[task].name}")
    for refused, rows in figures.items():
        table.add(f"{refused:g}", *(100 * np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
