"""Is rank better spent by energy, layer by layer, than equally, at the same bytes?

    python -m research.studies.rank_allocation --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

Every task gets the bytes of equal ranks everywhere, spent one singular direction after another on what is worth most per
parameter: the squared singular value (energy); the same after half the rank has gone to every layer (half); the squared
singular value as a share of its layer's (share); or what the direction does to the seeds' own inputs (response: the mean
square of what it adds to its layer's output, in the fine-tuned model). P2 of complete experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import embed_images, plain_linear
from research.studies.study import PARTS, Study, markdown, note, parser

RANKS = (2, 4, 8, 16)
SEEDS_PER_CLASS = 5
HOW = ("equal", "energy", "half", "share", "response")

Directions = Mapping[str, Sequence[int]]
"""layer -> numbers of the singular directions its expert holds"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    found: dict[tuple[str, int, str], list[float]] = {}
    spread: dict[tuple[str, int], list[Directions]] = {}
    individual: list[float] = []
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        for task in range(len(study.tasks)):
            energy, response = energies(study, task), responses(study, task)
            share = {layer: of / of.sum() for layer, of in energy.items()}
            for rank in RANKS:
                half = {
                    layer: torch.cat([torch.full((rank // 2,), torch.inf), of[rank // 2 :]]) for layer, of in energy.items()
                }
                worth = {"energy": energy, "half": half, "share": share, "response": response}
                for how in HOW:
                    directions = equal(study, rank) if how == "equal" else greedy(study, worth[how], rank)
                    spread.setdefault((how, rank), []).append(directions)
                    parameters = study.with_directions(task, directions)
                    for part in PARTS:
                        found.setdefault((how, rank, part), []).append(study.right_alone(task, part, parameters))
            individual.append(study.right_alone(task, "test", study.tasks[task].finetuned))
            note(f"{study.folder}: {study.tasks[task].name}")
    print(f"P2 ACC, percent, test part (tune part); individual models {np.mean(individual):.1f}.\n")
    rows = []
    for rank in RANKS:
        row = [str(rank)]
        for how in HOW:
            gain = np.array(found[how, rank, "test"]) - np.array(found["equal", rank, "test"])
            better = f"; {np.sum(gain > 0)} better, {np.sum(gain < 0)} worse" if how != "equal" else ""
            row.append(f"{np.mean(found[how, rank, 'test']):.1f} ({np.mean(found[how, rank, 'tune']):.1f}){better}")
        rows.append(row)
    print(markdown(["mean rank", *HOW], rows))
    print("\nMean rank by kind of layer:\n")
    kinds = ["patch_embedding", "q", "k", "v", "out", "fc1", "fc2", "projection"]
    rows = []
    for (how, rank), all_of in spread.items():
        if how != "equal":
            of_kind = {
                kind: [len(d) for of in all_of for layer, d in of.items() if layer.split(".")[-1] == kind] for kind in kinds
            }
            rows.append([f"{how}, {rank}", *(f"{np.mean(ranks):.1f}" for ranks in of_kind.values())])
    print(markdown(["", *kinds], rows))


def equal(study: Study, rank: int) -> Directions:
    """Return the strongest directions, the same number at every linear layer."""
    shapes = {layer: study.architecture.linear_shape(layer) for layer in study.architecture.linear_layers()}
    return {layer: range(min(rank, *shape)) for layer, shape in shapes.items()}


def greedy(study: Study, worth: dict[str, Tensor], rank: int) -> Directions:
    """Return the directions of the greatest worth per parameter, for the parameters that equal ranks have.

    `worth` of the directions of each layer `[min(d_out, d_in)]`.
    """
    cost = {layer: sum(study.architecture.linear_shape(layer)) for layer in worth}
    budget = sum(len(chosen) * cost[layer] for layer, chosen in equal(study, rank).items())
    directions: dict[str, list[int]] = {layer: [] for layer in worth}
    offers = [(float(w) / cost[layer], layer, i) for layer, of in worth.items() for i, w in enumerate(of)]
    for _, layer, i in sorted(offers, reverse=True):
        if cost[layer] <= budget:
            directions[layer].append(i)
            budget -= cost[layer]
    return directions


def energies(study: Study, task: int) -> dict[str, Tensor]:
    """Return squared singular values of each layer's task vector."""
    return {layer: A.double().square().sum(1) for layer, (_, A) in study.tasks[task].factors.items()}


@torch.inference_mode()
def responses(study: Study, task: int) -> dict[str, Tensor]:
    """Return mean square of what each direction adds to its layer's output on the task's seeds, under the fine-tuned model."""
    own = study.tasks[task]
    plain = plain_linear(own.finetuned)
    found: dict[str, Tensor] = {}

    def recording(layer: str, x: Tensor) -> Tensor:
        _, A = own.factors[layer]
        read = (x @ A.T).double().square().sum((0, 1))  # B has orthonormal columns: what is read is what is added
        found[layer] = found.get(layer, torch.zeros(len(read), dtype=read.dtype)) + read
        return plain(layer, x)

    seeds = study.images(task, "seeds")[study.draw(task, SEEDS_PER_CLASS, 0)]
    embed_images(seeds, own.finetuned, study.architecture, recording)
    return found


if __name__ == "__main__":
    main()
