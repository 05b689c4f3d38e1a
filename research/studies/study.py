"""What the studies share: the suite of one pretraining seed in memory, and what is expensive about it, computed once.

Router features, and embeddings of every image under every task's expert, are kept in `<suite>/kept`, so that a study pays
for them once and the next one not at all. Decisions are made on the part `tune`, figures are of the part `test`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mingle_edge.clip import vision_tower
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Parameters, embed_images, router_features
from mingle_edge.core.progress import silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.images import load_images
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import read_task_file
from mingle_edge.experts.task_vectors import Factors, build_expert
from mingle_edge.files.atomic_files import replacing
from mingle_edge.merging.merge_inputs import TaskInputs, read_merge_inputs
from mingle_edge.routing import features as library_features
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.features import mild_variations
from mingle_edge.routing.router import OWN_SHARE, Router, fit_router
from mingle_edge.routing.statistics import MOMENTS, RouterStatistics

PARTS = ("tune", "test")
BACKBONE = -1  # in place of a task's number: no expert
BATCH = 256  # images
FEATURES = hashlib.sha256("".join(map(inspect.getsource, (vision_tower, library_features))).encode()).hexdigest()
"""What router features are today: others are not to be found among the kept."""
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]
Carrying = Literal["attn+mlp", "qkv+fc1"]
Route = tuple[Floats, Bools]
"""posterior [n, T], claimed [n]"""


def digest(images: ImageSet) -> str:
    """Return a hash that changes when a file of a set does."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in images.paths]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


