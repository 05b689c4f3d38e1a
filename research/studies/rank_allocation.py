"""Is rank better spent by energy, layer by layer, than equally, at the same bytes?

    python -m research.studies.rank_allocation --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

Every task gets the bytes of equal ranks everywhere, spent one singular direction after another on what is worth most per
parameter: the squared singular value (energy); the same after half the rank has gone to every layer (half); the squared
singular value as a share of its layer's (share); or what the direction does to the seeds' own inputs (response: the mean
square of what it adds to its layer's output, in the fine-tuned model). P2 of complete experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters, plain_linear
from research.studies.study import PARTS, SEEDS_PER_CLASS, Study, equal_ranks
from research.studies.tables import Table, note, parser, percent

RANKS = (2, 4, 8, 16)
HOW = ("equal", "energy", "half", "share", "response")

Directions = Mapping[str, Sequence[int]]
"""layer -> numbers of the singular directions its expert holds"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    accuracies: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    kinds = ["patch_embedding", "q", "k", "v", "out", "fc1", "fc2", "projection"]
    ranks_by_kind = Table("", *kinds, show=lambda ranks: f"{np.mean(ranks):.1f}")
    individual: list[float] = []
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        for task in range(len(study.tasks)):
            energy, response = energies(study, task), responses(study, task)
            share = {layer: of / of.sum() for layer, of in energy.items()}
            for rank in RANKS:
                half = {layer: torch.where(torch.arange(len(of)) < rank // 2, torch.inf, of) for layer, of in energy.items()}
                worth = {"energy": energy, "half": half, "share": share, "response": response}
                equal = {layer: range(r) for layer, r in equal_ranks(study.architecture, rank).items()}
                for how in HOW:
                    directions = equal if how == "equal" else greedy(study, worth[how], equal)
                    tower = study.tower_with(task, directions)
                    for part in PARTS:
                        accuracies[how, rank, part].append(_percent(study, task, part, tower))
                    if how != "equal":
                        sizes = [(layer.split(".")[-1], len(chosen)) for layer, chosen in directions.items()]
                        means = [np.mean([size for kind, size in sizes if kind == wanted]) for wanted in kinds]
                        ranks_by_kind.add(f"{how}, {rank}", *means)
            individual.append(_percent(study, task, "test", study.tasks[task].finetuned))
            note(f"{study.folder}: {study.tasks[task].name}")
    table = Table("mean rank", *HOW)
    for rank in RANKS:
        cells = []
        for how in HOW:
            test, tune = accuracies[how, rank, "test"], accuracies[how, rank, "tune"]
            gain = np.array(test) - np.array(accuracies["equal", rank, "test"])
            better = f"; {np.sum(gain > 0)} better, {np.sum(gain < 0)} worse" if how != "equal" else ""
            cells.append(f"{np.mean(test):.1f} ({np.mean(tune):.1f}){better}")
        table.add(f"{rank}", *cells)
    print(f"P2 ACC, percent, test part (tune part); individual models {np.mean(individual):.1f}.\n\n{table}")
    print(f"\nMean rank by kind of layer:\n\n{ranks_by_kind}")


def _percent(study: Study, task: int, part: str, tower: Parameters) -> float:
    return percent(study.right(task, part, study.embed(task, part, tower)))


def greedy(study: Study, worth: Mapping[str, Tensor], equal: Directions) -> Directions:
    """Return the directions of the greatest worth per parameter, for the parameters that equal ranks have.

    `worth` of the directions of each layer `[min(d_out, d_in)]`.
    """
    cost = {layer: sum(study.architecture.linear_shape(layer)) for layer in worth}
    budget = sum(len(chosen) * cost[layer] for layer, chosen in equal.items())
    directions: dict[str, list[int]] = {layer: [] for layer in worth}
    offers = [(float(w) / cost[layer], layer, i) for layer, of in worth.items() for i, w in enumerate(of)]
    for _, layer, i in sorted(offers, reverse=True):
        if cost[layer] <= budget:
            directions[layer].append(i)
            budget -= cost[layer]
    return directions


def energies(study: Study, task: int) -> dict[str, Tensor]:
    """Return squared singular values of each layer's task vector."""
    return {layer: A.double().square().sum(1) for layer, (_, A) in study.expert(task).factors.items()}


@torch.inference_mode()
def responses(study: Study, task: int) -> dict[str, Tensor]:
    """Return mean square of what each direction adds to its layer's output on the task's seeds, under the fine-tuned model."""
    finetuned, factors = study.tasks[task].finetuned, study.expert(task).factors
    plain = plain_linear(finetuned)
    added: dict[str, Tensor] = {}

    def recording(layer: str, x: Tensor) -> Tensor:
        _, A = factors[layer]
        read = (x @ A.T).double().square().sum((0, 1))  # B has orthonormal columns: what is read is what is added
        added[layer] = added.get(layer, torch.zeros(len(read), dtype=read.dtype)) + read
        return plain(layer, x)

    study.embed(task, "seeds", finetuned, recording, chosen=study.draw(task, SEEDS_PER_CLASS, 0))
    return added


if __name__ == "__main__":
    main()
