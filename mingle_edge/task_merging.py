"""What merging one task computes, in either scope: its expert, its router statistics or gates, its protected directions.

The computation works on what it is given in memory; `TaskMerger` takes that from a merged model's folder and hands back what
is to be written there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.adaptation import NewGate
from mingle_edge.errors import CheckpointError
from mingle_edge.experts import Factors, build_expert
from mingle_edge.gate_learning import Learner
from mingle_edge.gated_tower import CompleteExpert, load_layer_experts
from mingle_edge.gating import ExpertStack, GatedExperts
from mingle_edge.merged_model import Arrays, MergedModel, TaskTensors
from mingle_edge.prepared import PreparedTask
from mingle_edge.progress import Progress
from mingle_edge.router_depth import deepest
from mingle_edge.router_features import router_statistics
from mingle_edge.router_statistics import RouterStatistics
from mingle_edge.seeds import SeedImages, task_generator
from mingle_edge.vision_tower import Parameters


@dataclass(frozen=True)
class LayerTask:
    """What one task adds in the layer scope."""

    factors: dict[str, Factors]
    gates: dict[str, NewGate]
    protected: dict[str, Tensor]  # layer -> directions [added, d]
    energy: float  # share of the task vectors' squared norm that the experts hold
    losses: list[float]


@dataclass(frozen=True)
class LayerState:
    """Layer scope: what the tasks merged so far leave to the next one."""

    experts: Mapping[str, GatedExperts] = field(default_factory=dict)  # layer -> those of all tasks
    basis: Mapping[str, Tensor] = field(default_factory=dict)  # layer -> all protected directions [m, d]

    @classmethod
    def of_model(cls, model: MergedModel, device: torch.device) -> LayerState:
        """The state a merged model is in."""
        added = [model.null_space(name) for name in model.task_names]
        basis = {
            layer: torch.cat([torch.from_numpy(directions[layer]) for directions in added]).to(device)
            for layer in (added[0] if added else ())
        }
        return cls(load_layer_experts(model, device), basis)

    def grown(self, task: LayerTask) -> LayerState:
        """The state with one more task."""
        experts = {}
        for layer, (B, A) in task.factors.items():
            gate, old = task.gates[layer], self.experts.get(layer)
            new = GatedExperts(ExpertStack(A[None].contiguous(), B[None].contiguous()), gate.weight, gate.bias)
            experts[layer] = new if old is None else _joined(old, new)
        basis = {
            layer: torch.cat([self.basis[layer], added]) if layer in self.basis else added.contiguous()
            for layer, added in task.protected.items()
        }
        return LayerState(experts, basis)


def merge_into_layers(learner: Learner, finetuned: Parameters, state: LayerState) -> LayerTask:
    """Layer scope, the paper's method: projected experts, adapted gates, protected directions."""
    factors, energy = layer_experts(learner, finetuned, state)
    teacher = learner.teacher_logits(finetuned)
    gates, layers, losses = learner.learn_in_layers(factors, state.experts, state.basis, teacher)
    return LayerTask(factors, gates, learner.protect(layers, state.basis), energy, losses)


def layer_experts(learner: Learner, finetuned: Parameters, state: LayerState) -> tuple[dict[str, Factors], float]:
    """The experts of the layer scope, kept out of earlier ones' directions if so set, and the energy they hold."""
    earlier: dict[str, list[Factors]] = {}
    if learner.settings.interference_projection:
        earlier = {layer: list(zip(old.experts.B, old.experts.A, strict=True)) for layer, old in state.experts.items()}
    return _experts(learner, _carrying(learner), finetuned, earlier)


def complete_expert(learner: Learner, finetuned: Parameters) -> tuple[CompleteExpert, float]:
    """Image scope: a complete expert from the raw task vector, and the energy it holds. It depends on no other task."""
    factors, energy = _experts(learner, ["patch_embedding", *_carrying(learner), "projection"], finetuned, {})
    return CompleteExpert(factors, {name: finetuned[name] for name in learner.architecture.vector_shapes()}), energy


def seed_statistics(learner: Learner) -> RouterStatistics:
    """Image scope: what the router keeps of the task. It depends on no other task."""
    settings, architecture = learner.settings, learner.architecture
    return router_statistics(
        learner.seeds,
        learner.backbone,
        architecture,
        blocks=deepest(settings.router_blocks, architecture.layers),
        augmentations=settings.router_augmentations,
        generator=task_generator(settings.seed, learner.task, "router"),
        device=learner.device,
        progress=learner.progress,
    )