class PoolSeeds(ImageSet):
    """Seed images that are in memory already."""

    def __init__(self, images: Tensor) -> None:
        super().__init__([Path()] * len(images))
        self.images = images

    def load(self, numbers: Sequence[int], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
        """Return the images with these numbers."""
        return self.images[list(numbers)]


class StudyTask:
    """One task of a study; what it reads is read when first asked for."""

    def __init__(self, prepared: TaskInputs, base: Path, backbone: Parameters) -> None:
        self.name = prepared.source.name
        self.classes = prepared.source.classes
        self.head = prepared.head  # [classes, dim], rows of unit length
        self.sha256 = prepared.sha256
        self._prepared, self._base, self._backbone = prepared, base, backbone
        self._files: dict[str, ImageSet] = {}

    def files(self, part: str) -> ImageSet:
        """Return the images of `seeds` (the whole pool), `tune` or `test`."""
        if part not in self._files:
            self._files[part] = read_labeled(getattr(self._prepared.source, part), self._base, self.classes)
        return self._files[part]

    def labels(self, part: str) -> NDArray[np.int64]:
        """Return class numbers `[n]`. Those of seeds are for choosing few and skewed seeds, never for learning."""
        return np.array(self.files(part).labels)

    @cached_property
    def finetuned(self) -> dict[str, Tensor]:
        """The complete fine-tuned tower by internal names."""
        tensors = dict(self._prepared.checkpoint.tensors())
        tensors.setdefault("projection.weight", self._backbone["projection.weight"])
        return tensors

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """The full-rank expert of every linear layer, strongest direction first: the first r are the rank-r expert."""
        differences = {
            name.removesuffix(".weight"): value - self._backbone[name]
            for name, value in self.finetuned.items()
            if value.ndim == 2 and name.endswith(".weight")
        }
        return {layer: build_expert(difference, min(difference.shape)) for layer, difference in differences.items()}


class Study:
    """The first `count` tasks of a suite with the models of one pretraining seed."""

    def __init__(self, suite: Path, pretraining_seed: int, count: int) -> None:
        torch.set_num_threads(1)
        file = read_task_file(suite / f"seed-{pretraining_seed}" / f"{count}.toml")
        merge = read_merge_inputs(file, silent)
        self.folder = file.path
        self.kept = suite / "kept"
        self.kept.mkdir(exist_ok=True)
        self.architecture = merge.architecture
        self.settings = merge.settings
        self.logit_scale = merge.logit_scale
        self.backbone: dict[str, Tensor] = dict(merge.backbone.tensors())
        self.backbone_sha256 = merge.backbone_sha256
        self.tasks = [StudyTask(task, file.path.parent, self.backbone) for task in merge.tasks]
        self._images: dict[tuple[int, str], Tensor] = {}

    @property
    def depth(self) -> int:
        """The largest depth, which router features are of."""
        return deepest("auto", self.architecture.layers)

    @property
    def features_per_depth(self) -> int:
        """Router features of one depth; those of the first m blocks are the first (m + 1) times as many."""
        return MOMENTS * self.architecture.width

    def images(self, number: int, part: str) -> Tensor:
        """Return the preprocessed images `[n, 3, H, W]` of one task in one part."""
        if (number, part) not in self._images:
            self._images[number, part] = load_images(self.tasks[number].files(part).paths, self.architecture)
        return self._images[number, part]

    def draw(self, number: int, per_class: int, draw: int) -> list[int]:
        """Draw numbers in the pool of so many seeds of every class; a smaller draw is part of a larger one."""
        generator = np.random.default_rng([draw, zlib.crc32(self.tasks[number].name.encode())])
        labels = self.tasks[number].labels("seeds")
        chosen = [generator.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
        return [int(n) for n in np.concatenate(chosen)]

    def features(self, part: str) -> list[Floats]:
        """Return per task the router features `[n, F]` at the largest depth."""

        def compute(number: int) -> NDArray[np.float32]:
            images = in_batches(self.images(number, part))
            return torch.cat([router_features(x, self.backbone, self.architecture, self.depth) for x in images]).numpy()

        return [
            self._once(partial(compute, n), FEATURES, self.depth, digest(task.files(part))).astype(np.float64)
            for n, task in enumerate(self.tasks)
        ]

    def seed_features(self, variations: int) -> list[NDArray[np.float32]]:
        """Return per task the router features `[pool, 1 + variations, F]` of the pool's seeds, each before its variations."""

        def compute(number: int) -> NDArray[np.float32]:
            generator = task_generator(self.settings.seed, self.tasks[number].name, "router")
            rows = []
            for seed in in_batches(self.images(number, "seeds"), 1):
                varied = mild_variations(seed, variations, self.architecture, generator).flatten(0, 1)
                rows.append(router_features(varied, self.backbone, self.architecture, self.depth))
            return torch.stack(rows).numpy()

        return [
            self._once(partial(compute, n), FEATURES, self.depth, variations, digest(task.files("seeds")))
            for n, task in enumerate(self.tasks)
        ]

    def parameters(self, number: int, rank: int | None, layers: Carrying = "attn+mlp") -> Parameters:
        """Return the tower with a task's complete expert of a rank; None: the fine-tuned model; BACKBONE: no expert."""
        if number == BACKBONE:
            return self.backbone
        task = self.tasks[number]
        if rank is None:
            return task.finetuned
        carrying = ("patch_embedding", "projection", *Settings(layers=layers).carrying())
        names = [layer for layer in self.architecture.linear_layers() if layer.rsplit(".", 1)[-1] in carrying]
        return self.with_directions(
            number, {layer: range(min(rank, *self.architecture.linear_shape(layer))) for layer in names}
        )

    def with_directions(self, number: int, directions: Mapping[str, Sequence[int]]) -> Parameters:
        """Return the tower with a task's complete expert, of the singular directions given for each layer that carries one."""
        task = self.tasks[number]
        moved = {name: task.finetuned[name] for name in self.architecture.vector_shapes()}
        for layer, chosen in directions.items():
            B, A = task.factors[layer]
            moved[f"{layer}.weight"] = self.backbone[f"{layer}.weight"] + B[:, list(chosen)] @ A[list(chosen)]
        return {**self.backbone, **moved}

    @torch.inference_mode()
    def embed(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Return embeddings `[n, dim]` of unit length."""
        if not len(images):
            return torch.zeros(0, self.architecture.output_dim)
        parts = [embed_images(x, parameters, self.architecture) for x in in_batches(images)]
        return F.normalize(torch.cat(parts), dim=-1)

    def embeddings(self, part: str, rank: int | None) -> list[NDArray[np.float32]]:
        """Return per task `[n, T + 1, dim]` of unit length: under every task's expert, and last of the plain backbone."""

        def compute(number: int, expert: int) -> NDArray[np.float32]:
            return self.embed(self.images(number, part), self.parameters(expert, rank)).numpy()

        found = []
        for number, task in enumerate(self.tasks):
            columns = []
            for expert in [*range(len(self.tasks)), BACKBONE]:
                of = [self.tasks[expert].sha256, rank] if expert != BACKBONE else ["backbone"]
                columns.append(self._once(partial(compute, number, expert), "embeddings", *of, digest(task.files(part))))
            found.append(np.stack(columns, axis=1))
        return found

    def correct(self, part: str, rank: int | None) -> list[Bools]:
        """Return per task `[n, T + 1]`: right under its own head, by the expert that answers, the plain backbone last."""
        return [
            (embeds @ task.head.numpy().T).argmax(axis=2) == task.labels(part)[:, None]
            for task, embeds in zip(self.tasks, self.embeddings(part, rank), strict=True)
        ]

    def right_alone(self, number: int, part: str, parameters: Parameters) -> float:
        """Return percent of a task's images that are right under one tower."""
        embeds = self.embed(self.images(number, part), parameters)
        return 100 * float(((embeds @ self.tasks[number].head.T).argmax(1).numpy() == self.tasks[number].labels(part)).mean())

    def right(self, number: int, part: str, answering: NDArray[np.int64], parameters: Callable[[int], Parameters]) -> Bools:
        """Return whether each image of a task `[n]` is right under the expert that answers for it, of the parameters given."""
        found = np.zeros(len(answering), dtype=bool)
        labels = self.tasks[number].labels(part)
        for expert in np.unique(answering):
            chosen = np.flatnonzero(answering == expert)
            embeds = self.embed(self.images(number, part)[torch.from_numpy(chosen)], parameters(int(expert)))
            found[chosen] = (embeds @ self.tasks[number].head.T).argmax(1).numpy() == labels[chosen]
        return found

    def router(
        self,
        features: Sequence[NDArray[np.float32]],
        depth: int | None = None,
        *,
        moments: int = MOMENTS,
        own_share: float = OWN_SHARE,
    ) -> Router:
        """Fit the router of seeds and variations, per task `[seeds, 1 + v, F]`; without a depth, of the one it would choose."""
        statistics = [RouterStatistics.from_features(of_task) for of_task in features]
        per_depth = moments * self.architecture.width
        chosen = choose_depth(statistics, per_depth) if depth is None else depth
        return fit_router([s.first((chosen + 1) * per_depth) for s in statistics], own_share)

    @torch.inference_mode()
    def _once(self, compute: Callable[[], NDArray[np.float32]], *key: object) -> NDArray[np.float32]:
        """Return what is kept under a key, or what `compute` returns, which is kept then."""
        digest = hashlib.sha256(json.dumps([self.backbone_sha256, *key]).encode()).hexdigest()[:32]
        path = self.kept / f"{digest}.npy"
        if not path.exists():
            with replacing(path) as written:
                np.save(written, compute())
        kept: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return kept


def in_batches(images: Tensor, size: int = BATCH) -> list[Tensor]:
    """Return the images in batches of a size."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def route(router: Router, features: Sequence[AnyFloats]) -> list[Route]:
    """Return per task where the router sends its images."""
    found = []
    for of_task in features:
        posterior, confidence = router.posterior(of_task[:, : len(router.weight)].astype(np.float64))
        found.append((posterior, confidence >= router.confidence_bound))
    return found


def answering(route: Route) -> NDArray[np.int64]:
    """Return the expert that answers for each image `[n]`, top-1; BACKBONE where no task claims it."""
    posterior, claimed = route
    return np.where(claimed, posterior.argmax(axis=1), BACKBONE)


def own_route(routes: Sequence[Route]) -> float:
    """Return images routed to their own task, mean over tasks in percent."""
    return 100 * float(np.mean([np.mean(answering(of_task) == task) for task, of_task in enumerate(routes)]))


def p1(correct: Sequence[Bools], routes: Sequence[Route]) -> float:
    """Return ACC of top-1 in percent when the head is given and the route is not."""
    shares = [right[np.arange(len(right)), answering(r)].mean() for right, r in zip(correct, routes, strict=True)]
    return 100 * float(np.mean(shares))


def p2(correct: Sequence[Bools]) -> float:
    """Return ACC in percent when head and task are given."""
    return 100 * float(np.mean([right[:, task].mean() for task, right in enumerate(correct)]))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def spread(values: Sequence[float] | Floats) -> str:
    """Return the mean and, of more than one value, the deviation, to a tenth."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if len(values) > 1 else f"{np.mean(values):.1f}"


def parser(doc: str | None, tasks: int = 20) -> argparse.ArgumentParser:
    """Return a parser with the options that every study has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suite", type=Path, required=True, help="what `python -m research.suite -o DIR` wrote")
    options.add_argument("--pretraining-seeds", type=int, nargs="+", default=[0], metavar="SEED")
    options.add_argument("--tasks", type=int, default=tasks, help="the first so many tasks: 8, 14 or 20")
    return options


def note(text: str) -> None:
    """Say on the error stream how far a study is."""
    print(text, file=sys.stderr, flush=True)
