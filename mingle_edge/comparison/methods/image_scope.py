"""One route for the whole network: complete experts, and a router that knows each task by its seeds.

Idea: what a task's model needs besides the backbone is small (low-rank pairs, vectors, stem), and one decision per image, from
features that the plain backbone has anyway, replaces a decision in every layer. Experts never mix unless several are asked for,
so none has to be kept out of another's way, and adding a task changes nothing of an older one.
Limitation: an image that goes to a wrong expert gets a wrong model; without seeds there is no router.
Source: this project (docs/); router and experts are those that `mingle-edge merge` computes, function by function.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mingle_edge.clip.head import Head
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench, once
from mingle_edge.comparison.methods.image_router import ImageRouter, Route
from mingle_edge.comparison.methods.towers import backbone_embeddings, embed_by_task, tower_bytes
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import AUTOMATIC, Settings
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.expert_form import LARGEST_RANK, FormPrecision, form_bytes
from mingle_edge.experts.expert_size import size_expert
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.experts.rounding import rounded_expert
from mingle_edge.merging.expert_answers import run_wrong_experts
from mingle_edge.merging.task_merging import complete_expert

MIXED_BYTES = 1 << 26  # of experts laid out per image at a time
ALONE = torch.finfo(torch.float32).eps  # an expert with all but this share of the weight is alone, in float32


class ImageScope:
    """See the module. Parameters: those of `Settings` for the image scope, and

    - `top_k`: experts mixed per image, by their posteriors renormalized; 1 takes the most probable alone;
    - `complete`: whether an expert carries the vectors and the stem besides the low-rank pairs of the blocks;
    - `expert_precision`: `fp32`, `int8` or `int4`, to which experts are rounded as the exporter rounds them.
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Check the parameters. Raises `TaskFileError` for one that does not exist or a value out of range."""
        settings = dict(parameters)
        self.top_k: int = settings.pop("top_k", 1)
        self.complete: bool = settings.pop("complete", True)
        self.precision: FormPrecision = settings.pop("expert_precision", "fp32")
        if not isinstance(self.top_k, int) or self.top_k < 1:
            raise TaskFileError(f"image scope: top_k must be a whole number of at least 1, not {self.top_k!r}")
        if self.precision not in get_args(FormPrecision):
            allowed = ", ".join(map(repr, get_args(FormPrecision)))
            raise TaskFileError(f"image scope: expert_precision must be one of {allowed}, not {self.precision!r}")
        self.settings = Settings.from_mapping({"scope": "image", "seed": workbench.seed} | settings, "image scope")
        self.workbench = workbench
        self.router = ImageRouter(workbench, self.settings)
        self._experts: dict[str, tuple[Hashable, CompleteExpert]] = {}  # by task in order of merging
        self._heads: list[Head] = []

    def add(self, task: FinetunedTask) -> None:
        """See `ContinualMethod`."""
        bench, settings = self.workbench, self.settings

        def sized() -> CompleteExpert:
            truncated, _ = complete_expert(task, bench, settings)
            if not settings.expert_steps and settings.rank != AUTOMATIC:
                return truncated  # as it is; what it keeps need not be measured
            return size_expert(truncated, task, bench, settings).expert

        def served() -> CompleteExpert:
            complete = once(bench.kept.experts, key, sized)
            complete = complete if self.complete else _pairs_of_blocks(complete)
            return rounded_expert(complete, bench.backbone, self.precision)

        key: Hashable = ("expert", task.name, *settings.of_experts(), *task.calibration_images.paths)
        own_key = (key, self.complete, self.precision)
        expert = once(bench.kept.experts, own_key, served)
        older = [(name, of_task) for name, (_, of_task) in self._experts.items()]
        self.router.add(task, run_wrong_experts(task, expert, bench, older) if len(task.calibration_images) else None)
        self._experts[task.name] = (own_key, expert)
        self._heads.append(task.head)

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answers:
        """See `ContinualMethod`."""
        if not self._experts:
            return Answers(backbone_embeddings(batch, self.workbench))
        route = self.router.route(batch, partial(self._largest_logits, batch) if self.top_k == 1 else None)
        return Answers(self._mixed(batch, route), route.posterior, route.claimed, route.tasks)

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`."""
        return self._embed(batch, task)

    def stored_bytes(self) -> int:
        """See `ContinualMethod`."""
        return self._shared_bytes() + sum(self._sizes())

    def active_bytes(self) -> int:
        """Count the largest experts; the router's features are those of the backbone's first blocks, which are read anyway."""
        return self._shared_bytes() + sum(sorted(self._sizes(), reverse=True)[: self.top_k])

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`."""
        return round(sum(self._sizes()) / max(len(self._experts), 1))

    def _sizes(self) -> list[int]:
        """Return the bytes of every expert in its precision."""
        return [_bytes(expert, self.precision) for _, expert in self._experts.values()]

    def _shared_bytes(self) -> int:
        return tower_bytes(self.workbench.backbone) + (self.router.stored_bytes() if self._experts else 0)

    def _mixed(self, batch: TestBatch, route: Route) -> Tensor:
        """Return embeddings along the route of each image."""
        weights, tasks = route.posterior.topk(min(self.top_k, len(self._experts)), dim=1)
        weights = weights / weights.sum(1, keepdim=True)
        experts = [expert for _, expert in self._experts.values()]
        at_once = max(1, MIXED_BYTES // max(1, self.top_k * max(map(_bytes, experts))))

        def embed(task: int, places: list[int]) -> Tensor:
            if task < len(experts):
                return self._embed(batch, list(self._experts)[task], places)
            parts = [places[start : start + at_once] for start in range(0, len(places), at_once)]
            chosen = [[[experts[task] for task in row] for row in tasks[part].tolist()] for part in parts]
            pairs = zip(parts, chosen, strict=True)
            return torch.cat([embed_mixtures(batch.images[part], own, weights[part], self.workbench) for part, own in pairs])

        alone_or_mixed = torch.where(weights[:, 0] >= 1 - ALONE, route.tasks if self.top_k == 1 else tasks[:, 0], len(experts))
        return embed_by_task(batch, torch.where(route.claimed, alone_or_mixed, -1), embed, self.workbench)

    def _largest_logits(self, batch: TestBatch, numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Run the experts that a judge asks for; see `LargestLogits`."""
        names, largest = list(self._experts), np.zeros(tasks.shape)
        for task in np.unique(tasks):
            rows, column = np.nonzero(tasks == task)
            embeds = self._embed(batch, names[task], numbers[rows].tolist())
            largest[rows, column] = self._heads[task].logits(embeds).amax(1).double().cpu().numpy()
        return largest

    def _embed(self, batch: TestBatch, task: str, places: list[int] | None = None) -> Tensor:
        """Return embeddings under one expert, which depend on the image alone."""
        key, expert = self._experts[task]
        alone = [(1.0, expert)]

        def embed(images: Tensor) -> Tensor:
            parameters = expert_parameters(self.workbench.backbone, alone)
            return self.workbench.embed(images, parameters, expert_linear(parameters, alone))

        return self.workbench.kept.rows.of(key, batch, embed, places)


def embed_mixtures(images: Tensor, experts: list[list[CompleteExpert]], weights: Tensor, workbench: Workbench) -> Tensor:
    """Return embeddings `[B, output_dim]` of unit length of images under weighted experts, k of each image's own.

    Weights are `[B, k]`. What each image uses is laid out in memory for all of them at once.
    """

    def embed(image: Tensor, shares: Tensor, own: list[dict[str, Any]]) -> Tensor:
        mixture = [(share, CompleteExpert(**tensors)) for share, tensors in zip(shares.unbind(), own, strict=True)]
        parameters = expert_parameters(workbench.backbone, mixture)
        return workbench.embed(image[None], parameters, expert_linear(parameters, mixture))[0]

    stacked = [_stacked(list(column)) for column in zip(*experts, strict=True)]
    with sdpa_kernel(SDPBackend.MATH):  # the one form of attention that vmap knows how to batch
        embeds: Tensor = torch.func.vmap(embed)(images, weights.to(images), stacked)
    return embeds


def _stacked(experts: list[CompleteExpert]) -> dict[str, Any]:
    """Return the fields of experts with one more dimension in front."""

    def pairs(of_each: list[Mapping[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            layer: (torch.stack([pair[layer][0] for pair in of_each]), torch.stack([pair[layer][1] for pair in of_each]))
            for layer in of_each[0]
        }

    return {
        "factors": pairs([expert.factors for expert in experts]),
        "unfactored": {name: torch.stack([expert.unfactored[name] for expert in experts]) for name in experts[0].unfactored},
    }


def _pairs_of_blocks(expert: CompleteExpert) -> CompleteExpert:
    """Return the expert without vectors, stem and projection: what the layer scope's experts are made of."""
    inside = {layer: factors for layer, factors in expert.factors.items() if layer.startswith("blocks.")}
    return replace(expert, factors=inside, unfactored={})


def _bytes(expert: CompleteExpert, precision: FormPrecision = "fp32") -> int:
    tensors = {f"{layer}.{side}": one for layer, (B, A) in expert.factors.items() for side, one in (("A", A), ("B", B))}
    tensors |= expert.unfactored
    if precision == "fp32":
        return 4 * sum(tensor.numel() for tensor in tensors.values())
    return form_bytes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, LARGEST_RANK, precision)
