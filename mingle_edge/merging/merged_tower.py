"""A merged model in PyTorch: the reference that evaluation runs and that every exported graph is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import Linear, embed_images, normalize
from mingle_edge.data.settings import Pooling
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.gates.gating import ExpertStack, GatedExperts, GatedLinear
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.routing.cascade import Cascade, Decisions, LargestLogits, decide
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.features import router_features

Observer = Callable[[str, Tensor], None]
"""Called with the internal name of a linear layer and its input [B, N, d_in]."""


class GatedTower:
    """Runs a merged model. Images are preprocessed `[B, 3, H, W]`; embeddings `[B, output_dim]` are as heads read them."""

    def __init__(self, merged: MergedModel, device: torch.device | str = "cpu") -> None:
        """Loads the backbone and, in the layer scope, all experts; image-scope experts are read when used."""
        self.merged = merged
        self.device = torch.device(device)
        self.architecture = merged.architecture
        self.backbone = {name: torch.from_numpy(a).to(self.device) for name, a in merged.backbone().items()}
        self._expert: tuple[str, CompleteExpert] | None = None
        self._layers = load_layer_experts(merged, self.device) if merged.scope == "layer" else {}
        self._cascade = merged.cascade() if merged.scope == "image" and merged.tasks else None
        self._observer: Observer | None = None

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Have `observer` called with what every linear layer reads in embeddings computed within the block."""
        self._observer = observer
        try:
            yield
        finally:
            self._observer = None

    @torch.inference_mode()
    def embed(self, images: Tensor, task: str | None = None) -> Tensor:
        """Return embeddings under one named task's expert, or of the plain backbone."""
        return self.embed_mixture(images, [], []) if task is None else self.embed_mixture(images, [task], [1.0])

    @torch.inference_mode()
    def embed_mixture(self, images: Tensor, tasks: Sequence[str], weights: Sequence[float]) -> Tensor:
        """Return, in the image scope, embeddings under a weighted mixture of complete experts, the same for all images."""
        experts = [(c, self._complete_expert(task)) for c, task in zip(weights, tasks, strict=True)]
        parameters = expert_parameters(self.backbone, experts)
        linear = self._reporting(expert_linear(parameters, experts))
        return normalize(embed_images(images.to(self.device), parameters, self.architecture, linear), self.architecture)

    @torch.inference_mode()
    def route(self, images: Tensor, cascade: Cascade | None = None) -> Decisions:
        """Return, in the image scope, where the router sends images; by another cascade of the model's first tasks if given."""
        cascade = cascade or self.cascade
        features = self.router_features(images)
        columns = self.merged.layout.of_stages(cascade)
        return decide(cascade, [features[:, of_stage] for of_stage in columns], self.largest_logits(images))

    def router_features(self, images: Tensor) -> NDArray[np.float64]:
        """Return all features of images `[B, F]` that routers of this model may read, as `MergedModel.layout` has them."""
        blocks = deepest(self.merged.settings.router_blocks, self.architecture.layers)
        features = router_features(images.to(self.device), self.backbone, self.architecture, blocks)
        return features.double().cpu().numpy()

    def largest_logits(self, images: Tensor) -> LargestLogits:
        """Return what runs experts on some of these images for a cascade's judge."""
        names = self.merged.task_names

        @torch.inference_mode()
        def run(numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
            largest = np.zeros(tasks.shape)
            for task in np.unique(tasks):
                head = Head.of(self.merged.head(names[task])).to(self.device)
                rows, column = np.nonzero(tasks == task)
                embeds = self.embed(images[torch.from_numpy(numbers[rows])], names[task])
                largest[rows, column] = head.logits(embeds).amax(1).double().cpu().numpy()
            return largest

        return run

    @property
    def cascade(self) -> Cascade:
        """Return the router; only a merged model of scope `image` with at least one task has one."""
        if self._cascade is None:
            raise ValueError("only a merged model of scope 'image' with at least one task has a router")
        return self._cascade

    @torch.inference_mode()
    def embed_layers(
        self,
        images: Tensor,
        top_k: int | None = None,
        task_mask: Tensor | None = None,
        pooling: Pooling = "image",
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return, in the layer scope, embeddings and each gated layer's route: tasks and weights, both `[B, layers, k]`."""
        linear = GatedLinear(self.backbone, self._layers, top_k, pooling, task_mask, routes=[])
        reporting = self._reporting(linear)
        embeds = normalize(embed_images(images.to(self.device), self.backbone, self.architecture, reporting), self.architecture)
        tasks, weights = zip(*(linear.routes or []), strict=True)
        return embeds, torch.stack(tasks, dim=1), torch.stack(weights, dim=1)

    def _reporting(self, linear: Linear) -> Linear:
        """Return the same layers, telling the observer, if there is one, what they read."""
        observer = self._observer
        if observer is None:
            return linear

        def reporting(layer: str, x: Tensor) -> Tensor:
            observer(layer, x)
            return linear(layer, x)

        return reporting

    def _complete_expert(self, task: str) -> CompleteExpert:
        if self._expert is None or self._expert[0] != task:
            self._expert = (task, CompleteExpert.from_arrays(self.merged.expert(task), self.device))
        return self._expert[1]


def load_layer_experts(merged: MergedModel, device: torch.device | str) -> dict[str, GatedExperts]:
    """Return all experts and gates of a layer-scope model, stacked per layer."""
    if not merged.tasks:
        return {}
    experts = [merged.expert(name) for name in merged.task_names]
    gates = [merged.gates(name) for name in merged.task_names]

    def stacked(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
        return torch.stack([torch.from_numpy(array) for array in arrays]).to(device)

    return {
        layer: GatedExperts(
            ExpertStack(
                A=stacked([expert[f"{layer}.A"] for expert in experts]),
                B=stacked([expert[f"{layer}.B"] for expert in experts]),
            ),
            gate_weight=stacked([gate[layer][0] for gate in gates]),
            gate_bias=stacked([gate[layer][1] for gate in gates]).squeeze(1),
        )
        for layer in merged.architecture.block_linears()
        if f"{layer}.A" in experts[0]
    }
