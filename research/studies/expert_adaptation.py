"""What does adapting a truncated expert on the seeds give back of what truncation took, and does it cost elsewhere?

    python -m research.studies.expert_adaptation --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

P2 of complete experts, as truncated and as adapted (`expert_steps`), on the test images and on the same under the seven
corruptions of `compare` (severity 5), where no seed shows one. Rate, steps and seeds a
step were chosen on the part `tune` of digits and textures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mingle_edge.data.corruptions import CORRUPTIONS, Corruption
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.expert_adaptation import adapt_expert
from research.studies.study import BATCH, Study
from research.studies.tables import Table, note, parser, percent

RANKS = (4, 8, 16)
STEPS = 150
SEVERITY = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    table = Table("rank", "truncated", "adapted", "better, worse, kept", "corrupted: truncated", "adapted")
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        tasks = range(len(study.tasks))
        settings = replace(study.settings, expert_steps=STEPS)
        for rank in RANKS:
            figures = []
            for number in tasks:
                before = study.expert(number, rank)
                adaptation = adapt_expert(before, study.tasks[number], study.pretrained, settings)
                both = [(accuracy(study, number, e), corrupted(study, number, e)) for e in (before, adaptation.expert)]
                figures.append([*both[0], *both[1], adaptation.step])
                note(f"{study.folder}: rank {rank}, {study.tasks[number].name}: {both}, step {adaptation.step}")
            clean, rough, clean_after, rough_after, steps = np.array(figures).T
            counts = (np.sum(clean_after > clean), np.sum(clean_after < clean), np.sum(steps == 0))
            cells = [percent(shares) for shares in (clean, clean_after, rough, rough_after)]
            table.add(f"{rank}", cells[0], cells[1], ", ".join(map(str, counts)), cells[2], cells[3])
        whole = [accuracy(study, number, study.expert(number)) for number in tasks]
        rough = [corrupted(study, number, study.expert(number)) for number in tasks]
        table.add("full", percent(whole), percent(whole), "", percent(rough), percent(rough))
    print(f"P2 ACC, percent, of {given.tasks} tasks.\n\n{table}")


@torch.inference_mode()
def accuracy(study: Study, number: int, expert: CompleteExpert, corruption: Corruption | None = None) -> float:
    """Return the share of a task's test images that an expert labels right."""
    pretrained, task, images = study.pretrained, study.tasks[number], study.images["test"][number]
    alone = [(1.0, expert)]
    parameters = expert_parameters(pretrained.backbone, alone)
    linear, right = expert_linear(parameters, alone), 0
    for numbers, batch in images.batches(study.architecture, corruption=corruption, size=BATCH):
        labels = task.head.logits(pretrained.embed(batch, parameters, linear)).argmax(1)
        right += int((labels == torch.tensor([images.labels[n] for n in numbers])).sum())
    return right / len(images)


def corrupted(study: Study, number: int, expert: CompleteExpert) -> float:
    """Return the mean of `accuracy` under all corruptions."""
    return float(np.mean([accuracy(study, number, expert, Corruption(name, SEVERITY)) for name in CORRUPTIONS]))


if __name__ == "__main__":
    main()
