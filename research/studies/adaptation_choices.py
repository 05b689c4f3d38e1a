"""How the choices in adapting an expert were made: losses, steps, rate, ranks, rounding, and seeds.

    python -m research.studies.adaptation_choices --suite DIR [--pretraining-seeds 0] [--tasks 4]

P2 of complete experts in int4 on the part `tune`, each adapted as the merge does it but for what its row names: all ranks at
once up to 32 or one alone, other weights of the tokens in the loss (`TOKENS`), other steps and rates, without rounding in the
steps, from other numbers of seeds per class. At last, seeds of half of the classes, judged on images of the other half.

Figures of a task are kept in `DIR/kept`, so that a study that was interrupted continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.experts import expert_adaptation
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_adaptation import PRECISIONS, TOKENS, adapt_expert
from mingle_edge.experts.expert_form import FormPrecision
from mingle_edge.experts.expert_size import ranks_up_to
from mingle_edge.experts.left_out_seeds import LeftOutSeeds
from research.studies.expert_adaptation import ADAPTATION, accuracy, in_form
from research.studies.seeds import half_of_the_classes, per_class
from research.studies.study import SEEDS_PER_CLASS, Study, sources
from research.studies.tables import Table, note, parser, percent

RANK = 32
RANKS = (4, 8, 16, 32)
JUDGED: FormPrecision = "int4"


@dataclass(frozen=True)
class Choice:
    """How an expert is adapted; the defaults are the merge's."""

    steps: int = 150
    rate: float = 5e-4
    tokens: float = TOKENS
    precisions: tuple[FormPrecision, ...] = PRECISIONS
    alone: int | None = None
    """the one rank that is adapted; None: nested, all up to 32"""
    seeds: int = SEEDS_PER_CLASS
    """of each class"""
    half: bool = False
    """seeds of half of the classes"""


TRUNCATED = Choice(steps=0)
CHOICES = {
    "truncated": TRUNCATED,
    "as the merge does it": Choice(),
    **{f"tokens weigh {weight:g}": Choice(tokens=weight) for weight in (0.0, 1.0, 5.0, 60.0)},
    **{f"{steps} steps": Choice(steps=steps) for steps in (50, 300)},
    **{f"rate {rate:g}": Choice(rate=rate) for rate in (2.5e-4, 1e-3)},
    "300 steps, rate 0.00025": Choice(steps=300, rate=2.5e-4),
    **{f"rank {rank} alone": Choice(alone=rank) for rank in (8, 16)},
    "no rounding in the steps": Choice(precisions=("fp32",)),
    **{f"{count} seeds per class": Choice(seeds=count) for count in (1, 2, 10)},
}
UNSEEN = {
    "truncated": TRUNCATED,
    "adapted on seeds of the other half": Choice(half=True),
    "adapted on seeds of all classes": Choice(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__, tasks=4).parse_args(arguments)
    header = [f"rank {rank}" for rank in RANKS]
    table, unseen = Table("", *header), Table("", *header)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        code = sources(*ADAPTATION, measure, adapted)
        for name, choice in (CHOICES | {name: choice for name, choice in UNSEEN.items() if choice.half}).items():
            of_tasks = []
            for number in range(len(study.tasks)):
                of_tasks.append(study.figures(number, partial(measure, study, number, choice), code, repr(choice), RANKS))
            if name in CHOICES:
                table.add(name, *_cells([of["all"] for of in of_tasks]))
            if row := next((row for row, same in UNSEEN.items() if same == choice), None):
                unseen.add(row, *_cells([of["unseen"] for of in of_tasks]))
            note(f"{study.folder}: {name}")
    print(f"P2 ACC on tune images, percent, of {given.tasks} tasks, experts in {JUDGED}:\n\n{table}")
    print(f"\nThe same, images of the half of the classes that no seed shows:\n\n{unseen}")


def _cells(of_tasks: Sequence[Mapping[str, float]]) -> list[float | str]:
    """Return the mean over tasks for each rank; nothing where it was not measured."""
    return [percent([of[f"{rank}"] for of in of_tasks]) if f"{rank}" in of_tasks[0] else "" for rank in RANKS]


def measure(study: Study, number: int, choice: Choice) -> dict[str, dict[str, float]]:
    """Measure one task by rank: on all tune images, and on those of the half of the classes that `Choice.half` leaves out."""
    expert, tune = adapted(study, number, choice), study.images["tune"][number]
    pool = study.images["seeds"][number]
    seen = {pool.labels[n] for n in half_of_the_classes(study, number, 0, count=SEEDS_PER_CLASS)}
    others = [n for n, label in enumerate(tune.labels) if label not in seen]
    parts = {"all": tune, "unseen": ImageSet([tune.paths[n] for n in others], [tune.labels[n] for n in others])}
    ranks = RANKS if choice.alone is None else (choice.alone,)
    experts = {f"{rank}": in_form(study, expert, rank, JUDGED) for rank in ranks}
    return {
        part: {rank: accuracy(study, number, of_rank, images) for rank, of_rank in experts.items()}
        for part, images in parts.items()
    }


def adapted(study: Study, number: int, choice: Choice) -> CompleteExpert:
    """Return a task's expert adapted as chosen."""
    start, task, pretrained = study.expert(number, choice.alone or RANK), study.tasks[number], study.pretrained
    if not choice.steps:
        return start
    pool = study.images["seeds"][number]
    drawn = (half_of_the_classes if choice.half else per_class)(study, number, 0, count=choice.seeds)
    task = replace(task, calibration_images=ImageSet([pool.paths[n] for n in drawn]))  # and no labels
    generator = task_generator(study.settings.seed, task.name, "expert")
    left_out = LeftOutSeeds(task, pretrained, generator)
    settings = replace(study.settings, expert_steps=choice.steps, expert_learning_rate=choice.rate)
    ranks = ranks_up_to(RANK)[::-2] if choice.alone is None else [choice.alone]
    with (
        patch.object(expert_adaptation, "TOKENS", choice.tokens),
        patch.object(expert_adaptation, "PRECISIONS", choice.precisions),
    ):
        return adapt_expert(start, ranks, task, pretrained, left_out, settings, generator).expert


if __name__ == "__main__":
    main()
