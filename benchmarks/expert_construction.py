"""Projected experts of one ViT-B/32 task: ours, from thin factors, against the straightforward full-SVD form.

    python -m benchmarks.expert_construction [--layers 12] [--earlier 3] [--json FILE]

Both build the rank-64 expert of each linear layer of `layers` blocks, six a block, after `earlier` tasks, layer by layer in
turn. Prints the ratio of times and the largest relative difference of the experts' products.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.architectures import MODELS
from benchmarks.command import make_parser, write_report
from mingle_edge.experts.low_rank import effective_rank
from mingle_edge.experts.task_vectors import Factors, build_expert

RANK = 64
ARCHITECTURE = MODELS["ViT-B-32"]


def straightforward(task_vector: Tensor, earlier: list[Factors]) -> Tensor:
    """Return the expert's product by the definition: singular vectors of the materialized sum, then an SVD."""
    if earlier:
        U, singular, Vh = torch.linalg.svd(torch.stack([B @ A for B, A in earlier]).sum(0), full_matrices=True)
        rank = effective_rank(singular)
        P = U.T @ task_vector @ Vh.T
        P[:rank, :rank] = 0
        task_vector = U @ P @ Vh
    U, singular, Vh = torch.linalg.svd(task_vector, full_matrices=False)
    product: Tensor = U[:, :RANK] @ torch.diag(singular[:RANK]) @ Vh[:RANK]
    return product


def random_task_vector(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw half signal of rank 16, half noise: spectra of fine-tuned differences decay slowly."""
    signal = torch.randn(shape[0], 16, generator=generator) @ torch.randn(16, shape[1], generator=generator) / 4
    task_vector: Tensor = 0.001 * (signal + torch.randn(shape, generator=generator))
    return task_vector


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, layers=12, earlier=3).parse_args(options)
    generator = torch.Generator().manual_seed(0)
    ours: list[float] = []
    theirs: list[float] = []
    difference = 0.0
    for layer in ARCHITECTURE.block_linears()[: 6 * arguments.layers]:
        shape = ARCHITECTURE.linear_shape(layer)
        earlier: list[Factors] = []
        for _ in range(arguments.earlier):
            earlier.append(build_expert(random_task_vector(shape, generator), RANK, earlier))
        task_vector = random_task_vector(shape, generator)
        started = time.perf_counter()
        B, A = build_expert(task_vector, RANK, earlier)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        reference = straightforward(task_vector, earlier)
        theirs.append(time.perf_counter() - started)
        exact = straightforward(task_vector.double(), [(b.double(), a.double()) for b, a in earlier])
        difference = max(difference, float((B.double() @ A.double() - exact).norm() / exact.norm()))
        in_float32 = float((reference.double() - exact).norm() / exact.norm())
    figures = {
        "seconds_per_task": sum(ours),
        "seconds_per_task_full_svd": sum(theirs),
        "ratio": sum(theirs) / sum(ours),
        "median_ratio_of_layers": float(np.median(np.divide(theirs, ours))),
        "largest_relative_difference": difference,
        "relative_difference_of_full_svd_in_float32": in_float32,
    }
    write_report(arguments.json, figures, show=True)


if __name__ == "__main__":
    main()
