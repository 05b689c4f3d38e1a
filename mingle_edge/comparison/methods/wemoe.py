"""LoRA-WEMoE: weight-ensembling mixture of experts (arXiv 2402.00433) with low-rank experts, taking one task after another.

Idea: task arithmetic for everything outside the MLPs; in every MLP a linear gate reads the mean token and says how much of
each task's difference to add to the pretrained weights. Gates learn by entropy minimization on unlabeled images, starting
near the constant of task arithmetic, 0.3.
Limitation: attention is merged statically, so conflicts there stay whatever the gates say, and with many tasks 0.3 of each
is too much. Certain is not right, and the entropy is that of the newest task alone. All experts are read for every image.

`wemoe-published` is what the script behind the MINGLE paper does (zihuanqiu/MINGLE, `c_wemoe.py`): only attention is merged
by task arithmetic, LayerNorms and stem stay pretrained; experts are fc1 and fc2 weights at rank 64 for the first task and 16
for later ones, biases stay pretrained; one linear gate per MLP, new rows from N(0, 0.01) with bias 0.3; all rows learn from
every new task; gate values are pooled over the batch in learning and in evaluation.

`wemoe` corrects what departs from WEMoE (tanganke/fusion_bench, `we_moe`): everything outside the MLPs is merged, MLP biases
are part of the expert, each task has the same rank, and after learning each image has its own gate values (WEMoE pools over
the batch while it learns, and means to evaluate per sample). Earlier tasks' gate rows go on learning unless
`freezes_earlier` says otherwise: WEMoE's router is one router trained as a whole, and frozen rows are a component of MINGLE
(its ablation counts them), so they are no correction. Tuning tries both, so that the choice does not count against the peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Linear, Parameters, plain_linear
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.entropy_minimization import minimize_entropy, seed_batches
from mingle_edge.comparison.methods.towers import OneTower
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.settings import Pooling
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.experts.low_rank import truncated_svd
from mingle_edge.gates.gating import gate_values

BYTES = 4  # of a parameter
RANDOM_START = 0.01  # standard deviation of a new gate row's weights
MLP_LAYERS = ("fc1", "fc2")
ATTENTION_LAYERS = ("q", "k", "v", "out")


@dataclass(frozen=True)
class ExpertSum:
    """The experts of T tasks at one linear layer, of any ranks: R is their sum."""

    A: Tensor  # [R, d_in]
    B: Tensor  # [d_out, R]
    owner: Tensor  # [R], the task each rank-one term belongs to
    bias: Tensor  # [T, d_out], differences of biases

    def __call__(self, x: Tensor, values: Tensor) -> Tensor:
        """Return `sum_t g_t (B_t A_t x + bias_t)` for `x [B, N, d_in]` and gate values `[B, T]`: `[B, N, d_out]`."""
        h = (x @ self.A.T) * values[:, self.owner][:, None, :]  # [B, N, R]
        return h @ self.B.T + (values @ self.bias)[:, None, :]

    def appended(self, difference: Tensor, bias: Tensor, rank: int) -> ExpertSum:
        """Return the sum with one more task, whose weight differs by `difference [d_out, d_in]` and bias by `bias [d_out]`."""
        B, A = truncated_svd(difference, rank)
        owner = self.owner.new_full((len(A),), len(self.bias))
        return ExpertSum(
            torch.cat([self.A, A]),
            torch.cat([self.B, B], dim=1),
            torch.cat([self.owner, owner]),
            torch.cat([self.bias, bias[None]]),
        )


@dataclass(frozen=True)
class GatedMlp:
    """The mixture in place of one block's MLP: one gate for both layers."""

    fc1: ExpertSum
    fc2: ExpertSum
    gate_weight: Tensor  # [T, width]
    gate_bias: Tensor  # [T]


def merge_outside_mlps(
    merged: Parameters, finetuned: Parameters, backbone: Parameters, scale: float, *, attention_only: bool
) -> dict[str, Tensor]:
    """Add by task arithmetic, `merged + scale (finetuned - backbone)`, all parameters outside the MLPs or attention alone."""

    def is_merged(name: str) -> bool:
        layer = name.split(".")[-2] if "." in name else name
        return layer in ATTENTION_LAYERS if attention_only else layer not in MLP_LAYERS

    return {n: m + scale * (finetuned[n] - backbone[n]) if is_merged(n) else m for n, m in merged.items()}


def mixture_linear(parameters: Parameters, mlps: Mapping[str, GatedMlp], pooling: Pooling) -> Linear:
    """Return the linear layers of a tower whose MLPs are mixtures, by block (`blocks.3`); a gate reads what enters fc1."""
    plain = plain_linear(parameters)
    values: dict[str, Tensor] = {}

    def linear(layer: str, x: Tensor) -> Tensor:
        y = plain(layer, x)
        block, _, name = layer.rpartition(".")
        if name not in MLP_LAYERS or block not in mlps:
            return y
        mlp = mlps[block]
        if name == "fc1":
            values[block] = gate_values(x, mlp.gate_weight, mlp.gate_bias, pooling)
            return y + mlp.fc1(x, values[block])
        return y + mlp.fc2(x, values.pop(block))

    return linear


