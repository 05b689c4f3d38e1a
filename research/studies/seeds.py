"""What few or skewed seeds cost in P1, and whether mild variations of the seeds help.

    python -m research.studies.seeds --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--scope image] [--draws 1]

Seeds are drawn from a pool of ten per class. `image`: static experts and the router, for 0, 4, 16 and 64
variations of each seed (`router_augmentations`, without its bound on images per task). `layer`: gates adapted on the seeds,
without variations and with 16; every image routed in every layer, all experts. Figures are of the test part. `rate`: the
learning rate of the gates, by the tune part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.settings import Settings
from mingle_edge.routing.features import mild_variations
from research.studies.layer_merging import merge_layers, right_in_layers
from research.studies.study import PoolSeeds, Study, markdown, note, own_route, p1, p2, parser, route, spread

VARIATIONS = (0, 4, 16, 64)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
LAYER_VARIATIONS = (0, 16)
LEARNING_RATE = 1e-2  # of gates in so narrow a model: the best of 1e-3, 3e-3, 1e-2 and 3e-2 on the tune part

Choice = Callable[[Study, int, int], list[int]]
"""(study, task, draw) -> numbers of the seeds in the pool"""


def per_class(count: int) -> Choice:
    """Choose so many of every class."""
    return lambda study, task, draw: study.draw(task, count, draw)


def half_of_the_classes(count: int) -> Choice:
    """Choose so many of each class in a random half of the classes, and none of the others."""

    def choose(study: Study, task: int, draw: int) -> list[int]:
        labels = study.tasks[task].labels("seeds")
        classes = np.random.default_rng([draw, task]).permutation(len(study.tasks[task].classes))
        seen = classes[: (len(classes) + 1) // 2]
        return [n for n in study.draw(task, count, draw) if labels[n] in seen]

    return choose


def long_tailed(study: Study, task: int, draw: int) -> list[int]:
    """Choose ten of one class down to one of another, in equal ratios, classes in random order."""
    labels = study.tasks[task].labels("seeds")
    classes = len(study.tasks[task].classes)
    counts = np.rint(10 ** np.linspace(1, 0, classes)).astype(int)
    counts = counts[np.random.default_rng([draw, task]).permutation(classes)]
    return [n for label, count in enumerate(counts) for n in study.draw(task, int(count), draw) if labels[n] == label]


SEEDS: dict[str, Choice] = {
    **{f"{count} per class": per_class(count) for count in (1, 2, 3, 5, 10)},
    "5 per class, half of the classes": half_of_the_classes(5),
    "10 per class, half of the classes": half_of_the_classes(10),
    "10 to 1 per class (long tail)": long_tailed,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--scope", choices=tuple(SCOPES), default="image")
    options.add_argument("--draws", type=int, default=1, help="times that seeds are drawn")
    given = options.parse_args(arguments)
    studies = [Study(given.suite, seed, given.tasks) for seed in given.pretraining_seeds]
    SCOPES[given.scope](studies, given.draws)


def image_scope(studies: list[Study], draws: int) -> None:
    """Print ACC under P1 and images routed to their own task, by seeds and variations."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    named = []
    for study in studies:
        pool, features = study.seed_features(max(VARIATIONS)), study.features("test")
        correct = study.correct("test", study.settings.rank)
        named.append(p2(correct))
        for name, choice in SEEDS.items():
            for draw in range(draws):
                chosen = [choice(study, task, draw) for task in range(len(study.tasks))]
                for variations in VARIATIONS:
                    router = study.router([of[n, : 1 + variations] for of, n in zip(pool, chosen, strict=True)])
                    routes = route(router, features)
                    found.setdefault((name, variations), []).append((p1(correct, routes), own_route(routes)))
            note(f"{study.folder}: {name}")
    print(f"P1 ACC (images routed to their own task), percent; P2 {np.mean(named):.1f}. Deviation over draws and models.\n")
    rows = []
    for name in SEEDS:
        cells = [np.array(found[name, v]) for v in VARIATIONS]
        rows.append([name, *(f"{c[:, 0].mean():.1f} ± {c[:, 0].std():.1f} ({c[:, 1].mean():.1f})" for c in cells)])
    print(markdown(["seeds", *(f"{v} variations" for v in VARIATIONS)], rows))


def layer_scope(studies: list[Study], draws: int) -> None:
    """Print ACC under P1 of gates adapted on the seeds, all experts at every layer."""
    found: dict[tuple[str, int], list[float]] = {}
    for study in studies:
        for name, choice in SEEDS.items():
            for draw in range(draws):
                for variations in LAYER_VARIATIONS:
                    acc = _layer_acc(study, choice, draw, variations, LEARNING_RATE, "test")
                    found.setdefault((name, variations), []).append(acc)
            note(f"{study.folder}: {name}")
    rows = [[name, *(spread(found[name, v]) for v in LAYER_VARIATIONS)] for name in SEEDS]
    print("P1 ACC, percent. Deviation over draws and models.\n")
    print(markdown(["seeds", *(f"{v} variations" for v in LAYER_VARIATIONS)], rows))


def learning_rates(studies: list[Study], draws: int) -> None:
    """Print ACC under P1 on the tune part, five seeds per class, by the learning rate of the gates."""
    rows = []
    for rate in RATES:
        found = [_layer_acc(study, per_class(5), draw, 0, rate, "tune") for study in studies for draw in range(draws)]
        rows.append([f"{rate:g}", spread(found)])
        note(f"learning rate {rate:g}")
    print(markdown(["learning rate", "P1 ACC, tune part"], rows))


SCOPES = {"image": image_scope, "layer": layer_scope, "rate": learning_rates}


def _layer_acc(study: Study, choice: Choice, draw: int, variations: int, rate: float, part: str) -> float:
    settings = Settings(scope="layer", rank=study.settings.rank, learning_rate=rate, seed=draw)
    numbers = range(len(study.tasks))
    seeds = [_varied(study, task, choice(study, task, draw), variations) for task in numbers]
    layers = merge_layers(study, numbers, seeds, settings)[-1]
    return 100 * float(np.mean([right_in_layers(study, layers, task, part).mean() for task in numbers]))


def _varied(study: Study, task: int, chosen: list[int], variations: int) -> PoolSeeds:
    """Return seeds of a task with variations of them, all alike to the adaptation."""
    generator = task_generator(0, study.tasks[task].name, "variations")
    images = mild_variations(study.images(task, "seeds")[chosen], variations, study.architecture, generator)
    return PoolSeeds(images.flatten(0, 1))


if __name__ == "__main__":
    main()
