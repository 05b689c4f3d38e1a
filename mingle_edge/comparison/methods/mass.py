"""MASS: a merged model's features say which tasks an image needs, and a second pass runs on those tasks' components alone.

Idea (mixture by adaptive subspace selection, arXiv 2504.05342): of each task one in T singular components of its matrices is
stored. All of them together are TSV-Merge's model, which makes a first pass. Where that enters the MLP of one block, the task
whose right singular vectors there leave least of the class token unexplained is the likeliest. Residuals, standardized over
tasks, become shares by a softmax; tasks above a threshold, at most three, are merged into the model of the second pass. No data
and no training. Limitation: two passes for each image, the second on a model made for its set of tasks; what a task's matrix
reads most strongly need not be what its images look like, so alike tasks are confused; nothing is refused.

What the paper's text says of choices could not be read; this follows its abstract and the authors' code (crisostomi/mass,
`projection_router.py`, `mass.py`, `conf/`), whose defaults are the parameters: block 9 of 12 (20 of 24 in ViT-L/14; here three
quarters of any depth), the class token, temperature 1, threshold 0.2, at most three tasks. What differs:

- The first pass ends at that block; the authors run it to its end, with the same route.
- Where the head is not given, their code takes of the chosen tasks' heads the one with the largest logit. That is P3 here.
  P1 gives the head, as the comparison gives it to every method (their `oracle_mode` is meant to). In P2 the named task's
  components alone are merged.
- As in `tsv-m` q, k and v are three matrices and the projection is one more; the patch embedding, vectors and positions are as
  there. Shares of a single task are 1, where theirs divide by a deviation of nothing.
- With each task the components of earlier ones are shortened and the first pass's model is made anew. It follows from the
  components, so it is not counted in the bytes stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import Parameters, blocks, embed_patches, plain_linear
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.singular_components import TaskComponents, merged
from mingle_edge.comparison.methods.towers import backbone_embeddings, tower_bytes
from mingle_edge.core.errors import TaskFileError
from mingle_edge.evaluation.answers import Answers
from mingle_edge.experts.finetuned_task import FinetunedTask

KEPT_BYTES = 1 << 29  # of merged towers; a set of tasks beyond that is merged again whenever it comes
NO_DEVIATION = 1e-6  # added to the deviation of residuals, as in the authors' code


class Mass:
    """One run over one order of tasks. Parameters:

    - `depth`: of the block that routes, as a share of all blocks;
    - `temperature`: of the softmax over standardized residuals;
    - `threshold`: of a task's share, above which it takes part;
    - `most`: tasks that take part, at most; the likeliest always does.
    """

    def __init__(self, workbench: Workbench, parameters: Mapping[str, Any]) -> None:
        """Check the parameters. Raises `TaskFileError` for one out of range."""
        self.workbench = workbench
        self.depth, self.threshold = parameters["depth"], parameters["threshold"]
        self.temperature, self.most = parameters["temperature"], parameters["most"]
        if not 0 <= self.depth < 1:
            raise TaskFileError(f"mass: depth must be a number from 0 to below 1, not {self.depth!r}")
        if not self.temperature > 0:
            raise TaskFileError(f"mass: temperature must be a number above 0, not {self.temperature!r}")
        if type(self.most) is not int or self.most < 1:
            raise TaskFileError(f"mass: most must be a whole number of at least 1, not {self.most!r}")
        self.block = int(self.depth * workbench.architecture.layers)
        self.names: list[str] = []
        self.tasks: list[TaskComponents] = []
        self.heads: list[Head] = []
        self._towers: dict[tuple[int, ...], Parameters] = {}  # by numbers of the tasks in it

    def add(self, task: FinetunedTask) -> None:
        """Decompose the task vector and shorten those of earlier tasks."""
        task_vector = {name: task.finetuned[name] - value for name, value in self.workbench.backbone.items()}
        self.names.append(task.name)
        self.heads.append(task.head)
        decomposed = [*self.tasks, TaskComponents.of(task_vector)]
        self.tasks = [one.shared_among(len(decomposed)) for one in decomposed]
        self._towers = {}

    @torch.inference_mode()
    def answer(self, batch: TestBatch) -> Answers:
        """See `ContinualMethod`. `routed` is the task of the smallest residual, the posterior a one at the chosen head's."""
        if not self.tasks:
            return Answers(backbone_embeddings(batch, self.workbench))
        shares = self.shares(batch.images)  # [n, T]
        chosen = self.chosen(shares)  # [n, T]
        embeds = torch.empty(len(shares), self.workbench.architecture.output_dim, device=self.workbench.device)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, row in enumerate(chosen.tolist()):
            groups[tuple(number for number, takes_part in enumerate(row) if takes_part)].append(place)
        for numbers, places in groups.items():
            embeds[places] = self.workbench.embed(batch.images[places], self._tower(numbers))
        largest = torch.stack([head.logits(embeds).amax(1) for head in self.heads], dim=1)  # [n, T]
        head = largest.masked_fill(~chosen, -torch.inf).argmax(1)
        posterior = torch.nn.functional.one_hot(head, len(self.tasks)).double()
        return Answers(embeds, posterior, torch.ones_like(head, dtype=torch.bool), shares.argmax(1))

    @torch.inference_mode()
    def answer_named(self, batch: TestBatch, task: str) -> Tensor:
        """See `ContinualMethod`."""
        return self.workbench.embed(batch.images, self._tower((self.names.index(task),)))

    def stored_bytes(self) -> int:
        """Count the pretrained model and every task's components; the model of the first pass is made of them."""
        return tower_bytes(self.workbench.backbone) + self._component_bytes()

    def active_bytes(self) -> int:
        """Count everything: the first pass runs on a model that all components are in."""
        return self.stored_bytes()

    def bytes_per_task(self) -> int:
        """See `ContinualMethod`. The more tasks, the less of each."""
        return round(self._component_bytes() / max(len(self.tasks), 1))

    def shares(self, images: Tensor) -> Tensor:
        """Return shares `[n, T]` of the tasks in images `[n, 3, H, W]`, each row summing to 1, from the first pass."""
        residuals = self.residuals(self.features(images))
        if len(self.tasks) == 1:
            return torch.ones_like(residuals)
        standardized = (residuals.mean(1, keepdim=True) - residuals) / (residuals.std(1, keepdim=True) + NO_DEVIATION)
        shares: Tensor = (standardized / self.temperature).softmax(1)
        return shares

    def residuals(self, x: Tensor) -> Tensor:
        """Return, for features `[n, width]`, the length of what each task's right singular vectors leave of them, `[n, T]`."""
        bases = [task.matrices[f"blocks.{self.block}.fc1.weight"].Vh for task in self.tasks]
        # The length of x - V V' x is taken of the difference itself: one of squares would lose digits.
        return torch.stack([torch.linalg.vector_norm(x - x @ Vh.T @ Vh, dim=1) for Vh in bases], dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Return what enters the MLP of the routing block at the class token, `[n, width]`: at the mean token without one."""
        architecture, tower = self.workbench.architecture, self._tower(tuple(range(len(self.tasks))))
        plain, layer = plain_linear(tower), f"blocks.{self.block}.fc1"
        seen: list[Tensor] = []

        def linear(name: str, x: Tensor) -> Tensor:
            if name == layer:
                seen.append(x[:, 0] if architecture.class_token else x.mean(1))
            return plain(name, x)

        tokens = embed_patches(images, tower, architecture, linear)
        list(blocks(tokens, tower, architecture, linear, self.block + 1))
        return seen[0]

    def chosen(self, shares: Tensor) -> Tensor:
        """Return which tasks take part, `[n, T]`: those above the threshold, at most `most`; the likeliest in any case."""
        order = shares.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)  # [n, T], 0 for the largest share
        chosen: Tensor = ((shares > self.threshold) & (rank < self.most)) | (rank == 0)
        return chosen

    def _tower(self, numbers: tuple[int, ...]) -> Parameters:
        """Return the backbone with these tasks' components merged; that of all tasks is always kept."""
        if numbers not in self._towers:
            backbone = self.workbench.backbone
            if (len(self._towers) + 1) * tower_bytes(backbone) > KEPT_BYTES:
                whole = tuple(range(len(self.tasks)))
                self._towers = {key: tower for key, tower in self._towers.items() if key == whole}
            vector = merged([self.tasks[number] for number in numbers])
            self._towers[numbers] = {name: value + vector[name] for name, value in backbone.items()}
        return self._towers[numbers]

    def _component_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for task in self.tasks for tensor in task.tensors())