def append_experts(
    mlps: Mapping[str, GatedMlp], task: FinetunedTask, workbench: Workbench, *, rank: int, start: float, with_biases: bool
) -> dict[str, GatedMlp]:
    """Return every MLP with the task's expert and a new gate row, random by the workbench's seed, the task's name and the
    block.
    """
    appended = {}
    for number in range(workbench.architecture.layers):
        block = f"blocks.{number}"
        layers = {}
        for name in MLP_LAYERS:
            weight, bias = f"{block}.{name}.weight", f"{block}.{name}.bias"
            difference = task.finetuned[weight] - workbench.backbone[weight]
            bias_difference = (task.finetuned[bias] - workbench.backbone[bias]) * float(with_biases)
            earlier: ExpertSum = getattr(mlps[block], name) if block in mlps else _no_experts(difference)
            layers[name] = earlier.appended(difference, bias_difference, rank)
        width = workbench.architecture.width
        generator = task_generator(workbench.seed, task.name, f"{block} gate")
        gate_weight = torch.randn(1, width, generator=generator).to(workbench.device) * RANDOM_START
        gate_bias = torch.full((1,), start, device=workbench.device)
        if block in mlps:
            gate_weight = torch.cat([mlps[block].gate_weight, gate_weight])
            gate_bias = torch.cat([mlps[block].gate_bias, gate_bias])
        appended[block] = GatedMlp(layers["fc1"], layers["fc2"], gate_weight, gate_bias)
    return appended


def learn_gates(
    workbench: Workbench,
    task: FinetunedTask,
    parameters: Parameters,
    mlps: Mapping[str, GatedMlp],
    batches: Iterable[Tensor],
    *,
    freezes_earlier: bool,
    learning_rate: float,
) -> dict[str, GatedMlp]:
    """Return the MLPs with gates learned from batches of the newest task's seed images; pooled over each batch."""
    frozen = len(next(iter(mlps.values())).gate_bias) - 1 if freezes_earlier else 0  # rows that do not learn
    rows = {block: (mlp.gate_weight[frozen:].clone(), mlp.gate_bias[frozen:].clone()) for block, mlp in mlps.items()}

    def current() -> dict[str, GatedMlp]:
        gates = {
            block: (torch.cat([mlp.gate_weight[:frozen], weight]), torch.cat([mlp.gate_bias[:frozen], bias]))
            for (block, mlp), (weight, bias) in zip(mlps.items(), rows.values(), strict=True)
        }
        return {block: GatedMlp(mlp.fc1, mlp.fc2, *gates[block]) for block, mlp in mlps.items()}

    def logits(images: Tensor) -> Tensor:
        linear = mixture_linear(parameters, current(), "batch")
        return task.head.logits(workbench.embed(images, parameters, linear))

    minimize_entropy(logits, [tensor for pair in rows.values() for tensor in pair], batches, learning_rate)
    return current()


class WeightEnsemblingMixture(OneTower):
    """One run over one order of tasks; the tower is merged outside the MLPs, and inside pretrained."""

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any], *, published: bool) -> None:
        super().__init__(workbench)
        self.settings = parameters
        self.published = published  # attention alone merged, no biases in experts, a smaller rank after the first task
        self.mlps: dict[str, GatedMlp] = {}

    def add(self, task: FinetunedTask) -> None:
        """Merge outside the MLPs, add the task's experts and learn the gates."""
        bench, settings = self.workbench, self.settings
        rank = settings["later_rank"] if self.published and self.mlps else settings["rank"]
        self.tower = merge_outside_mlps(
            self.tower, task.finetuned, bench.backbone, settings["start"], attention_only=self.published
        )
        appended = append_experts(self.mlps, task, bench, rank=rank, start=settings["start"], with_biases=not self.published)
        self.mlps = learn_gates(
            bench,
            task,
            self.tower,
            appended,
            seed_batches(bench, task, settings["batch_size"], settings["steps"]),
            freezes_earlier=settings["freezes_earlier"],
            learning_rate=settings["learning_rate"],
        )

    def answer(self, batch: TestBatch) -> Answers:
        """Embed with gate values per image or pooled over the batch; before the first task with the pretrained model."""
        if not self.mlps:
            return super().answer(batch)
        linear = mixture_linear(self.tower, self.mlps, self.settings["pooling"])
        return Answers(self.workbench.embed(batch.images, self.tower, linear))

    def stored_bytes(self) -> int:
        """Count one model, the experts and the gates."""
        parameters = 0
        for mlp in self.mlps.values():
            parameters += mlp.gate_weight.numel() + mlp.gate_bias.numel()
            for experts in (mlp.fc1, mlp.fc2):
                parameters += experts.A.numel() + experts.B.numel() + (0 if self.published else experts.bias.numel())
        return super().stored_bytes() + BYTES * parameters

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`. Gates are part of it: they say how much of the task's expert is used."""
        tasks = max((len(mlp.gate_bias) for mlp in self.mlps.values()), default=1)
        return round((self.stored_bytes() - super().stored_bytes()) / tasks)


def _no_experts(like: Tensor) -> ExpertSum:
    d_out, d_in = like.shape
    return ExpertSum(
        like.new_zeros(0, d_in),
        like.new_zeros(d_out, 0),
        torch.zeros(0, dtype=torch.long, device=like.device),
        like.new_zeros(0, d_out),
    )


corrected = partial(WeightEnsemblingMixture, published=False)
as_published = partial(WeightEnsemblingMixture, published=True)
