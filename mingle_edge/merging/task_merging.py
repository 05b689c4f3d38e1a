"""What merging one task computes, in either scope: its expert, its router statistics or gates, its protected directions.

The computation works on what it is given in memory; `TaskMerger` takes that from a merged model's folder and hands back what
is to be written there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.core.errors import CheckpointError
from mingle_edge.core.progress import WARNING, Progress, silent
from mingle_edge.data.settings import Settings
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_size import size_expert
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.low_rank import orthonormal
from mingle_edge.experts.task_vectors import Factors, build_expert
from mingle_edge.gates.adaptation import NewGate
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.gating import ExpertStack, GatedExperts
from mingle_edge.merging.expert_answers import run_wrong_experts
from mingle_edge.merging.merge_inputs import TaskInputs
from mingle_edge.merging.merged_model import MergedModel, TaskTensors
from mingle_edge.merging.merged_tower import load_layer_experts
from mingle_edge.merging.task_warnings import Kinship, task_warnings
from mingle_edge.merging.tensor_file import Arrays
from mingle_edge.routing.features import router_statistics


@dataclass(frozen=True)
class LayerTask:
    """What one task adds in the layer scope."""

    factors: dict[str, Factors]
    gates: dict[str, NewGate]
    protected: dict[str, Tensor]  # layer -> directions [added, d]
    explained_norm: float  # share of the task vectors' squared norm that the experts hold
    losses: list[float]


@dataclass(frozen=True)
class LayerState:
    """Layer scope: what the tasks merged so far leave to the next one."""

    experts: Mapping[str, GatedExperts] = field(default_factory=dict)  # layer -> those of all tasks
    basis: Mapping[str, Tensor] = field(default_factory=dict)  # layer -> all protected directions [m, d]

    @classmethod
    def of_model(cls, model: MergedModel, device: torch.device) -> LayerState:
        """Read the state that a merged model is in."""
        added = [model.null_space(name) for name in model.task_names]
        basis = {
            layer: torch.cat([torch.from_numpy(directions[layer]) for directions in added]).to(device)
            for layer in (added[0] if added else ())
        }
        return cls(load_layer_experts(model, device), basis)

    def grown(self, task: LayerTask) -> LayerState:
        """Return the state with one more task."""
        experts = {}
        for layer, (B, A) in task.factors.items():
            gate, earlier = task.gates[layer], self.experts.get(layer)
            new = GatedExperts(ExpertStack(A[None].contiguous(), B[None].contiguous()), gate.weight, gate.bias)
            experts[layer] = new if earlier is None else earlier.appended(new)
        basis = {
            layer: torch.cat([self.basis[layer], added]) if layer in self.basis else added.contiguous()
            for layer, added in task.protected.items()
        }
        return LayerState(experts, basis)


def merge_into_layers(learner: GateLearner, state: LayerState) -> LayerTask:
    """Merge a task in the layer scope, the paper's method: projected experts, adapted gates, protected directions."""
    factors, explained_norm = layer_experts(learner.task, learner.pretrained, learner.settings, state, learner.progress)
    gates, layers, losses = learner.learn(factors, state.experts, state.basis, learner.teacher_logits())
    return LayerTask(factors, gates, learner.protect(layers, state.basis), explained_norm, losses)


def layer_experts(
    task: FinetunedTask, pretrained: PretrainedModel, settings: Settings, state: LayerState, progress: Progress = silent
) -> tuple[dict[str, Factors], float]:
    """Return the experts of the layer scope, kept out of earlier ones' directions if so set, and their explained norm."""
    earlier: dict[str, list[Factors]] = {}
    if settings.interference_projection:
        earlier = {layer: list(zip(old.experts.B, old.experts.A, strict=True)) for layer, old in state.experts.items()}

    def build(layer: str, task_vector: Tensor) -> Factors:
        return build_expert(task_vector, settings.largest_rank, earlier.get(layer, ()))

    return _experts(task, pretrained, settings, build, progress)


def complete_expert(
    task: FinetunedTask, pretrained: PretrainedModel, settings: Settings, progress: Progress = silent
) -> tuple[CompleteExpert, float]:
    """Return the image scope's expert, from the raw task vector, and its explained norm. It depends on no other task.

    Layers and vectors that fine-tuning left as they were are not in it; a layer that an adapter changed keeps its rank.
    """

    def build(layer: str, task_vector: Tensor) -> Factors | None:
        if not task_vector.any():
            return None
        return orthonormal(*task.factors[layer]) if layer in task.factors else build_expert(task_vector, settings.largest_rank)

    factors, explained_norm = _experts(task, pretrained, settings, build, progress)
    vectors = {name: (task.finetuned[name], pretrained.backbone[name]) for name in pretrained.architecture.vector_shapes()}
    own = {name: finetuned for name, (finetuned, plain) in vectors.items() if not torch.equal(finetuned, plain)}
    return CompleteExpert(factors, own), explained_norm


