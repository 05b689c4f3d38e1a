"""How far the image router can be taken, and where it fails: features, variations, covariance, more experts, abstention.

    python -m research.studies.router --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--part test]

Seeds are five per class. "routed" is the share of images that go to their own task, P1 the accuracy when the head is given
and the route is not, both means over tasks in percent. `--part tune` gives the same of the validation images, by which the
router was designed. What the router does by default is marked with a star. "training images": the statistics are of so many
images that the task's model was trained on, in place of seeds and their variations: what the features could do.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mingle_edge.clip.vision_tower import router_features
from mingle_edge.demo.tiny_clip import to_pixels
from mingle_edge.routing.router import OWN_SHARE, fit_router
from mingle_edge.routing.statistics import MOMENTS, RouterStatistics
from research.studies.study import (
    BACKBONE,
    Bools,
    Floats,
    Route,
    Study,
    answering,
    markdown,
    note,
    own_route,
    p1,
    parser,
    route,
    spread,
)
from research.suite.images import read_training

SEEDS_PER_CLASS = 5
VARIATIONS = 16
OWN_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
RANDOM_FEATURES = 2048
TRAINING_IMAGES = (200, 400, 800)  # per task, at random
RIVALRY = (0.5, 0.8, 0.95, 1.0)  # posterior below which more experts are asked
AMONG = (1, 2, 3, 5)
REFUSED = (0.0, 0.5, 0.8, 0.95, 0.99)  # posterior below which no answer is given
FAILURES = 8

Arrays = Sequence[NDArray[np.float32]] | Sequence[Floats]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--part", choices=["test", "tune"], default="test")
    given = options.parse_args(arguments)
    routers: dict[str, list[list[float]]] = defaultdict(list)
    rivals: dict[str, list[list[float]]] = defaultdict(list)
    among: dict[str, list[list[float]]] = defaultdict(list)
    refused: dict[str, list[list[float]]] = defaultdict(list)
    confused: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        routes = _routers(study, given, routers)
        note(f"{study.folder}: routers")
        posterior_and_own = _rivals(study, given, routes, rivals)
        for count in AMONG:
            among[f"{count}"].append(_among(study.correct(given.part, study.settings.rank), routes, count))
        note(f"{study.folder}: more experts")
        for bound in REFUSED:
            refused[f"{bound:g}"].append(_refusing(posterior_and_own, bound))
        for task, of_task in enumerate(routes):
            found = answering(of_task)
            for other in set(range(len(routes))) - {task}:
                names = study.tasks[task].name, study.tasks[other].name
                confused[names].append(100 * float(np.mean(found == other)))
    print(f"{given.tasks} tasks, {given.part} part, percent; deviation over pretraining seeds.\n")
    print(_table(["router", "routed", "P1"], routers))
    print("\nThe most probable experts are asked where the posterior of the first is below a bound, one of them answers:\n")
    print(_table(["bound, experts, by", "P1", "images that run more than one"], rivals))
    print("\nThe own task among the most probable:\n")
    print(_table(["most probable", "own task among them", "P1 if it were found there"], among))
    print("\nNo answer below a posterior:\n")
    print(_table(["bound", "answered", "of these routed to their own task", "P1 of these"], refused))
    print("\nWhere it fails: the most frequent wrong routes.\n")
    worst = sorted(confused.items(), key=lambda pair: -float(np.mean(pair[1])))[:FAILURES]
    print(markdown(["task", "routed to", "of its images"], [[*names, spread(shares)] for names, shares in worst]))


def _table(header: Sequence[str], rows: dict[str, list[list[float]]]) -> str:
    return markdown(header, [[name, *map(spread, np.transpose(of))] for name, of in rows.items()])


def _routers(study: Study, given: argparse.Namespace, rows: dict[str, list[list[float]]]) -> list[Route]:
    """Add the rows of all routers; returns the routes of the default one."""
    correct = study.correct(given.part, study.settings.rank)
    features = study.features(given.part)
    pool = study.seed_features(VARIATIONS)
    seeds = [of[study.draw(n, SEEDS_PER_CLASS, 0)] for n, of in enumerate(pool)]

    def note_down(name: str, routes: list[Route]) -> list[Route]:
        rows[name].append([own_route(routes), p1(correct, routes)])
        return routes

    def moments(count: int, of: Arrays) -> list[NDArray[np.float32]]:
        return [_moments(x, study.architecture.width, count) for x in of]

    two_seeds, two_images = moments(2, seeds), moments(2, features)
    note_down("mean and deviation, linear", route(study.router(two_seeds, moments=2, own_share=0), two_images))
    note_down(f"mean and deviation, own share {OWN_SHARE:g}", route(study.router(two_seeds, moments=2), two_images))
    by_share = {}
    for share in OWN_SHARES:
        star = " *" if share == OWN_SHARE else ""
        by_share[share] = note_down(
            f"with roughness, own share {share:g}{star}", route(study.router(seeds, own_share=share), features)
        )
    for depth in range(study.depth + 1):
        note_down(f"depth {depth}", route(study.router(seeds, depth), features))
    for count in (0, 4):
        note_down(f"{count} variations of a seed", route(study.router([x[:, : 1 + count] for x in seeds]), features))
    for per_class in (1, 2, 10):
        drawn = [of[study.draw(n, per_class, 0)] for n, of in enumerate(pool)]
        note_down(f"{per_class} seeds per class", route(study.router(drawn), features))
    of_training = _training_features(study, max(TRAINING_IMAGES))
    for count in TRAINING_IMAGES:
        note_down(f"{count} training images per task", route(study.router([x[:count] for x in of_training]), features))
    random_seeds, random_images = _random_features(seeds, features)
    note_down(
        f"{RANDOM_FEATURES} random features (RanPAC), linear",
        route(fit_router([RouterStatistics.from_features(x) for x in random_seeds], own_share=0.0), random_images),
    )
    return by_share[OWN_SHARE]


@torch.inference_mode()
def _training_features(study: Study, count: int) -> list[NDArray[np.float32]]:
    """Return per task the router features `[count, 1, F]` of random images that its model was trained on."""
    found = []
    for task in study.tasks:
        split = read_training(study.folder.parents[1] / "images" / task.name)
        chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
        images = to_pixels(split.images[chosen])
        found.append(router_features(images, study.backbone, study.architecture, study.depth).numpy()[:, None])
    return found


def _moments(features: NDArray[np.float32] | Floats, width: int, count: int) -> NDArray[np.float32]:
    """Return the first moments of every depth, `[..., (depths) count width]`."""
    by_depth = np.asarray(features, dtype=np.float32).reshape(*features.shape[:-1], -1, MOMENTS, width)
    return by_depth[..., :count, :].reshape(*features.shape[:-1], -1)


def _random_features(seeds: Arrays, images: Sequence[Floats]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """Return rectified random projections of standardized features: McDonnell et al., RanPAC, NeurIPS 2023."""
    of_all = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x in seeds]).astype(np.float64)
    mean, deviation = of_all.mean(axis=0), of_all.std(axis=0) + 1e-6
    projection = np.random.default_rng(0).standard_normal((len(mean), RANDOM_FEATURES)) / np.sqrt(len(mean))

    def project(x: NDArray[np.float32] | Floats) -> NDArray[np.float64]:
        projected: NDArray[np.float64] = np.maximum((x - mean) / deviation @ projection, 0)
        return projected

    return [project(x).astype(np.float32) for x in seeds], [project(x) for x in images]


def _rivals(
    study: Study, given: argparse.Namespace, routes: Sequence[Route], rows: dict[str, list[list[float]]]
) -> list[tuple[Floats, Bools, Bools]]:
    """Add the rows of asking more experts; returns per task the posterior `[n]` of the first, whether it is own, and right."""
    rank = study.settings.rank
    correct = study.correct(given.part, rank)
    answers = [_answers(study, embeddings) for embeddings in study.embeddings(given.part, rank)]
    found = []
    for task, of_task in enumerate(routes):
        first = answering(of_task)
        found.append((of_task[0].max(axis=1), first == task, correct[task][np.arange(len(first)), first]))
    for name, judge in JUDGES.items():
        judged = [judge(posterior, *of_task) for (posterior, _), of_task in zip(routes, answers, strict=True)]
        for bound, count in [*((bound, 2) for bound in RIVALRY), (1.0, 3), (1.0, given.tasks)]:
            row = f"{bound:g}, {'all' if count == given.tasks else count}, {name}"
            rows[row].append(_asking(correct, routes, judged, bound, count))
    return found


def _asking(
    correct: Sequence[Bools], routes: Sequence[Route], judged: Sequence[Floats], bound: float, count: int
) -> list[float]:
    """Return P1 where the best judged of several experts answers below a posterior, and images asked; percent."""
    shares, more = [], []
    for right, (posterior, claimed), of_task in zip(correct, routes, judged, strict=True):
        asked = claimed & (posterior.max(axis=1) < bound)
        candidates = np.argsort(-posterior, axis=1)[:, :count]
        best = np.take_along_axis(of_task, candidates, axis=1).argmax(axis=1)
        winner = candidates[np.arange(len(candidates)), np.where(asked, best, 0)]
        shares.append(right[np.arange(len(right)), np.where(claimed, winner, BACKBONE)].mean())
        more.append(asked.mean())
    return [100 * float(np.mean(shares)), 100 * float(np.mean(more))]


def _answers(study: Study, embeddings: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return every expert's largest probability and largest logit among the labels of its own task, both `[n, T]`."""
    sureness, largest = [], []
    for expert, task in enumerate(study.tasks):
        logits = study.logit_scale * embeddings[:, expert].astype(np.float64) @ task.head.numpy().T  # [n, classes]
        largest.append(logits.max(axis=1))
        sureness.append(1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    return np.stack(sureness, axis=1), np.stack(largest, axis=1)


JUDGES: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "sureness": lambda posterior, sureness, logit: sureness,
    "posterior x sureness": lambda posterior, sureness, logit: posterior * sureness,
    "posterior x exp(logit)": lambda posterior, sureness, logit: posterior * np.exp(logit - logit.max(axis=1, keepdims=True)),
}
"""(posterior, sureness, largest logit), all `[n, T]`, to what the answering expert has most of."""


def _among(correct: Sequence[Bools], routes: Sequence[Route], count: int) -> list[float]:
    """Return images whose own task is among the most probable, and P1 if it were always found there; percent."""
    own, right = [], []
    for task, of_task in enumerate(routes):
        inside = (np.argsort(-of_task[0], axis=1)[:, :count] == task).any(axis=1)
        first = answering(of_task)
        own.append(inside.mean())
        right.append(correct[task][np.arange(len(first)), np.where(inside, task, first)].mean())
    return [100 * float(np.mean(own)), 100 * float(np.mean(right))]


def _refusing(tasks: Sequence[tuple[Floats, Bools, Bools]], bound: float) -> list[float]:
    """Return images answered, of these routed to their own task, of these right; means over tasks in percent."""
    shares = [[np.mean(p >= bound), own[p >= bound].mean(), right[p >= bound].mean()] for p, own, right in tasks]
    return [100 * float(x) for x in np.mean(shares, axis=0)]


if __name__ == "__main__":
    main()
