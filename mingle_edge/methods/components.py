"""The paper's method taken apart, part by part (arXiv 2505.11883, ablation of its components).

`experts`: experts at a constant gate, kept out of each other's way, nothing learned; `adaptation`: all gates so far learn with
each task; `frozen-gates`: only the new one does; `null-space`: and under the null-space constraint, the whole method (hard
or relaxed as its settings say).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mingle_edge.adaptation import NewGate
from mingle_edge.gate_learning import CONSTANT_START, Learner
from mingle_edge.gating import GatedExperts, GatedLinear
from mingle_edge.task_merging import LayerState, LayerTask, layer_experts, merge_into_layers
from mingle_edge.vision_tower import Parameters

Components = Literal["experts", "adaptation", "frozen-gates", "null-space"]
COMPONENTS = get_args(Components)


def merge_components(
    learner: Learner,
    finetuned: Parameters,
    state: LayerState,
    components: Components = "null-space",
    constant: float = CONSTANT_START,
) -> LayerState:
    """The state of the layer scope with one more task, merged by some of the method's components.

    Without seeds nothing can be learned, and the task's gates stay at the constant (the paper's row of 0 seeds per class).
    """
    if components == "null-space" and len(learner.seeds):
        return state.grown(merge_into_layers(learner, finetuned, state))
    factors, energy = layer_experts(learner, finetuned, state)
    if components == "experts" or not len(learner.seeds):
        gates = {layer: NewGate(A.new_zeros(1, A.shape[1]), A.new_full((1,), constant)) for layer, (_, A) in factors.items()}
        return state.grown(LayerTask(factors, gates, {}, energy, []))
    teacher = learner.teacher_logits(finetuned)
    if components == "frozen-gates":
        gates, _, losses = learner.learn_in_layers(factors, state.experts, {}, teacher)
        return state.grown(LayerTask(factors, gates, {}, energy, losses))
    gates = {layer: learner.start(layer, A, None) for layer, (_, A) in factors.items()}
    return _with_every_gate_adapted(learner, state.grown(LayerTask(factors, gates, {}, energy, [])), teacher)


def _with_every_gate_adapted(learner: Learner, state: LayerState, teacher_logits: Tensor) -> LayerState:
    gates = {layer: NewGate(gated.gate_weight.clone(), gated.gate_bias.clone()) for layer, gated in state.experts.items()}

    def layers() -> dict[str, GatedExperts]:
        return {layer: GatedExperts(state.experts[layer].experts, gate.weight, gate.bias) for layer, gate in gates.items()}

    def student(images: Tensor) -> Tensor:
        linear = GatedLinear(learner.backbone, layers(), pooling=learner.settings.gate_pooling)
        return learner.logits(images, learner.backbone, linear)

    learner.adapt(student, gates, teacher_logits)
    with torch.no_grad():
        return LayerState(layers(), state.basis)
