"""The gated runtime: a bundle opened for predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import Head, read_heads
from mingle_edge_runtime.check.verify import verify_bundle
from mingle_edge_runtime.errors import EdgeError, ImageError, UnknownTaskError
from mingle_edge_runtime.experts.budget import ExpertStats
from mingle_edge_runtime.images.decoding import Pictures, decode, pictures
from mingle_edge_runtime.images.preprocess import stack, to_pixel_values
from mingle_edge_runtime.ort.session import Placement, resolve_providers
from mingle_edge_runtime.scopes.opening import open_scope
from mingle_edge_runtime.scopes.prediction import Prediction, predict
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.route_reuse import AUDIT_EVERY, THRESHOLD
from mingle_edge_runtime.scopes.scope import Scope
from mingle_edge_runtime.serving.stream import Predictor, Stream
from mingle_edge_runtime.serving.submissions import Submissions

_CHUNK = 32
"""images per run at most, so that memory does not grow with the number of images"""
OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of an image that cannot be read: the whole call raises, or its `ImageError` takes its place."""


@dataclass(frozen=True)
class _Chunk:
    """Some images in order."""

    pixels: NDArray[np.float32]
    """`pixel_values [m, 3, S, S]` of those that could be read"""
    errors: Sequence[ImageError | None]
    """of each of them all, None where it could"""


