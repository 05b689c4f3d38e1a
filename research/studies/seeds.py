"""What few or skewed seeds cost in P1, and whether mild variations of the seeds help.

    python -m research.studies.seeds --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--scope image] [--draws 1]

Seeds are drawn from a pool of ten per class. `image`: static experts and the router, for 0, 4, 16 and 64
variations of each seed (`router_augmentations`, without its bound on images per task). `layer`: gates adapted on the seeds,
without variations and with 16; every image routed in every layer, all experts. Figures are of the test part. `rate`: the
learning rate of the gates, by the tune part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.data.variations import mild_variations
from research.studies.layer_merging import SeedsInMemory, merge_layers, percent_in_layers
from research.studies.routes import own_route, p1, p2
from research.studies.study import SEEDS_PER_CLASS, Study
from research.studies.tables import Table, note, parser, spread

VARIATIONS = (0, 4, 16, 64)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
LAYER_VARIATIONS = (0, 16)
LEARNING_RATE = 1e-2  # of gates in so narrow a model: the best of 1e-3, 3e-3, 1e-2 and 3e-2 on the tune part

Choice = Callable[[Study, int, int], list[int]]
"""(study, task, draw) -> numbers of the seeds in the pool"""


def per_class(study: Study, task: int, draw: int, *, count: int) -> list[int]:
    """Choose so many of every class."""
    return study.draw(task, count, draw)


def half_of_the_classes(study: Study, task: int, draw: int, *, count: int) -> list[int]:
    """Choose so many of each class in a random half of the classes, and none of the others."""
    labels, classes = study.images["seeds"][task].labels, len(study.tasks[task].head)
    seen = np.random.default_rng([draw, task]).permutation(classes)[: (classes + 1) // 2]
    return [n for n in study.draw(task, count, draw) if labels[n] in seen]


def long_tailed(study: Study, task: int, draw: int) -> list[int]:
    """Choose ten of one class down to one of another, in equal ratios, classes in random order."""
    labels, classes = study.images["seeds"][task].labels, len(study.tasks[task].head)
    counts = np.rint(10 ** np.linspace(1, 0, classes)).astype(int)
    counts = counts[np.random.default_rng([draw, task]).permutation(classes)]
    return [n for label, count in enumerate(counts) for n in study.draw(task, int(count), draw) if labels[n] == label]


SEEDS: dict[str, Choice] = {
    **{f"{count} per class": partial(per_class, count=count) for count in (1, 2, 3, 5, 10)},
    **{f"{count} per class, half of the classes": partial(half_of_the_classes, count=count) for count in (5, 10)},
    "10 to 1 per class (long tail)": long_tailed,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--scope", choices=tuple(SCOPES), default="image")
    options.add_argument("--draws", type=int, default=1, help="times that seeds are drawn")
    given = options.parse_args(arguments)
    studies = [Study(given.suite, seed, given.tasks) for seed in given.pretraining_seeds]
    print(SCOPES[given.scope](studies, given.draws))


def image_scope(studies: list[Study], draws: int) -> Table:
    """Return ACC under P1 and images routed to their own task, by seeds and variations."""

    def show(figures: Sequence[tuple[float, float]]) -> str:
        accuracies, routed = zip(*figures, strict=True)
        return f"{spread(accuracies)} ({np.mean(routed):.1f})"

    table = Table("seeds", *(f"{v} variations" for v in VARIATIONS), show=show)
    named = []
    for study in studies:
        pool = study.seed_features(max(VARIATIONS))
        correct = study.correct("test", study.settings.largest_rank)
        named.append(p2(correct))
        for name, choice in SEEDS.items():
            for draw in range(draws):
                chosen = [choice(study, task, draw) for task in range(len(pool))]
                seeds = [of[numbers] for of, numbers in zip(pool, chosen, strict=True)]
                cascades = [
                    study.cascade([of[:, : 1 + variations] for of in seeds], chosen=chosen) for variations in VARIATIONS
                ]
                routes = [study.route(cascade, "test") for cascade in cascades]
                table.add(name, *((p1(correct, of_router), own_route(of_router)) for of_router in routes))
            note(f"{study.folder}: {name}")
    print(f"P1 ACC (images routed to their own task), percent; P2 {np.mean(named):.1f}. Deviation over draws and models.\n")
    return table


def layer_scope(studies: list[Study], draws: int) -> Table:
    """Return ACC under P1 of gates adapted on the seeds, all experts at every layer."""
    table = Table("seeds", *(f"{v} variations" for v in LAYER_VARIATIONS))
    for study in studies:
        for name, choice in SEEDS.items():
            for draw in range(draws):
                table.add(name, *(_layer_acc(study, choice, draw, v, LEARNING_RATE, "test") for v in LAYER_VARIATIONS))
            note(f"{study.folder}: {name}")
    print("P1 ACC, percent. Deviation over draws and models.\n")
    return table


def learning_rates(studies: list[Study], draws: int) -> Table:
    """Return ACC under P1 on the tune part, five seeds per class, by the learning rate of the gates."""
    table, five = Table("learning rate", "P1 ACC, tune part"), partial(per_class, count=SEEDS_PER_CLASS)
    for rate in RATES:
        for study in studies:
            for draw in range(draws):
                table.add(f"{rate:g}", _layer_acc(study, five, draw, 0, rate, "tune"))
        note(f"learning rate {rate:g}")
    return table


SCOPES = {"image": image_scope, "layer": layer_scope, "rate": learning_rates}


def _layer_acc(study: Study, choice: Choice, draw: int, variations: int, rate: float, part: str) -> float:
    """Return ACC under P1 of all tasks merged on chosen seeds with variations, all alike to the adaptation."""
    settings = Settings(scope="layer", rank=study.settings.largest_rank, learning_rate=rate, seed=draw)
    seeds: dict[int, ImageSet] = {}
    for number, task in enumerate(study.tasks):
        chosen = study.images["seeds"][number].load(choice(study, number, draw), study.architecture)
        varied = mild_variations(chosen, variations, study.architecture, task_generator(0, task.name, "variations"))
        seeds[number] = SeedsInMemory(varied.flatten(0, 1))
    last = merge_layers(study, seeds, settings)[-1]
    return float(np.mean([percent_in_layers(study, last, number, part) for number in seeds]))


if __name__ == "__main__":
    main()
