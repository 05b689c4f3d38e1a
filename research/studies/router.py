"""How far the image router can be taken, and where it fails: features, variations, covariance, more experts, abstention.

    python -m research.studies.router --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--part test]

Seeds are five per class. "routed" is the share of images that go to their own task, P1 the accuracy when the head is given
and the route is not, both means over tasks in percent. `--part tune` gives the same of the validation images, by which the
router was designed. What the router does by default is marked with a star. "training images": the statistics are of so many
images that the task's model was trained on, in place of seeds and their variations: what the features could do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.demo.tiny_clip import to_pixels
from mingle_edge.routing.router import OWN_SHARE, fit_router
from mingle_edge.routing.statistics import MOMENTS, RouterStatistics
from research.studies.routes import Route, answering, own_route, p1, picked, route
from research.studies.study import BACKBONE, VARIATIONS, AnyFloats, Bools, Floats, Study
from research.studies.tables import Table, note, parser, percent
from research.suite.images import read_training

OWN_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
RANDOM_FEATURES = 2048
TRAINING_IMAGES = (200, 400, 800)  # per task, at random
RIVALRY = (0.5, 0.8, 0.95, 1.0)  # posterior below which more experts are asked
AMONG = (1, 2, 3, 5)
REFUSED = (0.0, 0.5, 0.8, 0.95, 0.99)  # posterior below which no answer is given
FAILURES = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--part", choices=["test", "tune"], default="test")
    given = options.parse_args(arguments)
    routers = Table("router", "routed", "P1")
    rivals = Table("bound, experts, by", "P1", "images that run more than one")
    among = Table("most probable", "own task among them", "P1 if it were found there")
    refused = Table("bound", "answered", "of these routed to their own task", "P1 of these")
    confused: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        correct = study.correct(given.part, study.settings.largest_rank)
        routes = _routers(study, given.part, correct, routers)
        note(f"{study.folder}: routers")
        _rivals(study, given.part, correct, routes, rivals)
        for count in AMONG:
            among.add(f"{count}", *_among(correct, routes, count))
        note(f"{study.folder}: more experts")
        for bound in REFUSED:
            refused.add(f"{bound:g}", *_refusing(correct, routes, bound))
        for task, of_task in enumerate(routes):
            for other in set(range(len(routes))) - {task}:
                names = study.tasks[task].name, study.tasks[other].name
                confused[names].append(percent([np.mean(answering(of_task) == other)]))
    worst = Table("task", "routed to", "of its images")
    for names, shares in sorted(confused.items(), key=lambda pair: -float(np.mean(pair[1])))[:FAILURES]:
        for share in shares:
            worst.add(names, share)
    print(f"{given.tasks} tasks, {given.part} part, percent; deviation over pretraining seeds.\n\n{routers}")
    print("\nThe most probable experts are asked where the posterior of the first is below a bound, one of them answers:\n")
    print(rivals)
    print(f"\nThe own task among the most probable:\n\n{among}")
    print(f"\nNo answer below a posterior:\n\n{refused}")
    print(f"\nWhere it fails: the most frequent wrong routes.\n\n{worst}")


def _routers(study: Study, part: str, correct: Sequence[Bools], table: Table) -> list[Route]:
    """Add the rows of all routers; returns the routes of the default one."""
    features, pool = study.features(part), study.seed_features(VARIATIONS)
    seeds = study.drawn(pool)

    def add(name: str, routes: list[Route]) -> list[Route]:
        table.add(name, own_route(routes), p1(correct, routes))
        return routes

    two_seeds, two_images = ([_moments(x, study.architecture.width, 2) for x in of] for of in (seeds, features))
    add("mean and deviation, linear", route(study.router(two_seeds, moments=2, own_share=0), two_images))
    add(f"mean and deviation, own share {OWN_SHARE:g}", route(study.router(two_seeds, moments=2), two_images))
    by_share = {}
    for share in OWN_SHARES:
        star = " *" if share == OWN_SHARE else ""
        routes = route(study.router(seeds, own_share=share), features)
        by_share[share] = add(f"with roughness, own share {share:g}{star}", routes)
    for depth in range(study.depth + 1):
        add(f"depth {depth}", route(study.router(seeds, depth), features))
    of_training = _training_features(study, max(TRAINING_IMAGES))
    others = {f"{count} variations of a seed": [x[:, : 1 + count] for x in seeds] for count in (0, 4)}
    others |= {f"{count} seeds per class": study.drawn(pool, count) for count in (1, 2, 10)}
    others |= {f"{count} training images per task": [x[:count] for x in of_training] for count in TRAINING_IMAGES}
    for name, of_tasks in others.items():
        add(name, route(study.router(of_tasks), features))
    random_seeds, random_images = _random_features(seeds, features)
    linear = fit_router([RouterStatistics.from_features(x.astype(np.float32)) for x in random_seeds], own_share=0.0)
    add(f"{RANDOM_FEATURES} random features (RanPAC), linear", route(linear, random_images))
    return by_share[OWN_SHARE]


def _training_features(study: Study, count: int) -> list[NDArray[np.float32]]:
    """Return per task the router features `[count, 1, F]` of random images that its model was trained on."""
    features = []
    for task in study.tasks:
        split = read_training(study.folder.parents[1] / "images" / task.name)
        chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
        features.append(study.router_features([to_pixels(split.images[chosen])])[:, None])
    return features


def _moments(features: AnyFloats, width: int, count: int) -> NDArray[np.float32]:
    """Return the first moments of every depth, `[..., (depths) count width]`."""
    by_depth = np.asarray(features, dtype=np.float32).reshape(*features.shape[:-1], -1, MOMENTS, width)
    return by_depth[..., :count, :].reshape(*features.shape[:-1], -1)


def _random_features(seeds: Sequence[AnyFloats], images: Sequence[Floats]) -> Sequence[list[Floats]]:
    """Return rectified random projections of standardized features: McDonnell et al., RanPAC, NeurIPS 2023."""
    of_all = np.concatenate([x.reshape(-1, x.shape[-1]) for x in seeds]).astype(np.float64)
    mean, deviation = of_all.mean(axis=0), of_all.std(axis=0) + 1e-6
    projection = np.random.default_rng(0).standard_normal((len(mean), RANDOM_FEATURES)) / np.sqrt(len(mean))
    return [[np.maximum((x - mean) / deviation @ projection, 0) for x in of] for of in (seeds, images)]


def _rivals(study: Study, part: str, correct: Sequence[Bools], routes: Sequence[Route], table: Table) -> None:
    """Add the rows of asking more experts."""
    answers = [_answers(study, of_task) for of_task in study.embeddings(part, study.settings.largest_rank)]
    count_all = len(study.tasks)
    for name, judge in JUDGES.items():
        judged = [judge(torch.from_numpy(posterior), *of_task) for (posterior, _), of_task in zip(routes, answers, strict=True)]
        for bound, count in [*((bound, 2) for bound in RIVALRY), (1.0, 3), (1.0, count_all)]:
            row = f"{bound:g}, {'all' if count == count_all else count}, {name}"
            table.add(row, *_asking(correct, routes, judged, bound, count))


def _asking(
    correct: Sequence[Bools], routes: Sequence[Route], judged: Sequence[Tensor], bound: float, count: int
) -> tuple[float, float]:
    """Return P1 where the best judged of several experts answers below a posterior, and images asked; percent."""
    shares, more = [], []
    for right, (posterior, claimed), of_task in zip(correct, routes, judged, strict=True):
        asked = claimed & (posterior.max(axis=1) < bound)
        candidates = np.argsort(-posterior, axis=1)[:, :count]
        best = np.take_along_axis(of_task.numpy(), candidates, axis=1).argmax(axis=1)
        winner = picked(candidates, np.where(asked, best, 0))
        shares.append(picked(right, np.where(claimed, winner, BACKBONE)).mean())
        more.append(asked.mean())
    return percent(shares), percent(more)


def _answers(study: Study, embeddings: Sequence[Tensor]) -> list[Tensor]:
    """Return every expert's largest probability and largest logit among the labels of its own task, both `[n, T]`."""
    pairs = []
    for embeds, task in zip(embeddings, study.tasks, strict=False):  # the backbone comes last and has no labels
        logits = task.head.logits(embeds.double())  # [n, classes]
        pairs.append((logits.softmax(1).amax(1), logits.amax(1)))
    return [torch.stack(column, dim=1) for column in zip(*pairs, strict=True)]


JUDGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sureness": lambda posterior, sureness, logit: sureness,
    "posterior x sureness": lambda posterior, sureness, logit: posterior * sureness,
    "posterior x exp(logit)": lambda posterior, sureness, logit: posterior * (logit - logit.amax(1, keepdim=True)).exp(),
}
"""(posterior, sureness, largest logit), all `[n, T]`, to what the answering expert has most of."""


def _among(correct: Sequence[Bools], routes: Sequence[Route], count: int) -> tuple[float, float]:
    """Return images whose own task is among the most probable, and P1 if it were always found there; percent."""
    own, right = [], []
    for task, of_task in enumerate(routes):
        inside = (np.argsort(-of_task[0], axis=1)[:, :count] == task).any(axis=1)
        own.append(inside.mean())
        right.append(picked(correct[task], np.where(inside, task, answering(of_task))).mean())
    return percent(own), percent(right)


def _refusing(correct: Sequence[Bools], routes: Sequence[Route], bound: float) -> list[float]:
    """Return images answered, of these routed to their own task, of these right; means over tasks in percent."""
    shares = []
    for task, of_task in enumerate(routes):
        to, answered = answering(of_task), of_task[0].max(axis=1) >= bound
        shares.append([answered.mean(), (to == task)[answered].mean(), picked(correct[task], to)[answered].mean()])
    return [100 * float(x) for x in np.mean(shares, axis=0)]


if __name__ == "__main__":
    main()
