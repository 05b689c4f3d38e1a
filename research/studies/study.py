"""What the studies share: the suite of one pretraining seed in memory, and what is expensive about it, computed once.

Router features, and embeddings of every image under every task's expert, are kept in `<suite>/kept`, so that a study pays
for them once and the next one not at all. Decisions are made on the part `tune`, figures are of the part `test`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip import vision_tower
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Linear, Parameters
from mingle_edge.comparison.material import KEPT_BYTES
from mingle_edge.comparison.method import once
from mingle_edge.core.progress import silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import read_task_file
from mingle_edge.data.variations import turned_variations
from mingle_edge.evaluation.answers import predict_within
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.files.atomic_files import replacing
from mingle_edge.merging.expert_answers import run_wrong_experts
from mingle_edge.merging.merge_inputs import read_merge_inputs
from mingle_edge.merging.task_merging import complete_expert
from mingle_edge.routing import features as library_features
from mingle_edge.routing import pixel_statistics
from mingle_edge.routing.cascade import Cascade, LargestLogits
from mingle_edge.routing.cascade_fit import fit_cascade
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.features import router_features
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts
from research.studies.routes import BACKBONE, AnyFloats, Bools, Floats, Route, route

PARTS = ("tune", "test")
SEEDS_PER_CLASS, VARIATIONS = 5, 16  # unless a study says otherwise
BATCH = 256  # images


def sources(*code: ModuleType | Callable[..., Any]) -> str:
    """Return a hash of source code, which changes when what it computes may."""
    return hashlib.sha256("".join(map(inspect.getsource, code)).encode()).hexdigest()


FEATURES = sources(vision_tower, library_features, pixel_statistics)
"""What router features are today: others are not to be found among the kept."""
Carrying = Literal["attn+mlp", "qkv+fc1"]


class Study:
    """The first `count` tasks of a suite with the models of one pretraining seed."""

    def __init__(self, suite: Path, pretraining_seed: int, count: int) -> None:
        torch.set_num_threads(1)
        file = read_task_file(suite / f"seed-{pretraining_seed}" / f"{count}.toml")
        inputs = read_merge_inputs(file, silent)
        self.folder = file.path
        self.settings = inputs.settings
        self.pretrained = inputs.load(torch.device("cpu"))
        self.architecture = inputs.architecture
        self.tasks = [task.load(self.pretrained) for task in inputs.tasks]
        self.images = {
            part: [read_labeled(getattr(t, part), file.path.parent, t.classes).kept(KEPT_BYTES) for t in file.tasks]
            for part in ("seeds", *PARTS)
        }
        """By part and task; `seeds` is the whole pool, whose labels are for choosing few seeds, never for learning."""
        self.depth = deepest("auto", self.architecture.layers)  # the largest, which router features are of
        self.layout = Layout.of(self.architecture, self.depth)
        self._sha256 = {BACKBONE: inputs.backbone_sha256} | {n: task.sha256 for n, task in enumerate(inputs.tasks)}
        self._experts: dict[Hashable, CompleteExpert] = {}
        self._embeds: dict[Hashable, Tensor] = {}  # by part, task and expert: [n, dim], nan where none is known yet
        self._kept = suite / "kept"
        self._kept.mkdir(exist_ok=True)

    def draw(self, number: int, per_class: int, draw: int) -> list[int]:
        """Draw numbers in the pool of so many seeds of every class; a smaller draw is part of a larger one."""
        generator = np.random.default_rng([draw, zlib.crc32(self.tasks[number].name.encode())])
        labels = np.array(self.images["seeds"][number].labels)
        chosen = [generator.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
        return [int(n) for n in np.concatenate(chosen)]

    @torch.inference_mode()
    def router_features(self, batches: Iterable[Tensor]) -> NDArray[np.float32]:
        """Return router features `[n, F]` of images at the largest depth."""
        backbone = self.pretrained.backbone
        return torch.cat([router_features(x, backbone, self.architecture, self.depth) for x in batches]).numpy()

    def features(self, part: str) -> list[Floats]:
        """Return per task the router features `[n, F]` at the largest depth."""

        def compute(images: ImageSet) -> NDArray[np.float32]:
            return self.router_features(x for _, x in images.batches(self.architecture, size=BATCH))

        return [
            self._once(partial(compute, images), FEATURES, self.depth, digest(images)).astype(np.float64)
            for images in self.images[part]
        ]

    def seed_features(self, variations: int) -> list[NDArray[np.float32]]:
        """Return per task the router features `[pool, 1 + variations, F]` of the pool's seeds, each before its variations."""

        def compute(name: str, pool: ImageSet) -> NDArray[np.float32]:
            generator = task_generator(self.settings.seed, name, "router")
            seeds = (seed for _, seed in pool.batches(self.architecture, size=1))
            varied = (turned_variations(seed, variations, self.architecture, generator).flatten(0, 1) for seed in seeds)
            return self.router_features(varied).reshape(len(pool), 1 + variations, -1)

        return [
            self._once(partial(compute, task.name, pool), FEATURES, self.depth, variations, digest(pool))
            for task, pool in zip(self.tasks, self.images["seeds"], strict=True)
        ]

    def drawn(self, pool: Sequence[NDArray[np.float32]], per_class: int = SEEDS_PER_CLASS) -> list[NDArray[np.float32]]:
        """Return what a pool of seeds has of so many seeds of every class, per task."""
        return [of_task[self.draw(number, per_class, 0)] for number, of_task in enumerate(pool)]

    def expert(self, number: int, rank: int | None = None) -> CompleteExpert:
        """Return a task's complete expert, strongest directions first; of full rank unless one is given."""
        whole = replace(self.settings, rank=max(self.architecture.linear_shape("fc1")))
        task, pretrained = self.tasks[number], self.pretrained
        full = once(self._experts, number, lambda: complete_expert(task, pretrained, whole)[0])
        return replace(full, factors={layer: (B[:, :rank], A[:rank]) for layer, (B, A) in full.factors.items()})

    def tower(self, number: int, rank: int | None, layers: Carrying = "attn+mlp") -> Parameters:
        """Return the tower with a task's complete expert of a rank; None: the fine-tuned model; BACKBONE: no expert."""
        if number == BACKBONE:
            return self.pretrained.backbone
        if rank is None:
            return self.tasks[number].finetuned
        return self.tower_with(number, {layer: range(r) for layer, r in equal_ranks(self.architecture, rank, layers).items()})

    def tower_with(self, number: int, directions: Mapping[str, Sequence[int]]) -> Parameters:
        """Return the tower with a task's complete expert, of the singular directions given for each layer that carries one."""
        expert, backbone = self.expert(number), self.pretrained.backbone
        factors = {layer: (expert.factors[layer], list(chosen)) for layer, chosen in directions.items()}
        moved = {f"{layer}.weight": B[:, chosen] @ A[chosen] for layer, ((B, A), chosen) in factors.items()}
        return {**backbone, **expert.unfactored, **{name: backbone[name] + update for name, update in moved.items()}}

    @torch.inference_mode()
    def embed(
        self,
        number: int,
        part: str,
        tower: Parameters | None = None,
        linear: Linear | None = None,
        chosen: Sequence[int] | None = None,
    ) -> Tensor:
        """Return embeddings `[n, dim]` of unit length of a task's images, or of those chosen: of the backbone or as given."""
        batches = self.images[part][number].batches(self.architecture, chosen, size=BATCH)
        return torch.cat([self.pretrained.embed(images, tower, linear) for _, images in batches])

    def right(self, number: int, part: str, embeds: Tensor, chosen: Sequence[int] | None = None) -> Bools:
        """Return which embeddings `[n, dim]` of a task's images, or of those chosen, are right under the task's own head."""
        labels = np.array(self.images[part][number].labels)
        predicted = predict_within(embeds, self.tasks[number].head).numpy()
        return np.asarray(predicted == (labels if chosen is None else labels[chosen]))

    def embeddings(self, part: str, rank: int | None) -> list[list[Tensor]]:
        """Return per task its images' embeddings `[n, dim]` of unit length: under every task's expert, then the backbone's."""

        def compute(number: int, expert: int) -> NDArray[np.float32]:
            return self.embed(number, part, self.tower(expert, rank)).numpy()

        def kept(number: int, images: ImageSet, expert: int) -> Tensor:
            of_expert = partial(compute, number, expert)
            return torch.tensor(self._once(of_expert, "embeddings", self._sha256[expert], rank, digest(images)))

        experts = [*range(len(self.tasks)), BACKBONE]
        return [[kept(number, images, expert) for expert in experts] for number, images in enumerate(self.images[part])]

    def correct(self, part: str, rank: int | None) -> list[Bools]:
        """Return per task `[n, T + 1]`: right under its own head, by the expert that answers, the plain backbone last."""
        return [
            np.stack([self.right(number, part, embeds) for embeds in by_expert], axis=1)
            for number, by_expert in enumerate(self.embeddings(part, rank))
        ]

    def cascade(
        self,
        seeds: Sequence[AnyFloats],
        blocks: int | Literal["auto"] | None = "auto",
        *,
        losses: bool = True,
        chosen: Sequence[Sequence[int]] | None = None,
    ) -> Cascade:
        """Fit the router of seeds and variations, per task `[seeds, 1 + v, F]`.

        blocks: of the stage of blocks; `auto`: as a merge chooses them; None: there is no such stage.
        losses: whether it knows what wrong experts cost; without, the most probable task is chosen.
        chosen: numbers of the seeds in the pool, per task; None: those of `drawn`.
        """
        seen = self.seen(chosen or [self.draw(number, SEEDS_PER_CLASS, 0) for number in range(len(seeds))])
        statistics = [RouterStatistics.from_features(of_task.astype(np.float32)) for of_task in seeds]
        depth = choose_depth(statistics, self.layout) if blocks == "auto" else blocks
        seen = seen if losses else [WrongExperts(largest_logits=of_task.largest_logits) for of_task in seen]
        names = [task.name for task in self.tasks]
        return fit_cascade(statistics, self.layout, depth, names, seen, [None] * len(names), self.settings.refused)

    def seen(self, chosen: Sequence[Sequence[int]]) -> list[WrongExperts]:
        """Return per task what its own, older and no experts do to seeds of these numbers, as a merge measures it."""
        rank = self.settings.largest_rank

        def compute(number: int) -> dict[str, Any]:
            older = ((self.tasks[t].name, self.expert(t, rank)) for t in range(number))
            seeds = ImageSet([self.images["seeds"][number].paths[n] for n in chosen[number]])
            task = replace(self.tasks[number], calibration_images=seeds)
            return run_wrong_experts(task, self.expert(number, rank), self.pretrained, older).record()

        def kept(number: int) -> WrongExperts:
            older = [self._sha256[t] for t in range(number)]
            return WrongExperts.of_record(
                self.figures(number, partial(compute, number), "wrong experts", rank, chosen[number], *older)
            )

        return [kept(number) for number in range(len(self.tasks))]

    def route(self, cascade: Cascade, part: str, *, judged: bool = True) -> list[Route]:
        """Return per task where a cascade sends its images, with experts of the settings' rank to be judged or without."""
        judges = [self.judge(number, part) for number in range(len(self.tasks))] if judged else None
        return route(cascade, self.layout, self.features(part), judges)

    def judge(self, number: int, part: str) -> LargestLogits:
        """Return what runs experts on a task's images for a cascade's judge."""

        def run(numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> Floats:
            largest = np.zeros(tasks.shape)
            for task in np.unique(tasks):
                rows, column = np.nonzero(tasks == task)
                embeds = self.embeds_of(number, part, int(task), numbers[rows])
                largest[rows, column] = self.tasks[task].head.logits(embeds).amax(1).numpy()
            return largest

        return run

    def right_along(self, number: int, part: str, answering: NDArray[np.int64]) -> Bools:
        """Return which of a task's images are right under the experts `[n]`, of the settings' rank, that answer for them."""
        right = np.zeros(len(answering), np.bool_)
        for expert in np.unique(answering):
            chosen = np.flatnonzero(answering == expert)
            right[chosen] = self.right(number, part, self.embeds_of(number, part, int(expert), chosen), chosen.tolist())
        return right

    def embeds_of(self, number: int, part: str, expert: int, chosen: NDArray[np.int64]) -> Tensor:
        """Return embeddings `[m, dim]` of chosen images under an expert of the settings' rank, each computed once."""
        shape = len(self.images[part][number]), self.architecture.output_dim
        kept = once(self._embeds, (part, number, expert), lambda: torch.full(shape, torch.nan))
        missing = sorted({int(n) for n in chosen if bool(kept[n, 0].isnan())})
        if missing:
            kept[missing] = self.embed(number, part, self.tower(expert, self.settings.largest_rank), chosen=missing)
        return kept[torch.from_numpy(chosen)]

    def figures(self, number: int, compute: Callable[[], Any], *key: object) -> Any:
        """Return a task's figures, of JSON, that are kept on the disk under a key, or what `compute` returns, kept then."""
        kept_of = [self._sha256[BACKBONE], self._sha256[number], *(digest(self.images[part][number]) for part in self.images)]
        path = self._kept / f"{hashlib.sha256(json.dumps([*kept_of, *key]).encode()).hexdigest()[:32]}.json"
        if not path.exists():
            with replacing(path) as written:
                written.write_text(json.dumps(compute()))
        return json.loads(path.read_text())

    @torch.inference_mode()
    def _once(self, compute: Callable[[], NDArray[np.float32]], *key: object) -> NDArray[np.float32]:
        """Return what is kept on the disk under a key, or what `compute` returns, which is kept then."""
        name = hashlib.sha256(json.dumps([self._sha256[BACKBONE], *key]).encode()).hexdigest()[:32]
        path = self._kept / f"{name}.npy"
        if not path.exists():
            with replacing(path) as written:
                np.save(written, compute())
        kept: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return kept


def digest(images: ImageSet) -> str:
    """Return a hash that changes when a file of a set does."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in images.paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def equal_ranks(architecture: VisionArchitecture, rank: int, layers: Carrying = "attn+mlp") -> dict[str, int]:
    """Return the rank of a complete expert at every layer that carries one: the same wherever the layer is that large."""
    carrying = Settings(layers=layers).expert_layers(architecture)
    return {layer: min(rank, *architecture.linear_shape(layer)) for layer in carrying}
