"""The gated runtime: a bundle opened for predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.errors import EdgeError, ProviderError, UnknownTaskError
from mingle_edge_runtime.expert_budget import ExpertStats
from mingle_edge_runtime.image_scope import ImageScope
from mingle_edge_runtime.layer_scope import LayerScope
from mingle_edge_runtime.prediction import Head, Prediction, predict, read_heads
from mingle_edge_runtime.preprocess import Pictures, decode, pictures, stack, to_pixel_values
from mingle_edge_runtime.route import Route
from mingle_edge_runtime.session import check_version, resolve_providers

_CHUNK = 32
"""images per run at most, so that memory does not grow with the number of images"""


class EdgeModel:
    """A bundle that serves all its tasks. Safe to use from several threads.

    An image's result does not depend on the other images of a call beyond float rounding, nor at all on the expert budget
    or on what ran before.
    """

    def __init__(self, bundle: Bundle, scope: ImageScope | LayerScope, heads: dict[str, Head]) -> None:
        """Use `EdgeModel.open`."""
        self._bundle = bundle
        self._scope: ImageScope | LayerScope | None = scope
        self._heads = heads
        self._labels = {task.name: task.labels for task in bundle.index.tasks}

    @classmethod
    def open(
        cls,
        path: str | PathLike[str] | Bundle,
        expert_budget: int | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> EdgeModel:
        """Open the bundle folder at `path`. No expert is read before an image needs it.

        path: the folder, or a bundle that is open already.
        expert_budget: bytes of experts to keep resident; None keeps all that were used.
        providers: ONNX Runtime execution providers in order of preference, CPU when None.
        threads: threads of one operator; None lets ONNX Runtime decide.

        Raises `BundleError`, `ProviderError`, `BudgetError`.
        """
        if threads is not None and threads < 1:
            raise ProviderError(f"threads is {threads}, must be at least 1")
        bundle = path if isinstance(path, Bundle) else Bundle.open(Path(path))
        check_version(bundle.index.minimum_onnxruntime)
        heads = read_heads(bundle)
        kind = ImageScope if bundle.index.scope == "image" else LayerScope
        return cls(bundle, kind(bundle, expert_budget, resolve_providers(providers), threads), heads)

    @property
    def bundle(self) -> Bundle:
        """The opened folder and its index."""
        return self._bundle

    @property
    def scope(self) -> ImageScope | LayerScope:
        """What runs underneath, on `pixel_values [n, 3, S, S]`."""
        if self._scope is None:
            raise EdgeError(f"the bundle {self._bundle.root} is closed: open it again")
        return self._scope

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the bundle's tasks."""
        return self._bundle.index.task_names

    def labels(self, task: str) -> tuple[str, ...]:
        """The labels of one task. Raises `UnknownTaskError`."""
        self._check_tasks([task])
        return self._labels[task]

    def embed(self, images: Pictures, task: str | None = None) -> NDArray[np.float32]:
        """`[n, dim]` embeddings of unit length of n images.

        images: one or several paths, Pillow images or uint8 arrays; a uint8 array `[n, H, W, 3]` is n images.
        task: use this task's expert instead of finding the route.

        Raises `ImageError`, `UnknownTaskError`, `ExpertError`.
        """
        parts = [embeds for embeds, _ in self._runs(images, task)]
        return np.concatenate([np.empty((0, self._bundle.index.architecture.output_dim), np.float32), *parts])

    def classify(self, images: Pictures, task: str | None = None, top: int = 5, head: str | None = None) -> list[Prediction]:
        """The `top` most probable labels of each image.

        task: this task's expert and labels. head: this task's labels, whichever expert ran. Neither: the labels of all tasks
        compete.

        Raises what `embed` raises.
        """
        if top < 1:
            raise EdgeError(f"top is {top}, must be at least 1")
        chosen = task if head is None else head
        heads = self._heads if chosen is None else {name: self._heads[name] for name in self._check_tasks(chosen)}
        scale = self._bundle.index.logit_scale
        return [
            predict(embed, route, heads, self._labels, scale, top)
            for embeds, routes in self._runs(images, task)
            for embed, route in zip(embeds, routes, strict=True)
        ]

    def route(self, images: Pictures) -> list[Route]:
        """The experts each image would use. In the image scope this runs the router alone, and no expert is read."""
        scope = self.scope
        return [route for pixels in self._chunks(images) for route in scope.route(pixels)]

    def prefetch(self, tasks: str | Iterable[str]) -> None:
        """Make these tasks' experts resident before they are needed, in order, as far as the budget allows."""
        self.scope.prefetch(self._check_tasks(tasks))

    def pin(self, tasks: str | Iterable[str]) -> None:
        """Keep exactly these tasks' experts resident; none unpins all.

        Raises `BudgetError` where they leave no room for a run of another task.
        """
        self.scope.pin(self._check_tasks(tasks))

    def stats(self) -> ExpertStats:
        """Traffic of experts since the bundle was opened."""
        return self.scope.stats()

    def close(self) -> None:
        """Give back the memory once running calls have ended. Everything but another `close` raises `EdgeError` from now on."""
        self._scope = None

    def __enter__(self) -> EdgeModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _runs(self, images: Pictures, task: str | None) -> Iterator[tuple[NDArray[np.float32], list[Route]]]:
        """Embeddings `[m, dim]` and m routes of each chunk of images."""
        scope = self.scope
        self._check_tasks([task] if task is not None else [])
        for pixels in self._chunks(images):
            yield scope.embed(pixels, task)

    def _chunks(self, images: Pictures) -> Iterator[NDArray[np.float32]]:
        """`pixel_values [m, 3, S, S]` of at most `_CHUNK` images at a time."""
        spec = self._bundle.index.preprocess
        values = (to_pixel_values(decode(image, name), spec, name) for name, image in pictures(images))
        while chunk := list(islice(values, _CHUNK)):
            yield stack(chunk, spec)

    def _check_tasks(self, tasks: str | Iterable[str]) -> list[str]:
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        for name in names:
            if name not in self._labels:
                raise UnknownTaskError(f"task {name!r} is not in the bundle; it has {', '.join(self.tasks)}")
        return names
