"""MINGLE: low-rank experts and gates in every layer, gates adapted at test time under a null-space constraint.

Idea: each task becomes an expert per linear layer, kept out of the leading directions of earlier ones; a gate per layer decides
by the layer's input how much of each expert is used, learns from the fine-tuned model on a few unlabeled images, and must not
react to the inputs of earlier tasks.
Limitation: as published the gates are averaged over a batch of images of one task, which tells them the task; per image they
rank poorly, and the projection that lets experts be mixed costs what one expert alone could do (docs/).
Source: Qiu et al., "MINGLE: Mixtures of Null-Space Gated Low-Rank Experts for Test-Time Continual Model Merging",
arXiv 2505.11883. The computation is that of `mingle-edge merge`, scope `layer`, function by function.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Linear, Parameters, plain_linear
from mingle_edge.comparison.batches import ImageRows, TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.image_router import ImageRouter
from mingle_edge.comparison.methods.towers import backbone_embeddings, embed_by_task, tower_bytes
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import CONSTANT_START, Pooling, Settings
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.gates.adaptation import NewGate
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.gating import GatedExperts, GatedLinear, choose, gate_values
from mingle_edge.merging.task_merging import LayerState, LayerTask, layer_experts, merge_into_layers

Components = Literal["experts", "adaptation", "frozen-gates", "null-space"]
"""The paper's method taken apart (its ablation of components). `experts`: experts at a constant gate, kept out of each other's
way, nothing learned; `adaptation`: all gates so far learn with each task; `frozen-gates`: only the new one does; `null-space`:
and under the null-space constraint, the whole method (hard or relaxed as its settings say)."""
ROUTING = ("gates", "router")


class LayerScope:
    """See the module. Parameters: those of `Settings` for the layer scope, and

    - `pooling`: over what gates are averaged in evaluation besides tokens, `batch` or `image`;
    - `top_k`: experts used per layer, None for all;
    - `components`: how much of the method merges a task, see `Components`;
    - `constant`: the gate value where nothing is learned;
    - `routing`: `gates` as published, or `router`: the image router names the one task whose experts and gates are used.
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Check the parameters. Raises `TaskFileError` for one that does not exist or a value out of range."""
        settings = dict(parameters)
        self.pooling: Pooling = settings.pop("pooling", "image")
        self.top_k: int | None = settings.pop("top_k", None)
        self.components: Components = settings.pop("components", "null-space")
        self.constant: float = settings.pop("constant", CONSTANT_START)
        routing: str = settings.pop("routing", "gates")
        for name, value, allowed in (
            ("pooling", self.pooling, get_args(Pooling)),
            ("components", self.components, get_args(Components)),
            ("routing", routing, ROUTING),
        ):
            if value not in allowed:
                raise TaskFileError(f"layer scope: {name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise TaskFileError(f"layer scope: top_k must be a whole number of at least 1, or left out, not {self.top_k!r}")
        if not isinstance(self.constant, (int, float)):
            raise TaskFileError(f"layer scope: constant must be a number, not {self.constant!r}")
        if routing == "router" and (self.pooling, self.top_k) != ("image", None):
            raise TaskFileError(
                "layer scope: routing 'router' uses the one expert it names for each image, "
                f"not pooling {self.pooling!r} and top_k {self.top_k!r}; leave both out"
            )
        self.settings = Settings.from_mapping({"scope": "layer", "seed": workbench.seed} | settings, "layer scope")
        self.workbench = workbench
        self.router = ImageRouter(workbench, self.settings) if routing == "router" else None
        self._names: list[str] = []
        self.state = LayerState()
        self._alone: dict[int, dict[str, GatedExperts]] = {}  # by task number
        self._named = ImageRows()

    def add(self, task: FinetunedTask) -> None:
        """See `ContinualMethod`."""
        if self.router is not None:
            self.router.add(task)
        learner = GateLearner(task, self.workbench, self.settings)
        self.state = merge_components(learner, self.state, self.components, self.constant)
        self._names.append(task.name)
        if self.components == "adaptation":  # nothing else changes an older task's gates
            self._alone, self._named = {}, ImageRows()

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answers:
        """See `ContinualMethod`."""
        if not self._names:
            return Answers(backbone_embeddings(batch, self.workbench))
        if self.router is None:
            top_k = None if self.top_k is None else min(self.top_k, len(self._names))
            return Answers(self._embed(batch.images, self.state.experts, top_k))
        route = self.router.route(batch)
        embeds = embed_by_task(batch, route.tasks, partial(self._embed_alone, batch), self.workbench)
        return Answers(embeds, route.posterior, route.claimed, route.tasks)

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`. Only the named task's experts are used, with its gates."""
        return self._embed_alone(batch, self._names.index(task))

    def stored_bytes(self) -> int:
        """See `ContinualMethod`."""
        return self._bytes(len(self._names))

    def active_bytes(self) -> int:
        """Count all gates, which are read in every layer, and the experts they choose."""
        return self._bytes(1 if self.router is not None else self.top_k)

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`. Gates are part of it: they say how much of the task's expert is used."""
        shared = tower_bytes(self.workbench.backbone) + self._router_bytes()
        return round((self.stored_bytes() - shared) / max(len(self._names), 1))

    def _router_bytes(self) -> int:
        return self.router.stored_bytes() if self.router is not None and self._names else 0

    def _bytes(self, experts: int | None) -> int:
        numbers = 0
        for gated in self.state.experts.values():
            each = gated.experts.A[0].numel() + gated.experts.B[0].numel()
            gates = gated.gate_weight.numel() + gated.gate_bias.numel()
            merged = len(gated.gate_bias)
            read = merged if experts is None else min(experts, merged)
            numbers += read * each + (gates if self.router is None else read * gates // merged)
        return tower_bytes(self.workbench.backbone) + 4 * numbers + self._router_bytes()

    def _embed(self, images: Tensor, experts: Mapping[str, GatedExperts], top_k: int | None) -> Tensor:
        workbench = self.workbench
        linear: Linear = GatedLinear(workbench.backbone, experts, top_k, self.pooling)
        if top_k is not None and self.pooling == "image":
            linear = chosen_linear(workbench.backbone, experts, top_k)
        return workbench.embed(images, linear=linear)

    def _embed_alone(self, batch: TestBatch, task: int, places: list[int] | None = None) -> Tensor:
        """Return embeddings with one task's experts, which no later task changes; pooled gates make them the batch's."""
        key = task if self.pooling == "image" else (task, *batch.numbers)
        return self._named.of(key, batch, lambda images: self._embed(images, self._experts_alone(task), None), places)

    def _experts_alone(self, task: int) -> dict[str, GatedExperts]:
        if task not in self._alone:
            self._alone[task] = {layer: gated.alone(task) for layer, gated in self.state.experts.items()}
        return self._alone[task]


def merge_components(
    learner: GateLearner,
    state: LayerState,
    components: Components = "null-space",
    constant: float = CONSTANT_START,
) -> LayerState:
    """Return the state of the layer scope with one more task, merged by some of the method's components.

    Without seeds nothing can be learned, and the task's gates stay at the constant (the paper's row of 0 seeds per class).
    """
    task = learner.task
    if components == "null-space" and len(task.calibration_images):
        return state.grown(merge_into_layers(learner, state))
    factors, explained_norm = layer_experts(task, learner.pretrained, learner.settings, state)
    if components == "experts" or not len(task.calibration_images):
        gates = {layer: NewGate(A.new_zeros(1, A.shape[1]), A.new_full((1,), constant)) for layer, (_, A) in factors.items()}
        return state.grown(LayerTask(factors, gates, {}, explained_norm, []))
    teacher = learner.teacher_logits()
    if components == "frozen-gates":
        gates, _, losses = learner.learn(factors, state.experts, {}, teacher)
        return state.grown(LayerTask(factors, gates, {}, explained_norm, losses))
    gates = {layer: learner.start(layer, A, None) for layer, (_, A) in factors.items()}
    return _with_every_gate_adapted(learner, state.grown(LayerTask(factors, gates, {}, explained_norm, [])), teacher)


def _with_every_gate_adapted(learner: GateLearner, state: LayerState, teacher_logits: Tensor) -> LayerState:
    gates = {layer: NewGate(gated.gate_weight.clone(), gated.gate_bias.clone()) for layer, gated in state.experts.items()}

    def layers() -> dict[str, GatedExperts]:
        return {layer: GatedExperts(state.experts[layer].experts, gate.weight, gate.bias) for layer, gate in gates.items()}

    learner.adapt(layers, gates, teacher_logits)
    with torch.no_grad():
        return LayerState(layers(), state.basis)


def chosen_linear(parameters: Parameters, layers: Mapping[str, GatedExperts], top_k: int) -> Linear:
    """Return linear layers that multiply only the chosen experts, equal to `GatedLinear(parameters, layers, top_k)` to float
    rounding, with gates per image.
    """
    plain = plain_linear(parameters)

    def linear(layer: str, x: Tensor) -> Tensor:
        y = plain(layer, x)
        gated = layers.get(layer)
        if gated is None:
            return y
        experts = gated.experts
        tasks, weights = choose(gate_values(x, gated.gate_weight, gated.gate_bias), experts.norms, top_k)  # [B, k]
        A = experts.A[tasks].flatten(1, 2)  # [B, k r, d_in]
        B = experts.B[tasks].transpose(2, 3).flatten(1, 2)  # [B, k r, d_out]
        h = (x @ A.mT) * weights.repeat_interleave(experts.A.shape[1], dim=1)[:, None, :]  # [B, N, k r]
        return torch.baddbmm(y, h, B)

    return linear
