"""TSV-Compress: of every matrix of a task vector the leading singular vectors (Task Singular Vectors, arXiv 2412.00081).

Idea: task matrices of layers are nearly of low rank, so with T tasks each keeps one in T of its singular components, and all
tasks together take about the space of one. Limitation: the rank is that of the number of tasks, whatever a task
needs, and components are kept at 4 bytes; what is no matrix is kept in full. It is this project's expert before any adaptation
and rounding, at another rank.

The authors' code decomposes two-dimensional parameters and so keeps the kernel of the patch embedding in full; here it is a
matrix like the others. q, k and v are three matrices, as in most checkpoints, where theirs have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.compressed_models import CompressedModels, changed_parameters, parameter_bytes
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.experts.low_rank import truncated_svd
from mingle_edge.experts.task_vectors import Factors


@dataclass(frozen=True)
class SingularComponents:
    """What is stored of a task."""

    factors: Mapping[str, Factors]  # of a weight's difference
    kept: Parameters  # everything that is no matrix, as fine-tuned

    @property
    def nbytes(self) -> int:
        """Return the bytes of the factors and of what is kept."""
        sides = (side for pair in self.factors.values() for side in pair)
        return sum(side.numel() * side.element_size() for side in sides) + parameter_bytes(self.kept)

    def tower(self, backbone: Parameters) -> Parameters:
        """Return the backbone with the product of the factors added to each matrix."""
        return {**backbone, **self.kept} | {name: backbone[name] + B @ A for name, (B, A) in self.factors.items()}


def compress(task: FinetunedTask, workbench: Workbench, *, share: float) -> SingularComponents:
    """Keep of every matrix a share of its singular components, rounded down; it may be none of them."""
    changed = changed_parameters([task], workbench.backbone)
    weights = {f"{layer}.weight" for layer in workbench.architecture.linear_layers()}
    factors = {}
    for name in changed:
        if name in weights:
            difference = task.finetuned[name] - workbench.backbone[name]
            if rank := int(share * min(difference.shape)):
                factors[name] = truncated_svd(difference, rank)
    return SingularComponents(factors, {name: task.finetuned[name] for name in changed if name not in weights})


tsv_compress = partial(CompressedModels, compress)
