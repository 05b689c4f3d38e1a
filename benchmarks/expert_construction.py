"""Projected experts of one ViT-B/32 task: ours, from thin factors, against the straightforward full-SVD form.

    python benchmarks/expert_construction.py [--layers 12] [--earlier 3] [--json FILE]

Both build the rank-64 expert of each linear layer of `layers` blocks after `earlier` tasks, layer by layer in turn. Prints
the ratio of times and the largest relative difference of the experts' products.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mingle_edge.architecture import VisionArchitecture
from mingle_edge.experts import Factors, build_expert
from mingle_edge.low_rank import effective_rank
from mingle_edge_runtime.machine import machine_record

RANK = 64
VIT_B_32 = VisionArchitecture(224, 32, 768, 12, 12, 3072, 512, "quick_gelu")


def straightforward(task_vector: Tensor, earlier: list[Factors]) -> Tensor:
    """The expert's product by the definition: all singular vectors of the materialised sum, then an SVD of the result."""
    if earlier:
        U, singular, Vh = torch.linalg.svd(torch.stack([B @ A for B, A in earlier]).sum(0), full_matrices=True)
        rank = effective_rank(singular)
        P = U.T @ task_vector @ Vh.T
        P[:rank, :rank] = 0
        task_vector = U @ P @ Vh
    U, singular, Vh = torch.linalg.svd(task_vector, full_matrices=False)
    return U[:, :RANK] @ torch.diag(singular[:RANK]) @ Vh[:RANK]


def random_task_vector(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Half signal of rank 16, half noise: spectra of fine-tuned differences decay slowly."""
    signal = torch.randn(shape[0], 16, generator=generator) @ torch.randn(16, shape[1], generator=generator) / 4
    return 0.001 * (signal + torch.randn(shape, generator=generator))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="blocks, six linear layers each")
    parser.add_argument("--earlier", type=int, default=3, help="tasks merged before")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    ours: list[float] = []
    theirs: list[float] = []
    difference = 0.0
    for layer in VIT_B_32.block_linears()[: 6 * arguments.layers]:
        shape = VIT_B_32.linear_shape(layer)
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
        "machine": machine_record(),
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
