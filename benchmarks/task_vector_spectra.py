"""How fast do the singular values of task vectors decay? Measured on the models of a task file, by kind of layer.

    python -m benchmarks.task_vector_spectra TASKS.toml [--json FILE]

A task vector is a fine-tuned model's weights less the backbone's. Of every linear layer's, the table has the share of its
energy (sum of squared singular values) that the first directions hold, in the mean over tasks and blocks. How many directions
is given as a share of the layer's smaller side: 1/48 is rank 16 of 768. The last row is the law s_i ~ (1 + i / (m x))^-a for m
singular values, with the x and a that come nearest to the mean over the blocks' layers; `full_size.py` draws differences by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import make_parser, write_report
from benchmarks.full_size import decaying
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.data.task_file import TaskFile, read_task_file

SHARES = (1 / 48, 1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 2)
STARTS, EXPONENTS = np.geomspace(0.01, 1, 81), np.arange(0.5, 4.05, 0.1)  # what the law is sought among
Floats = NDArray[np.float64]


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, "tasks").parse_args(options)
    by_kind = spectra(read_task_file(arguments.tasks))
    kept = {kind: np.mean([kept_energy(values) for values in of_kind], axis=0) for kind, of_kind in by_kind.items()}
    of_blocks = np.mean([kept[kind] for kind in ("q", "k", "v", "out", "fc1", "fc2")], axis=0)
    width = len(by_kind["q"][0])
    start, exponent = fit(of_blocks, width)
    rows = {**kept, "mean of blocks": of_blocks, "law": kept_energy(decaying(width, start, exponent))}
    print(f"{len(by_kind['projection'])} tasks, width {width}; x = {start:.2f}, a = {exponent:.1f}\n")
    print("\n".join(["| | 1/48 | 1/24 | 1/12 | 1/8 | 1/6 | 1/4 | 1/2 |", f"|{' --- |' * 8}"]))
    print("\n".join(f"| {name} | {' | '.join(f'{100 * share:.0f}' for share in row)} |" for name, row in rows.items()))
    figures = {name: row.tolist() for name, row in rows.items()}
    write_report(arguments.json, {"shares": SHARES, "kept": figures, "x": start, "a": exponent})


def spectra(tasks: TaskFile) -> Mapping[str, list[Floats]]:
    """Return by kind of layer the singular values, in falling order, of every such layer's task vector, task after task."""
    base = tasks.path.parent
    architecture = read_architecture(tasks.backbone.model, base, tasks.backbone.weights)
    source = tasks.backbone.weights or tasks.backbone.model
    opened = open_checkpoint(source, base=base, architecture=architecture, model=tasks.backbone.model)
    backbone, by_kind = dict(opened.tensors()), defaultdict(list)
    for task in tasks.tasks:
        tuned = dict(open_checkpoint(task.weights, base=base, architecture=architecture, backbone=opened).tensors())
        for layer in architecture.linear_layers():
            difference = tuned[f"{layer}.weight"].double() - backbone[f"{layer}.weight"].double()
            by_kind[layer.rsplit(".", 1)[-1]].append(torch.linalg.svdvals(difference.flatten(1)).numpy())
    return by_kind


def kept_energy(values: Floats) -> Floats:
    """Return what the first directions hold of the energy of singular values, for each of `SHARES` of their number."""
    energy = np.concatenate([[0.0], np.cumsum(values**2)])
    shares: Floats = np.interp(np.array(SHARES) * len(values), np.arange(len(energy)), energy) / energy[-1]
    return shares


def fit(kept: Floats, count: int) -> tuple[float, float]:
    """Return x and a of the law whose kept energy, for `count` singular values, is nowhere far from `kept`."""

    def distance(start: float, exponent: float) -> float:
        return float(np.abs(kept_energy(decaying(count, start, exponent)) - kept).max())

    start, exponent = min(((x, a) for x in STARTS for a in EXPONENTS), key=lambda law: distance(*law))
    return float(start), float(exponent)


if __name__ == "__main__":
    main()
