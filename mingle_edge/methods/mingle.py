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

from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from mingle_edge.comparison.method import Answer, ComparedTask, MethodSpec, TestBatch, Workbench
from mingle_edge.errors import TaskFileError
from mingle_edge.gate_learning import CONSTANT_START
from mingle_edge.gating import ExpertStack, GatedExperts, GatedLinear, Pooling
from mingle_edge.methods.chosen_experts import chosen_linear
from mingle_edge.methods.components import COMPONENTS, Components, merge_components
from mingle_edge.methods.image_router import ImageRouter
from mingle_edge.methods.image_rows import ImageRows
from mingle_edge.methods.task_learner import task_learner
from mingle_edge.methods.towers import backbone_embeddings, tower_bytes, unit_embeddings
from mingle_edge.settings import OFFICIAL, Settings
from mingle_edge.task_merging import LayerState
from mingle_edge.vision_tower import Linear

ROUTING = ("gates", "router")


class LayerScope:
    """See the module. Parameters: those of `Settings` for the layer scope, and

    - `pooling`: over what gates are averaged in evaluation besides tokens, `batch` or `image`;
    - `top_k`: experts used per layer, None for all;
    - `components`: how much of the method merges a task, see `mingle_edge.methods.components`;
    - `constant`: the gate value where nothing is learned;
    - `routing`: `gates` as published, or `router`: the image router names the one task whose experts and gates are used.
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Raises `TaskFileError` for a parameter that does not exist or a value out of range."""
        settings = dict(parameters)
        self.pooling: Pooling = settings.pop("pooling", "image")
        self.top_k: int | None = settings.pop("top_k", None)
        self.components: Components = settings.pop("components", "null-space")
        self.constant: float = settings.pop("constant", CONSTANT_START)
        routing: str = settings.pop("routing", "gates")
        for name, value, allowed in (
            ("pooling", self.pooling, get_args(Pooling)),
            ("components", self.components, COMPONENTS),
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
        self._state = LayerState()
        self._alone: dict[int, dict[str, GatedExperts]] = {}  # by task number
        self._named = ImageRows()
        self._named_batches: dict[tuple[str, str, tuple[int, ...]], Tensor] = {}

    def add(self, task: ComparedTask) -> None:
        """See `ContinualMethod`."""
        workbench = self.workbench
        learner = task_learner(workbench, task, self.settings)
        if self.router is not None:
            self.router.add(learner)
        self._state = merge_components(learner, task.finetuned, self._state, self.components, self.constant)
        self._names.append(task.name)
        if self.components == "adaptation":  # nothing else changes an older task's gates
            self._alone, self._named, self._named_batches = {}, ImageRows(), {}

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answer:
        """See `ContinualMethod`."""
        if not self._names:
            return Answer(backbone_embeddings(batch, self.workbench))
        if self.router is None:
            top_k = None if self.top_k is None else min(self.top_k, len(self._names))
            return Answer(self._embed(batch.images, self._state.experts, top_k))
        route = self.router.route(batch)
        found = torch.empty(len(batch.numbers), self.workbench.architecture.output_dim, device=self.workbench.device)
        for task in sorted(set(route.tasks.tolist())):
            places = (route.tasks == task).nonzero().flatten().tolist()
            found[places] = (
                self._embed_alone(batch, task, places) if task >= 0 else backbone_embeddings(batch, self.workbench, places)
            )
        return Answer(found, route.posterior, route.claimed, route.tasks)

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`. Only the named task's experts are used, with its gates."""
        if self.pooling == "image":
            return self._embed_alone(batch, self._names.index(task))
        key = (task, batch.source, tuple(batch.numbers))
        if key not in self._named_batches:
            self._named_batches[key] = self._embed(batch.images, self._experts_alone(self._names.index(task)), None)
        return self._named_batches[key]

    def stored_bytes(self) -> int:
        """See `ContinualMethod`."""
        return self._bytes(len(self._names))

    def active_bytes(self) -> int:
        """All gates are read in every layer, and the experts they choose."""
        return self._bytes(1 if self.router is not None else self.top_k)

    def _bytes(self, experts: int | None) -> int:
        numbers = 0
        for gated in self._state.experts.values():
            each = gated.experts.A[0].numel() + gated.experts.B[0].numel()
            gates = gated.gate_weight.numel() + gated.gate_bias.numel()
            merged = len(gated.gate_bias)
            read = merged if experts is None else min(experts, merged)
            numbers += read * each + (gates if self.router is None else read * gates // merged)
        router = self.router.stored_bytes() if self.router is not None and self._names else 0
        return tower_bytes(self.workbench.backbone) + 4 * numbers + router

    def _embed(self, images: Tensor, experts: Mapping[str, GatedExperts], top_k: int | None) -> Tensor:
        workbench = self.workbench
        linear: Linear = GatedLinear(workbench.backbone, experts, top_k, self.pooling)
        if top_k is not None and self.pooling == "image":
            linear = chosen_linear(workbench.backbone, experts, top_k)
        return unit_embeddings(images, workbench.backbone, workbench, linear)

    def _embed_alone(self, batch: TestBatch, task: int, places: list[int] | None = None) -> Tensor:
        """Per image: embeddings with one task's experts, which no later task changes."""
        return self._named.of(task, batch, lambda images: self._embed(images, self._experts_alone(task), None), places)

    def _experts_alone(self, task: int) -> dict[str, GatedExperts]:
        if task not in self._alone:
            one = slice(task, task + 1)
            self._alone[task] = {
                layer: GatedExperts(
                    ExpertStack(gated.experts.A[one], gated.experts.B[one]), gated.gate_weight[one], gated.gate_bias[one]
                )
                for layer, gated in self._state.experts.items()
            }
        return self._alone[task]


_SETTINGS = ("semantics", "rank", "layers", "interference_projection", "steps", "learning_rate", "batch_size", "temperature")
_CONSTRAINT = ("subspace_directions", "relaxation", "relaxation_decay")
_EVALUATION = {"pooling": "image", "top_k": None, "components": "null-space", "constant": CONSTANT_START, "routing": "gates"}


def _published(settings: Settings, **changes: Any) -> Callable[[int], dict[str, Any]]:
    values = {name: getattr(settings, name) for name in (*_SETTINGS, *_CONSTRAINT)}
    return lambda tasks: values | _EVALUATION | changes


EXACT = Settings(scope="layer")
STATIC = {"components": "experts", "pooling": "batch"}  # a constant gate is the same pooled, and pooled is faster

# The published step is made for gates of 768 inputs; narrow towers ask for more.
LEARNING_RATES = tuple({"learning_rate": rate} for rate in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2))
CONSTANTS = tuple({"constant": value} for value in (0.1, 0.2, 0.3, 0.5, 1.0))

SPECS = (
    MethodSpec(
        "mingle",
        "gated low-rank experts in every layer, gates pooled over the batch (arXiv 2505.11883)",
        LayerScope,
        _published(OFFICIAL, pooling="batch"),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-star",
        "mingle with experts at q, k, v and fc1 only (arXiv 2505.11883, MINGLE*)",
        LayerScope,
        _published(OFFICIAL, pooling="batch", layers="qkv+fc1"),
        LEARNING_RATES,
    ),
    MethodSpec("mingle-per-image", "mingle as merged, its gates per image", LayerScope, _published(OFFICIAL), LEARNING_RATES),
    MethodSpec(
        "mingle-star-per-image",
        "mingle-star as merged, its gates per image",
        LayerScope,
        _published(OFFICIAL, layers="qkv+fc1"),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-top1",
        "mingle as merged, per image the expert of largest contribution in each layer",
        LayerScope,
        _published(OFFICIAL, top_k=1),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-routed",
        "mingle as merged, the image router naming the one expert with its gates (control)",
        LayerScope,
        _published(OFFICIAL, routing="router"),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-exact",
        "gates that start and stay in an exact null space, per image, all experts (ours)",
        LayerScope,
        _published(EXACT),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-exact-pooled",
        "mingle-exact as merged, its gates pooled over the batch",
        LayerScope,
        _published(EXACT, pooling="batch"),
        LEARNING_RATES,
    ),
    MethodSpec(
        "mingle-exact-top1",
        "mingle-exact as merged, per image the expert of largest contribution in each layer (ours)",
        LayerScope,
        _published(EXACT, top_k=1),
        LEARNING_RATES,
    ),
    MethodSpec(
        "static-experts",
        "mingle's experts at a constant gate, nothing learned (arXiv 2505.11883, first row of the ablation)",
        LayerScope,
        _published(OFFICIAL, **STATIC),
        CONSTANTS,
    ),
)