class EdgeModel:
    """Serve all tasks of a bundle: `open` it, `classify` or `embed` images, `close` it. Safe to use from several threads.

    An image's result does not depend on the other images of a call beyond float rounding, nor at all on the expert budget
    or on what ran before. Images are paths, Pillow images or uint8 arrays, `[H, W, 3]` (RGB) or `[H, W]` (gray); one or an
    iterable of them, or an array `[n, H, W, 3]`. All but `close` raises `EdgeError` once the model is closed, and in a process
    forked after it was opened.
    """

    def __init__(self, bundle: Bundle, scope: Scope, heads: dict[str, Head]) -> None:
        """Use `EdgeModel.open`."""
        self._bundle = bundle
        self._scope: Scope | None = scope
        self._heads = heads
        self._submissions = Submissions[_Chunk, Prediction | ImageError]()
        self._labels = {task.name: task.labels for task in bundle.index.tasks}
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | PathLike[str] | Bundle,
        *,
        expert_budget: int | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        low_memory: bool = False,
        verify: bool = False,
        check_hashes: bool = False,
    ) -> EdgeModel:
        """Open the bundle folder at `path`. No expert is read before an image needs it.

        path: the folder, or a bundle that is open already.
        expert_budget: bytes of experts to keep resident; None keeps all that were used.
        providers: ONNX Runtime execution providers in order of preference, as in `["cuda", "cpu"]`; the CPU's when None.
        threads: threads of one operator; None lets ONNX Runtime decide.
        low_memory: leave weights mapped from the bundle, without a copy in the layout that is fastest: memory that others may
        take when they need it more, a shorter opening, slower runs.
        verify: first check every hash and recompute the golden outputs, as `mingle-edge verify` does, on the same providers.
        check_hashes: compare the sha256 of weights and of each expert with the recorded one when it is first opened, which
        takes about as long as reading it (docs/memory.md). Those of graphs and heads are compared in any case.

        The model serves exactly the bundle that it opened, or raises: what it opens later is opened in the folder that was
        opened, wherever that was moved since, and is an error where it was replaced or overwritten.

        Raises `BundleError` where the bundle is missing, damaged or, with `verify`, computes other outputs than it must here;
        `ProviderError` where ONNX Runtime or a provider is missing or too old; `BudgetError` naming the least that is possible
        where `expert_budget` cannot hold the experts of one run.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.open(path)
        if check_hashes:
            bundle = replace(bundle, check_hashes=True)
        full = resolve_providers(providers)
        opened = partial(open_scope, bundle, expert_budget, full, threads, low_memory)
        if verify:  # by a scope of its own: what it reads is neither resident nor counted afterwards
            verify_bundle(bundle, opened, full).check()
        heads = read_heads(bundle)
        return cls(bundle, opened(), heads)

    @property
    def bundle(self) -> Bundle:
        """Return the opened folder and its index."""
        return self._bundle

    @property
    def scope(self) -> Scope:
        """Return what runs underneath, on `pixel_values [n, 3, S, S]`.

        Raises `EdgeError` where the model is closed, or was opened before this process was forked.
        """
        if os.getpid() != self._process:
            raise EdgeError(
                f"the bundle {self._bundle.root} was opened before this process was forked, and its threads were left behind: "
                "open the model in each process, after the fork"
            )
        if self._scope is None:
            raise EdgeError(f"the bundle {self._bundle.root} is closed: open it again")
        return self._scope

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the bundle's tasks."""
        return self._bundle.index.task_names

    def labels(self, task: str) -> tuple[str, ...]:
        """Return the labels of one task, in the order of its head's rows. Raises `UnknownTaskError`."""
        self._check_tasks([task])
        return self._labels[task]

    def embed(self, images: Pictures, task: str | None = None) -> NDArray[np.float32]:
        """Return `[n, dim]` embeddings of n images, of unit length unless `bundle.index.architecture.normalized` is false.

        task: use this task's expert instead of finding the route.

        Raises `ImageError` naming the first image that cannot be read, `UnknownTaskError`, `ExpertError` where an expert cannot
        be opened, `BundleError` where a graph does not run, `DeviceMemoryError` where the device's memory is full.
        """
        scope = self.scope
        self._check_tasks([task] if task is not None else [])
        parts = [scope.embed(chunk.pixels, task)[0] for chunk in self._chunks(images)]
        return np.concatenate([np.empty((0, self._bundle.index.architecture.output_dim), np.float32), *parts])

    @overload
    def classify(
        self, images: Pictures, task: str | None = ..., top: int = ..., head: str | None = ..., on_error: Literal["raise"] = ...
    ) -> list[Prediction]: ...
    @overload
    def classify(
        self, images: Pictures, task: str | None = ..., top: int = ..., head: str | None = ..., *, on_error: OnError
    ) -> list[Prediction | ImageError]: ...
    def classify(
        self, images: Pictures, task: str | None = None, top: int = 5, head: str | None = None, on_error: OnError = "raise"
    ) -> list[Prediction] | list[Prediction | ImageError]:
        """Return the `top` most probable labels of each image.

        task: use this task's expert, and its labels.
        head: use this task's labels, whichever expert runs. With neither, the labels of all tasks compete.
        top: the number of labels, at least 1; fewer where there are fewer.
        on_error: "skip" gives every image that can be read its answer, and the others their `ImageError`, each in its place.

        Raises what `embed` raises; with "skip" no `ImageError`.
        """
        answer = self._answering(task, top, head, on_error)
        return [prediction for chunk in self._chunks(images, on_error) for prediction in answer(chunk)]

    @overload
    def submit(
        self, images: Pictures, task: str | None = ..., top: int = ..., head: str | None = ..., on_error: Literal["raise"] = ...
    ) -> Future[list[Prediction]]: ...
    @overload
    def submit(
        self, images: Pictures, task: str | None = ..., top: int = ..., head: str | None = ..., *, on_error: OnError
    ) -> Future[list[Prediction | ImageError]]: ...
    def submit(
        self, images: Pictures, task: str | None = None, top: int = 5, head: str | None = None, on_error: OnError = "raise"
    ) -> Future[list[Prediction]] | Future[list[Prediction | ImageError]]:
        """Classify in the background and return a future of what `classify` returns; calls are answered in their order.

        Images are decoded while those before them run. Returns at once while fewer than 8 calls wait to begin, else as soon as
        one of them has begun, which slows down a producer that is too fast; a call from a callback of a future never waits.
        `images` is iterated in the background, and an array must not change before the future is done. Whatever images, experts
        and runs raise arrives through the future, which always ends; it can be canceled until its first image is decoded.
        Callbacks run between runs, so one that waits for another future waits forever.

        Arguments as in `classify`. Raises `UnknownTaskError` and `EdgeError` itself.
        """
        return self._submissions.submit(self._chunks(images, on_error), self._answering(task, top, head, on_error))

    def stream(self, reuse: bool = False, threshold: float = THRESHOLD, audit_every: int = AUDIT_EVERY) -> Stream:
        """Return a stream of frames of one camera.

        reuse: keep a route while the picture hardly moves, instead of finding one for every frame. This saves the router's
        time and may be wrong; `Stream.stats` says how often it was. Image scope only.
        threshold: change of the picture, relative to its contrast, up to which it hardly moves; less after a route that was
        not sure.
        audit_every: of the frames that would reuse a route, every n-th finds its own to compare.

        Raises `EdgeError` where `threshold` is negative, `audit_every` less than 1, or routes cannot be reused.
        """
        if not threshold >= 0 or audit_every < 1:
            raise EdgeError(f"threshold is {threshold} and must be at least 0, audit_every is {audit_every} and at least 1")
        if reuse and self._bundle.index.scope == "layer":
            raise EdgeError(
                "a route cannot be reused in the layer scope, whose graph routes layer by layer as it runs: "
                "open the stream without reuse, or merge the tasks in the image scope"
            )
        return Stream(
            lambda: self.scope,
            self._bundle.index.preprocess,
            lambda top, head: self._predictor(None, top, head),
            (threshold, audit_every) if reuse else None,
        )

    def route(self, images: Pictures) -> list[Route]:
        """Return the experts that each image would use.

        In the image scope this runs the router alone, and reads no expert; in the layer scope it takes a run of the tower.

        Raises `ImageError`, `BundleError`.
        """
        scope = self.scope
        return [route for chunk in self._chunks(images) for route in scope.route(chunk.pixels)]

    def prepare_routing(self) -> None:
        """Load the router now, not with the first image that needs a route.

        Where every task is named it is never loaded, and its weights take no memory. A bundle of the layer scope has none.
        """
        if routed := self.scope.routed:
            routed.prepare_routing()

    def prefetch(self, tasks: str | Iterable[str]) -> None:
        """Make these tasks' experts resident before they are needed, in order, as far as the budget allows.

        Raises `UnknownTaskError`, `ExpertError`.
        """
        self.scope.experts.prefetch(self._check_tasks(tasks))

    def pin(self, tasks: str | Iterable[str]) -> None:
        """Keep exactly these tasks' experts resident; none unpins all.

        Raises `BudgetError` where they leave no room for a run of another task, `UnknownTaskError`, `ExpertError`.
        """
        self.scope.experts.pin(self._check_tasks(tasks))

    def set_expert_budget(self, budget: int | None) -> None:
        """Keep at most `budget` bytes of experts resident from now on; None keeps all that are used.

        Experts that are neither pinned nor in use are given up at once, those in use when their runs end. No result changes.

        Raises `BudgetError` naming the least that is possible where one run, beside what is pinned, needs more; the old
        budget then stays.
        """
        self.scope.experts.set_budget(budget)

    def stats(self) -> ExpertStats:
        """Return the counters of the experts since the bundle was opened."""
        return self.scope.experts.stats()

    def placement(self) -> dict[str, Placement]:
        """Return the number of nodes that each execution provider runs, by graph, provider and operator.

        A provider leaves what it cannot run to the next one, in the end to the CPU; `stats().notes` say so, too. Nothing is
        known of a graph where ONNX Runtime is older than 1.24.
        """
        return self.scope.placement()

    def close(self) -> None:
        """Finish what was submitted, and give back the memory once running calls have ended.

        Everything but another `close` raises `EdgeError` from now on. To leave work undone, cancel its futures before.
        """
        self._scope = None
        self._bundle = self._bundle.without_files()
        if os.getpid() == self._process:
            self._submissions.close()

    def __enter__(self) -> EdgeModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _answering(
        self, task: str | None, top: int, head: str | None, on_error: OnError
    ) -> Callable[[_Chunk], list[Prediction | ImageError]]:
        """Return what turns images into predictions; arguments as in `classify`, and checked."""
        if on_error not in ("raise", "skip"):
            raise EdgeError(f'on_error is {on_error!r}, must be "raise" or "skip"')
        scope, predictions = self.scope, self._predictor(task, top, head)

        def answer(chunk: _Chunk) -> list[Prediction | ImageError]:
            answers = iter(predictions(*scope.embed(chunk.pixels, task)) if len(chunk.pixels) else ())
            return [next(answers) if error is None else error for error in chunk.errors]

        return answer

    def _predictor(self, task: str | None, top: int, head: str | None) -> Predictor:
        """Return what turns embeddings `[m, dim]` and m routes into predictions; arguments as in `classify`, and checked."""
        if top < 1:
            raise EdgeError(f"top is {top}, must be at least 1")
        self._check_tasks([task] if task is not None else [])
        if head is not None and not isinstance(head, str):
            raise EdgeError(f"head is {head!r}, must be the name of one task; with neither task nor head all tasks compete")
        chosen = task if head is None else head
        heads = self._heads if chosen is None else {name: self._heads[name] for name in self._check_tasks(chosen)}
        return lambda embeds, routes: [
            predict(embed, route, heads, self._labels, top) for embed, route in zip(embeds, routes, strict=True)
        ]

    def _chunks(self, images: Pictures, on_error: OnError = "raise") -> Generator[_Chunk, None, None]:
        """Yield at most `_CHUNK` images at a time, preprocessed."""
        spec = self._bundle.index.preprocess
        named = pictures(images)
        while True:
            values: list[NDArray[np.float32]] = []
            errors: list[ImageError | None] = []
            for name, image in islice(named, _CHUNK):
                try:
                    values.append(to_pixel_values(decode(image, name), spec, name))
                    errors.append(None)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    errors.append(ImageError(str(error)))  # without the traceback, which holds the picture
            if not errors:
                return
            yield _Chunk(stack(values, spec), errors)

    def _check_tasks(self, tasks: str | Iterable[str]) -> list[str]:
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        for name in names:
            if not isinstance(name, str) or name not in self._labels:
                raise UnknownTaskError(f"task {name!r} is not in the bundle; it has {', '.join(self.tasks)}")
        return names
