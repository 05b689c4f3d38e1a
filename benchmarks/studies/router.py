"""How far the image router can be taken, and where it fails: features, variations, covariance, two experts, abstention.

    python benchmarks/studies/router.py --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--part test]

Seeds are five per class. "routed" is the share of images that go to their own task, P1 the accuracy when the head is given
and the route is not, both means over tasks in percent. `--part tune` gives the same of the validation images, by which the
router was designed. What the router does by default is marked with a star.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from suite_study import BACKBONE, Bools, Floats, Route, Study, answering, markdown, note, own_route, p1, parser, route, spread

from mingle_edge.router import MOMENTS, OWN_SHARE, RouterStatistics, discriminants
from mingle_edge.router_depth import choose_depth

SEEDS_PER_CLASS = 5
VARIATIONS = 16
OWN_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
RANDOM_FEATURES = 2048
RIVALRY = (0.5, 0.8, 0.95)  # posterior below which a second expert is asked
REFUSED = (0.0, 0.5, 0.8, 0.95, 0.99)  # posterior below which no answer is given
FAILURES = 8

Arrays = Sequence[NDArray[np.float32]] | Sequence[Floats]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--part", choices=["test", "tune"], default="test")
    given = options.parse_args()
    routers: dict[str, list[list[float]]] = defaultdict(list)
    rivals: dict[str, list[list[float]]] = defaultdict(list)
    refused: dict[str, list[list[float]]] = defaultdict(list)
    confused: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        routes = _routers(study, given, routers)
        note(f"{study.folder}: routers")
        posterior_and_own = _rivals(study, given, routes, rivals)
        note(f"{study.folder}: two experts")
        for bound in REFUSED:
            refused[f"{bound:g}"].append(_refusing(posterior_and_own, bound))
        for task, of_task in enumerate(routes):
            found = answering(of_task)
            for other in set(range(len(routes))) - {task}:
                names = study.tasks[task].name, study.tasks[other].name
                confused[names].append(100 * float(np.mean(found == other)))
    print(f"{given.tasks} tasks, {given.part} part, percent; deviation over pretraining seeds.\n")
    print(_table(["router", "routed", "P1"], routers))
    print("\nA second expert is asked where the posterior of the first is below a bound, and the surer of the two answers:\n")
    print(_table(["bound, by", "P1", "images that run two experts"], rivals))
    print("\nNo answer below a posterior:\n")
    print(_table(["bound", "answered", "of these routed to their own task", "P1 of these"], refused))
    print("\nWhere it fails: the most frequent wrong routes.\n")
    worst = sorted(confused.items(), key=lambda pair: -float(np.mean(pair[1])))[:FAILURES]
    print(markdown(["task", "routed to", "of its images"], [[*names, spread(shares)] for names, shares in worst]))


def _table(header: Sequence[str], rows: dict[str, list[list[float]]]) -> str:
    return markdown(header, [[name, *map(spread, np.transpose(of))] for name, of in rows.items()])


def _routers(study: Study, given: argparse.Namespace, rows: dict[str, list[list[float]]]) -> list[Route]:
    """Rows of all routers; returns the routes of the default one."""
    correct = study.correct(given.part, study.settings.rank)
    features = study.features(given.part)
    pool = study.seed_features(VARIATIONS)
    seeds = [of[study.draw(n, SEEDS_PER_CLASS, 0)] for n, of in enumerate(pool)]
    deepest = features[0].shape[1] // study.features_per_depth - 1

    def note_down(name: str, routes: list[Route]) -> list[Route]:
        rows[name].append([own_route(routes), p1(correct, routes)])
        return routes

    def moments(count: int, of: Arrays) -> list[NDArray[np.float32]]:
        return [_moments(x, study.architecture.width, count) for x in of]

    def auto(of_seeds: Arrays, of_images: Arrays, count: int, share: float) -> list[Route]:
        statistics = [RouterStatistics.from_features(x) for x in of_seeds]
        depth = choose_depth(statistics, count * study.architecture.width)
        size = (depth + 1) * count * study.architecture.width
        return route(discriminants([s.first(size) for s in statistics], own_share=share), of_images)

    two_seeds, two_images = moments(2, seeds), moments(2, features)
    note_down("mean and deviation, linear", auto(two_seeds, two_images, 2, 0.0))
    note_down(f"mean and deviation, own share {OWN_SHARE:g}", auto(two_seeds, two_images, 2, OWN_SHARE))
    by_share = {}
    for share in OWN_SHARES:
        star = " *" if share == OWN_SHARE else ""
        by_share[share] = note_down(f"with roughness, own share {share:g}{star}", auto(seeds, features, MOMENTS, share))
    for depth in range(deepest + 1):
        size = (depth + 1) * study.features_per_depth
        statistics = [RouterStatistics.from_features(x[..., :size]) for x in seeds]
        note_down(f"depth {depth}", route(discriminants(statistics), features))
    for count in (0, 4):
        note_down(f"{count} variations of a seed", auto([x[:, : 1 + count] for x in seeds], features, MOMENTS, OWN_SHARE))
    for per_class in (1, 2, 10):
        drawn = [of[study.draw(n, per_class, 0)] for n, of in enumerate(pool)]
        note_down(f"{per_class} seeds per class", auto(drawn, features, MOMENTS, OWN_SHARE))
    random_seeds, random_images = _random_features(seeds, features)
    note_down(
        f"{RANDOM_FEATURES} random features (RanPAC), linear",
        route(discriminants([RouterStatistics.from_features(x) for x in random_seeds], own_share=0.0), random_images),
    )
    return by_share[OWN_SHARE]


def _moments(features: NDArray[np.float32] | Floats, width: int, count: int) -> NDArray[np.float32]:
    """The first moments of every depth, `[..., (depths) count width]`."""
    by_depth = np.asarray(features, dtype=np.float32).reshape(*features.shape[:-1], -1, MOMENTS, width)
    return by_depth[..., :count, :].reshape(*features.shape[:-1], -1)


def _random_features(seeds: Arrays, images: Sequence[Floats]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """Rectified random projections of standardised features: McDonnell et al., RanPAC, NeurIPS 2023."""
    of_all = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x in seeds]).astype(np.float64)
    mean, deviation = of_all.mean(axis=0), of_all.std(axis=0) + 1e-6
    projection = np.random.default_rng(0).standard_normal((len(mean), RANDOM_FEATURES)) / np.sqrt(len(mean))

    def project(x: NDArray[np.float32] | Floats) -> NDArray[np.float64]:
        return np.maximum((x - mean) / deviation @ projection, 0)

    return [project(x).astype(np.float32) for x in seeds], [project(x) for x in images]


def _rivals(
    study: Study, given: argparse.Namespace, routes: Sequence[Route], rows: dict[str, list[list[float]]]
) -> list[tuple[Floats, Bools, Bools]]:
    """Rows of asking a second expert; per task the first one's posterior `[n]`, whether it is the own one, and right.

    Each expert is judged by the labels of its own task: the largest probability, alone or times the router's posterior.
    """
    rank = study.settings.rank
    correct = study.correct(given.part, rank)
    embeddings = study.embeddings(given.part, rank)
    found, firsts = [], []
    for task, (posterior, claimed) in enumerate(routes):
        order = np.argsort(-posterior, axis=1)[:, :2]  # [n, 2]
        likely = np.take_along_axis(posterior, order, axis=1)
        sure = np.stack([_sureness(study, embeddings[task], order[:, place]) for place in (0, 1)], axis=1)
        firsts.append((order, likely, sure, claimed))
        first = np.where(claimed, order[:, 0], BACKBONE)
        right = correct[task][np.arange(len(first)), first]
        found.append((likely[:, 0], first == task, right))
    for bound in RIVALRY:
        for by in ("sureness", "posterior x sureness"):
            shares, twice = [], []
            for task, (order, likely, sure, claimed) in enumerate(firsts):
                judged = sure if by == "sureness" else sure * likely
                asked = claimed & (likely[:, 0] < bound)
                winner = order[np.arange(len(order)), np.where(asked, judged.argmax(axis=1), 0)]
                chosen = np.where(claimed, winner, BACKBONE)
                shares.append(correct[task][np.arange(len(chosen)), chosen].mean())
                twice.append(asked.mean())
            rows[f"{bound:g}, {by}"].append([100 * float(np.mean(shares)), 100 * float(np.mean(twice))])
    return found


def _sureness(study: Study, embeddings: NDArray[np.float32], experts: NDArray[np.int64]) -> Floats:
    """The largest probability `[n]` among the labels of the task of the expert asked, embeddings `[n, T + 1, dim]`."""
    found = np.zeros(len(experts))
    for expert in np.unique(experts):
        chosen = np.flatnonzero(experts == expert)
        scores = study.logit_scale * embeddings[chosen, expert] @ study.tasks[expert].head.numpy().T
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        found[chosen] = (scores / scores.sum(axis=1, keepdims=True)).max(axis=1)
    return found


def _refusing(tasks: Sequence[tuple[Floats, Bools, Bools]], bound: float) -> list[float]:
    """Answered, of these routed to their own task, of these right; means over tasks in percent."""
    shares = [[np.mean(p >= bound), own[p >= bound].mean(), right[p >= bound].mean()] for p, own, right in tasks]
    return [100 * float(x) for x in np.mean(shares, axis=0)]


if __name__ == "__main__":
    main()