class TaskMerger:
    """Merges one task after another into a model; nothing of earlier tasks is read again."""

    def __init__(self, model: MergedModel, pretrained: PretrainedModel, progress: Progress) -> None:
        """Start from a model that holds the tasks merged already."""
        self.model = model
        self.pretrained = pretrained
        self.progress = progress
        self._state: LayerState | None = None  # of the layer scope, read when first needed

    def merge(self, inputs: TaskInputs) -> tuple[TaskTensors, dict[str, Any]]:
        """Return everything to be committed of the task, and its record for the index.

        Raises:
            CheckpointError: some of it is not finite.
        """
        task, pretrained, settings = inputs.load(self.pretrained), self.pretrained, self.model.settings
        warnings: list[str] = []
        if settings.scope == "layer":
            tensors, record = self._merge_into_layers(GateLearner(task, pretrained, settings, self.progress))
        else:
            truncated, explained_norm = complete_expert(task, pretrained, settings, self.progress)
            sized = size_expert(truncated, task, pretrained, settings, self.progress)
            expert, warnings = sized.expert, list(sized.warnings)
            if expert.rank < truncated.rank:
                explained_norm *= _squared_norm(truncated.first(expert.rank).factors) / _squared_norm(truncated.factors)
            record = {"explained_norm": explained_norm, "rank": expert.rank} | sized.record()
            record |= run_wrong_experts(task, expert, pretrained, self._older_experts(), self.progress).record()
            tensors = TaskTensors(
                expert=_factor_arrays(expert.factors) | {name: _array(value) for name, value in expert.unfactored.items()},
                head=_head_arrays(task.head),
                router=router_statistics(task.name, task.calibration_images, pretrained, settings, self.progress),
            )
        _check_finite(task.name, tensors)
        kinship = Kinship.of(task.finetuned, pretrained.backbone, pretrained.architecture)
        record["warnings"] = warnings + task_warnings(task.name, kinship, record["explained_norm"], record["rank"])
        for warning in record["warnings"]:
            self.progress(WARNING, 1, 1, warning)
        return tensors, record

    def _older_experts(self) -> Iterator[tuple[str, CompleteExpert]]:
        for name in self.model.task_names:
            yield name, CompleteExpert.from_arrays(self.model.expert(name), self.pretrained.device)

    def _merge_into_layers(self, learner: GateLearner) -> tuple[TaskTensors, dict[str, Any]]:
        state = self._state or LayerState.of_model(self.model, self.pretrained.device)
        added = merge_into_layers(learner, state)
        self._state = state.grown(added)
        tensors = TaskTensors(
            expert=_factor_arrays(added.factors),
            head=_head_arrays(learner.task.head),
            gates={layer: (_array(gate.weight[0]), _array(gate.bias)) for layer, gate in added.gates.items()},
            null_space={layer: _array(directions) for layer, directions in added.protected.items()},
        )
        return tensors, {
            "explained_norm": added.explained_norm,
            "rank": self.model.settings.largest_rank,
            "losses": added.losses,
        }


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


def _experts(
    task: FinetunedTask,
    pretrained: PretrainedModel,
    settings: Settings,
    build: Callable[[str, Tensor], Factors | None],
    progress: Progress,
) -> tuple[dict[str, Factors], float]:
    """Return an expert (B, A) per layer, and the share of the task vectors' squared norm they hold.

    build: makes the expert of a layer of its task vector, B with orthonormal columns; None where the layer has none.
    """
    factors: dict[str, Factors] = {}
    kept = total = 0.0
    layers = settings.expert_layers(pretrained.architecture)
    for done, layer in enumerate(layers):
        task_vector = pretrained.task_vector(task.finetuned, layer)
        if (expert := build(layer, task_vector)) is not None:
            factors[layer] = expert
            kept += _squared_norm({layer: expert})
        total += float(task_vector.double().square().sum())
        progress("experts", done + 1, len(layers), layer)
    return factors, kept / total if total else 1.0


def _squared_norm(factors: Mapping[str, Factors]) -> float:
    """Return the sum of `||B A||^2`, which is `||A||^2` as B has orthonormal columns."""
    return sum(float(A.double().square().sum()) for _, A in factors.values())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _head_arrays(head: Head) -> Arrays:
    return {"weight": _array(head.weight)} | ({} if head.bias is None else {"bias": _array(head.bias)})


def _factor_arrays(factors: Mapping[str, Factors]) -> Arrays:
    return {f"{layer}.A": _array(A) for layer, (_, A) in factors.items()} | {
        f"{layer}.B": _array(B) for layer, (B, _) in factors.items()
    }