class TaskMerger:
    """Merges one task after another into a model; nothing of earlier tasks is read again."""

    def __init__(self, model: MergedModel, backbone: Parameters, device: torch.device, progress: Progress) -> None:
        """`model` holds the tasks merged already."""
        self.model = model
        self.backbone = backbone
        self.device = device
        self.progress = progress
        self._state: LayerState | None = None  # of the layer scope, read when first needed

    def merge(self, task: PreparedTask) -> tuple[TaskTensors, dict[str, Any]]:
        """Everything to be committed of the task, and its record for the index.

        Raises:
            CheckpointError: some of it is not finite.
        """
        finetuned = {name: tensor.to(self.device) for name, tensor in task.checkpoint.tensors()}
        # A vision-only checkpoint has no projection: it was trained under the backbone's.
        finetuned.setdefault("projection.weight", self.backbone["projection.weight"])
        learner = Learner(
            task=task.source.name,
            backbone=self.backbone,
            architecture=self.model.architecture,
            settings=self.model.settings,
            seeds=SeedImages(task.seeds, self.model.architecture),
            head=task.head.to(self.device),
            logit_scale=self.model.logit_scale,
            device=self.device,
            progress=self.progress,
        )
        if self.model.scope == "layer":
            state = self._state or LayerState.of_model(self.model, self.device)
            in_layers = merge_into_layers(learner, finetuned, state)
            self._state = state.grown(in_layers)
            tensors = TaskTensors(
                expert=_factor_arrays(in_layers.factors),
                head=_array(task.head),
                gates={layer: (_array(gate.weight[0]), _array(gate.bias)) for layer, gate in in_layers.gates.items()},
                null_space={layer: _array(directions) for layer, directions in in_layers.protected.items()},
            )
            _check_finite(task.source.name, tensors)
            return tensors, {"energy": in_layers.energy, "losses": in_layers.losses}
        expert, energy = complete_expert(learner, finetuned)
        tensors = TaskTensors(
            expert=_factor_arrays(expert.factors) | {name: _array(value) for name, value in expert.vectors.items()},
            head=_array(task.head),
            router=seed_statistics(learner),
        )
        _check_finite(task.source.name, tensors)
        return tensors, {"energy": energy, "losses": []}


def _check_finite(task: str, tensors: TaskTensors) -> None:
    named = dict(tensors.expert)
    for layer, (weight, bias) in tensors.gates.items():
        named |= {f"gate of {layer}, weight": weight, f"gate of {layer}, bias": bias}
    named |= {f"protected directions of {layer}": rows for layer, rows in tensors.null_space.items()}
    for name, values in named.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"task {task!r}: {name} is not finite after merging; lower learning_rate, or use an undamaged checkpoint"
            )


def _carrying(learner: Learner) -> list[str]:
    kinds = learner.settings.carrying()
    return [layer for layer in learner.architecture.block_linears() if layer.rsplit(".", 1)[-1] in kinds]


def _experts(
    learner: Learner, layers: Sequence[str], finetuned: Parameters, earlier: Mapping[str, Sequence[Factors]]
) -> tuple[dict[str, Factors], float]:
    """An expert (B, A) per layer, and the share of the task vectors' squared norm they hold."""
    factors: dict[str, Factors] = {}
    kept = total = 0.0
    for done, layer in enumerate(layers):
        task_vector = finetuned[f"{layer}.weight"] - learner.backbone[f"{layer}.weight"]
        factors[layer] = build_expert(task_vector, learner.settings.rank, earlier.get(layer, ()))
        kept += float(factors[layer][1].double().square().sum())  # B has orthonormal columns: ||B A|| = ||A||
        total += float(task_vector.double().square().sum())
        learner.progress("experts", done + 1, len(layers), layer)
    return factors, kept / total if total else 1.0


def _joined(old: GatedExperts, new: GatedExperts) -> GatedExperts:
    stack = ExpertStack(torch.cat([old.experts.A, new.experts.A]), torch.cat([old.experts.B, new.experts.B]))
    weight, bias = torch.cat([old.gate_weight, new.gate_weight]), torch.cat([old.gate_bias, new.gate_bias])
    return GatedExperts(stack, weight, bias)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _factor_arrays(factors: Mapping[str, Factors]) -> Arrays:
    return {f"{layer}.A": _array(A) for layer, (_, A) in factors.items()} | {
        f"{layer}.B": _array(B) for layer, (B, _) in factors.items()
    }
