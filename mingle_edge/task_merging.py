"""What merging one task computes, in either scope: its expert, its router statistics or gates, its protected directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.adaptation import NewGate
from mingle_edge.experts import Factors, build_expert
from mingle_edge.gate_learning import Learner
from mingle_edge.gated_tower import CompleteExpert, load_layer_experts
from mingle_edge.merged_model import Arrays, MergedModel, TaskTensors
from mingle_edge.prepared import PreparedTask
from mingle_edge.progress import Progress
from mingle_edge.router_depth import deepest
from mingle_edge.router_features import router_statistics
from mingle_edge.seeds import SeedImages, task_generator
from mingle_edge.vision_tower import Parameters


@dataclass(frozen=True)
class TaskMerger:
    """Merges one task after another into a model; `model` holds the earlier ones."""

    model: MergedModel
    backbone: Parameters
    device: torch.device
    progress: Progress

    def merge(self, task: PreparedTask) -> tuple[TaskTensors, dict[str, Any]]:
        """Everything to be committed of the task, and its record for the index."""
        finetuned = {name: tensor.to(self.device) for name, tensor in task.checkpoint.tensors()}
        # A vision-only checkpoint has no projection: it was trained under the backbone's.
        finetuned.setdefault("projection.weight", self.backbone["projection.weight"])
        seeds = SeedImages(task.seeds, self.model.architecture)
        learner = Learner(
            task=task.source.name,
            backbone=self.backbone,
            architecture=self.model.architecture,
            settings=self.model.settings,
            seeds=seeds,
            head=task.head.to(self.device),
            logit_scale=self.model.logit_scale,
            device=self.device,
            progress=self.progress,
        )
        if self.model.scope == "layer":
            return self._into_layers(learner, finetuned, task.head)
        return self._complete(learner, finetuned, task.head)

    def _complete(self, learner: Learner, finetuned: Parameters, head: Tensor) -> tuple[TaskTensors, dict[str, Any]]:
        """Image scope: a complete expert from the raw task vector, and the router's statistics."""
        settings, architecture = self.model.settings, self.model.architecture
        layers = ["patch_embedding", *self._carrying(), "projection"]
        factors, energy = self._experts(layers, finetuned, earlier={})
        vectors = {name: finetuned[name] for name in architecture.vector_shapes()}
        statistics = router_statistics(
            learner.seeds,
            self.backbone,
            architecture,
            blocks=deepest(settings.router_blocks, architecture.layers),
            augmentations=settings.router_augmentations,
            generator=task_generator(settings.seed, learner.task, "router"),
            device=self.device,
            progress=self.progress,
        )
        gates: dict[str, NewGate] = {}
        losses: list[float] = []
        if settings.learned_gates:
            teacher = learner.teacher_logits(finetuned)
            expert = CompleteExpert(factors, vectors, gates={})
            gates, losses = learner.learn_on_route(expert, self._carrying(), teacher)
        arrays = _factor_arrays(factors) | {name: _array(value) for name, value in vectors.items()}
        tensors = TaskTensors(arrays, _array(head), router=statistics, gates=_gate_arrays(gates))
        return tensors, {"energy": energy, "losses": losses}

    def _into_layers(self, learner: Learner, finetuned: Parameters, head: Tensor) -> tuple[TaskTensors, dict[str, Any]]:
        """Layer scope, the paper's method: projected experts, adapted gates, protected directions."""
        frozen = load_layer_experts(self.model, self.device)
        earlier: dict[str, list[Factors]] = {}
        if self.model.settings.interference_projection:
            earlier = {layer: list(zip(gated.experts.B, gated.experts.A, strict=True)) for layer, gated in frozen.items()}
        factors, energy = self._experts(self._carrying(), finetuned, earlier)
        basis = self._basis()
        teacher = learner.teacher_logits(finetuned)
        gates, layers, losses = learner.learn_in_layers(factors, frozen, basis, teacher)
        added = learner.protect(layers, basis)
        tensors = TaskTensors(
            expert=_factor_arrays(factors),
            head=_array(head),
            gates=_gate_arrays(gates),
            null_space={layer: _array(directions) for layer, directions in added.items()},
        )
        return tensors, {"energy": energy, "losses": losses}

    def _carrying(self) -> list[str]:
        carrying = self.model.settings.carrying()
        return [layer for layer in self.model.architecture.block_linears() if layer.rsplit(".", 1)[-1] in carrying]

    def _experts(
        self, layers: Iterable[str], finetuned: Parameters, earlier: dict[str, list[Factors]]
    ) -> tuple[dict[str, Factors], float]:
        """An expert (B, A) per layer, and the share of the task vectors' squared norm they hold."""
        layers = list(layers)
        factors: dict[str, Factors] = {}
        kept = total = 0.0
        for done, layer in enumerate(layers):
            task_vector = finetuned[f"{layer}.weight"] - self.backbone[f"{layer}.weight"]
            factors[layer] = build_expert(task_vector, self.model.settings.rank, earlier.get(layer, ()))
            kept += float(factors[layer][1].double().square().sum())  # B has orthonormal columns: ||B A|| = ||A||
            total += float(task_vector.double().square().sum())
            self.progress("experts", done + 1, len(layers), layer)
        return factors, kept / total if total else 1.0

    def _basis(self) -> dict[str, Tensor]:
        """All protected directions of each layer so far, `[m, d]`."""
        added = [self.model.null_space(name) for name in self.model.task_names]
        return {
            layer: torch.cat([torch.from_numpy(directions[layer]) for directions in added]).to(self.device)
            for layer in (added[0] if added else ())
        }


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _factor_arrays(factors: dict[str, Factors]) -> Arrays:
    return {f"{layer}.A": _array(A) for layer, (_, A) in factors.items()} | {
        f"{layer}.B": _array(B) for layer, (B, _) in factors.items()
    }


def _gate_arrays(gates: dict[str, NewGate]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {layer: (_array(gate.weight[0]), _array(gate.bias)) for layer, gate in gates.items()}
