"""SMILE: low-rank experts of every linear layer, chosen for each token by the layer's own router without parameters.

Idea: of each task's difference in a linear layer the leading singular components are an expert, and the right singular vectors
alone its gate: a token goes to the task onto whose leading directions it has the longest projection (zero-shot sparse mixture
of low-rank experts, arXiv 2408.10174). Nothing is learned and no image is needed. Limitation: each layer decides for itself and
each token by itself, so one image meets experts of many tasks; LayerNorms, positions, class token and the patch embedding, a
convolution, stay pretrained.

Published for CLIP are rank 32 for experts and 16 for gates, the one expert of the longest projection (tanganke/fusion_bench,
docs/algorithms/smile_upscaling.md). Biases of linear layers are part of the expert.

With the task named its expert is used in every layer, and gates are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Linear, plain_linear
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.towers import backbone_embeddings, tower_bytes
from mingle_edge.core.errors import TaskFileError
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.experts.low_rank import truncated_svd

BYTES = 4  # of a parameter
STEM = "patch_embedding"


@dataclass(frozen=True)
class LayerExpert:
    """One task in one linear layer."""

    A: Tensor  # [r, d_in]
    B: Tensor  # [d_out, r]
    bias: Tensor | None  # [d_out], what fine-tuning added to the layer's
    gate: Tensor  # [g, d_in], orthonormal rows; rows of zeros where the difference has fewer directions

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the expert adds for `x [..., d_in]`: `[..., d_out]`."""
        y = x @ self.A.T @ self.B.T
        return y if self.bias is None else y + self.bias


class Smile:
    """One run over one order of tasks. Parameters: `rank` of experts, `gate_rank` of gates."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Raise `TaskFileError` for a rank that is no whole number from 1."""
        for name, value in parameters.items():
            if type(value) is not int or value < 1:
                raise TaskFileError(f"smile: {name} must be a whole number of at least 1, not {value!r}")
        self.workbench = workbench
        self.rank, self.gate_rank = parameters["rank"], parameters["gate_rank"]
        self._experts: dict[str, dict[str, LayerExpert]] = {}  # task -> layer -> expert

    def add(self, task: FinetunedTask) -> None:
        """Decompose the task's differences; nothing of an earlier task changes."""
        layers = [layer for layer in self.workbench.architecture.linear_layers() if layer != STEM]
        self._experts[task.name] = {layer: self._expert(task, layer) for layer in layers}

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answers:
        """Embed a batch, each token with the expert that each layer's router chooses."""
        if not self._experts:
            return Answers(backbone_embeddings(batch, self.workbench))
        return Answers(self.workbench.embed(batch.images, linear=self._linear(list(self._experts))))

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`."""
        key = ("smile", self.rank, task)
        linear = self._linear([task])
        return self.workbench.kept.rows.of(key, batch, lambda images: self.workbench.embed(images, linear=linear))

    def stored_bytes(self) -> int:
        """See `ContinualMethod`."""
        gates = sum(expert.gate.numel() for layers in self._experts.values() for expert in layers.values())
        return tower_bytes(self.workbench.backbone) + self._expert_bytes() + BYTES * gates

    def active_bytes(self) -> int:
        """Count everything: tokens of one image go to many tasks."""
        return self.stored_bytes()

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`. Gates only find the task."""
        return round(self._expert_bytes() / max(len(self._experts), 1))

    def _expert_bytes(self) -> int:
        experts = (expert for layers in self._experts.values() for expert in layers.values())
        return BYTES * sum(tensor.numel() for one in experts for tensor in (one.A, one.B, one.bias) if tensor is not None)

    def _expert(self, task: FinetunedTask, layer: str) -> LayerExpert:
        B, A = truncated_svd(self.workbench.task_vector(task.finetuned, layer), max(self.rank, self.gate_rank))
        lengths = A.norm(dim=1, keepdim=True)  # [r, 1], singular values
        gate = (A / torch.where(lengths > 0, lengths, 1.0))[: self.gate_rank]
        name = f"{layer}.bias"
        bias = task.finetuned[name] - self.workbench.backbone[name] if name in task.finetuned else None
        return LayerExpert(A[: self.rank].clone(), B[:, : self.rank].clone(), bias, gate)

    def _linear(self, tasks: list[str]) -> Linear:
        """Return linear layers with the experts of these tasks, of which each token gets one."""
        plain = plain_linear(self.workbench.backbone)

        def linear(layer: str, x: Tensor) -> Tensor:
            y = plain(layer, x)
            if layer == STEM:
                return y
            experts = [self._experts[task][layer] for task in tasks]
            if len(experts) == 1:
                return y + experts[0](x)
            lengths = torch.stack([(x @ expert.gate.T).norm(dim=-1) for expert in experts])  # [T, B, N]
            chosen = lengths.argmax(0)  # [B, N]
            for task, expert in enumerate(experts):
                y = y + torch.where((chosen == task)[..., None], expert(x), 0)
            return y

        return linear
