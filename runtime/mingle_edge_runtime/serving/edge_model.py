"""The gated runtime: a bundle opened for predictions."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from numbers import Real
from os import PathLike
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.head import Head, read_heads
from mingle_edge_runtime.check.verify import verify_bundle
from mingle_edge_runtime.errors import BundleError, EdgeError, ImageError, ThreadsError
from mingle_edge_runtime.experts.byte_size import budget_bytes
from mingle_edge_runtime.images.decoding import Pictures
from mingle_edge_runtime.ort.providers import resolve_providers
from mingle_edge_runtime.scopes.opening import open_scope
from mingle_edge_runtime.scopes.prediction import Prediction, predict
from mingle_edge_runtime.scopes.route import Route
from mingle_edge_runtime.scopes.route_reuse import AUDIT_EVERY, THRESHOLD
from mingle_edge_runtime.scopes.scope import Scope
from mingle_edge_runtime.serving.batches import Batch, OnError, batches
from mingle_edge_runtime.serving.served_bundle import ServedBundle
from mingle_edge_runtime.serving.stream import Predictor, Stream
from mingle_edge_runtime.serving.submissions import Submissions

_LOG = logging.getLogger(__name__)


class EdgeModel(ServedBundle):
    """Serve all tasks of a bundle: `open` it, `classify` or `embed` images, `close` it. Safe to use from several threads.

    An image's result does not depend on the other images of a call beyond float rounding, nor at all on the expert budget
    or on what ran before. Images are paths, bytes of image files, open files, Pillow images or arrays (`from_array`); one or an
    iterable of them, or an array of several. All but `close` raises `EdgeError` once the model is closed, and in a process
    forked after it was opened.
    """

    def __init__(self, bundle: Bundle, scope: Scope, heads: dict[str, Head], providers: Sequence[str]) -> None:
        """Use `EdgeModel.open`."""
        super().__init__(bundle, scope, heads, providers)
        self._submissions = Submissions[Batch, Prediction | ImageError]()

    @classmethod
    def open(
        cls,
        path: str | PathLike[str] | Bundle,
        *,
        expert_budget: int | str | None = None,
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        low_memory: bool = False,
        verify: bool = False,
        check_hashes: bool = False,
    ) -> EdgeModel:
        """Open the bundle folder at `path`. No expert is read before an image needs it.

        path: the folder, or a bundle that is open already.
        expert_budget: bytes of experts to keep resident, a number or a text like "64MB" (10^6), "64MiB" (2^20), "1.5 GB"; None
        keeps all that were used.
        providers: ONNX Runtime's execution provider, or several in order of preference, as in `["cuda", "cpu"]`: cpu, cuda,
        tensorrt, coreml, directml, openvino, or any by its full name; the CPU's when None.
        threads: threads of one operator; None lets ONNX Runtime decide.
        low_memory: leave weights mapped from the bundle, without a copy in the layout that is fastest: memory that others may
        take when they need it more, a shorter opening, slower runs.
        verify: first check every hash and recompute the golden outputs, as `mingle-edge verify` does, on the same providers.
        check_hashes: compare the sha256 of weights and of each expert with the recorded one when it is first opened, which
        takes about as long as reading it (docs/memory.md). Those of graphs and heads are compared in any case.

        The model serves exactly the bundle that it opened, or raises. Files that it needs later are opened in that same folder,
        wherever it was moved since. A file that was replaced or overwritten is an error.

        Raises `BundleError` where the bundle is missing, damaged or, with `verify`, computes other outputs than it must here;
        `ProviderError` where ONNX Runtime or a provider is missing or too old; `BudgetError` naming the least that is possible
        where `expert_budget` cannot hold the experts of one run.
        """
        budget = budget_bytes(expert_budget)
        if threads is not None and not _is_whole(threads):
            raise ThreadsError(f"threads is {threads!r}, must be a whole number, or None to let ONNX Runtime decide")
        if not isinstance(path, (str, PathLike, Bundle)):
            raise BundleError(f"a bundle is {path!r}, must be the path of its folder, or a Bundle that is open")
        bundle = path if isinstance(path, Bundle) else Bundle.open(path)
        if check_hashes:
            bundle = replace(bundle, check_hashes=True)
        full = resolve_providers(providers)
        opened = partial(open_scope, bundle, budget, full, threads, low_memory)
        if verify:  # by a scope of its own: what it reads is neither resident nor counted afterwards
            verify_bundle(bundle, opened, full).check()
        heads = read_heads(bundle)
        model = cls(bundle, opened(), heads, full)
        for note in model.stats().notes:
            _LOG.warning("%s: %s", bundle.root, note)
        return model

    def embed(self, images: Pictures, task: str | None = None, *, group: str | None = None) -> NDArray[np.float32]:
        """Return `[n, dim]` embeddings of n images, of unit length unless `bundle.index.architecture.normalized` is false.

        task: use this task's expert instead of finding the route.
        group: let only the tasks of this group compete for the route; not with `task`.

        Raises `ImageError` naming the first image that cannot be read, `UnknownTaskError`, `ExpertError` where an expert cannot
        be opened, `BundleError` where a graph does not run, `DeviceMemoryError` where the device's memory is full.
        """
        self._check_tasks([task] if task is not None else [])
        embed = self._embedding(task, group)
        parts = [embed(batch.pixels)[0] for batch in self._batches(images)]
        return np.concatenate([np.empty((0, self._bundle.index.architecture.output_dim), np.float32), *parts])

    @overload
    def classify(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        on_error: Literal["raise"] = ...,
        *,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> list[Prediction]: ...
    @overload
    def classify(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        *,
        on_error: OnError,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> list[Prediction | ImageError]: ...
    def classify(
        self,
        images: Pictures,
        task: str | None = None,
        top: int = 5,
        head: str | None = None,
        on_error: OnError = "raise",
        *,
        reject_below: float | None = None,
        group: str | None = None,
    ) -> list[Prediction] | list[Prediction | ImageError]:
        """Return the `top` most probable labels of each image.

        task: use this task's expert, and its labels.
        head: use the labels of this task, or of this head of `load_head`, whichever expert runs. With neither, the labels of
        all tasks compete.
        top: the number of labels, at least 1; fewer where there are fewer.
        on_error: "skip" gives every image that can be read its answer, and the others their `ImageError`, each in its place.
        reject_below: a probability; an image whose best label has less gets a prediction that is `rejected`: its `label` and
        `task` are None, while `labels`, `tasks` and `probabilities` stay.
        group: let only the tasks of this group compete for the route; not with `task`.

        Raises what `embed` raises; with "skip" no `ImageError`.
        """
        answer = self._answering(task, top, head, on_error, reject_below, group)
        return [prediction for batch in self._batches(images, on_error) for prediction in answer(batch)]

    def classify_pixels(
        self,
        pixels: NDArray[np.float32],
        task: str | None = None,
        top: int = 5,
        head: str | None = None,
        *,
        reject_below: float | None = None,
        group: str | None = None,
    ) -> tuple[list[Prediction], NDArray[np.float32]]:
        """Return what `classify` and `embed` return of n images, by one run: predictions, and embeddings `[n, dim]`.

        For a server, which prepares images in threads of its own.

        pixels: `[n, 3, S, S]` as `mingle_edge_runtime.images.preprocess.preprocess` makes them by `bundle.index.preprocess`.

        Other arguments as in `classify`. Raises what `embed` raises, but for `ImageError`.
        """
        predictions = self._predictor(task, top, head, reject_below)
        embeds, routes = self._embedding(task, group)(pixels)
        return predictions(embeds, routes), embeds

    @overload
    def submit(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        on_error: Literal["raise"] = ...,
        *,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> Future[list[Prediction]]: ...
    @overload
    def submit(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        *,
        on_error: OnError,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> Future[list[Prediction | ImageError]]: ...
    def submit(
        self,
        images: Pictures,
        task: str | None = None,
        top: int = 5,
        head: str | None = None,
        on_error: OnError = "raise",
        *,
        reject_below: float | None = None,
        group: str | None = None,
    ) -> Future[list[Prediction]] | Future[list[Prediction | ImageError]]:
        """Classify in the background and return a future of what `classify` returns; calls are answered in their order.

        Images are decoded while those before them run. Returns at once while fewer than 8 calls wait to begin, else as soon as
        one of them has begun, which slows down a producer that is too fast; a call from a callback of a future never waits.
        `images` is iterated in the background: no array may change and no file be closed before the future is done. Whatever
        images, experts and runs raise arrives through the future, which always ends; it can be canceled until its first image
        is decoded. Callbacks run between runs, so one that waits for another future waits forever.

        Arguments as in `classify`. Raises `UnknownTaskError` and `EdgeError` itself.
        """
        answer = self._answering(task, top, head, on_error, reject_below, group)
        return self._submissions.submit(self._batches(images, on_error), answer)

    @overload
    async def aclassify(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        on_error: Literal["raise"] = ...,
        *,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> list[Prediction]: ...
    @overload
    async def aclassify(
        self,
        images: Pictures,
        task: str | None = ...,
        top: int = ...,
        head: str | None = ...,
        *,
        on_error: OnError,
        reject_below: float | None = ...,
        group: str | None = ...,
    ) -> list[Prediction | ImageError]: ...
    async def aclassify(
        self,
        images: Pictures,
        task: str | None = None,
        top: int = 5,
        head: str | None = None,
        on_error: OnError = "raise",
        *,
        reject_below: float | None = None,
        group: str | None = None,
    ) -> list[Prediction] | list[Prediction | ImageError]:
        """Return what `classify` returns, for asyncio: submitted in the order of the calls, while the event loop goes on.

        The event loop is never blocked, so as many calls may wait as are awaited. A call that is canceled before its first
        image is decoded does not run; one that is canceled later is finished, and its result is dropped.

        Arguments as in `classify`. Raises what `classify` raises.
        """
        from asyncio import wrap_future  # who awaits has imported it; all others need not

        answer = self._answering(task, top, head, on_error, reject_below, group)
        return await wrap_future(self._submissions.submit(self._batches(images, on_error), answer, wait=False))

    def stream(self, reuse: bool = False, threshold: float = THRESHOLD, audit_every: int = AUDIT_EVERY) -> Stream:
        """Return a stream of frames of one camera.

        reuse: keep a route while the picture hardly moves, instead of finding one for every frame. This saves the router's
        time and may be wrong; `Stream.stats` says how often it was. Image scope only.
        threshold: change of the picture, relative to its contrast, up to which it hardly moves; less after a route that was
        not sure.
        audit_every: of the frames that would reuse a route, every n-th finds its own to compare.

        Raises `EdgeError` where `threshold` is negative, `audit_every` less than 1, or routes cannot be reused.
        """
        if not (_is_real(threshold) and threshold >= 0 and _is_whole(audit_every) and audit_every >= 1):
            raise EdgeError(
                f"threshold is {threshold!r} and must be a number of at least 0, audit_every is {audit_every!r} "
                "and a whole number of at least 1"
            )
        if reuse and self._bundle.index.scope == "layer":
            raise EdgeError(
                "a route cannot be reused in the layer scope, whose graph routes layer by layer as it runs: "
                "open the stream without reuse, or merge the tasks in the image scope"
            )
        return Stream(
            lambda: self.scope,
            self._bundle.index.preprocess,
            lambda top, head, reject_below: self._predictor(None, top, head, reject_below),
            (threshold, audit_every) if reuse else None,
        )

    def route(self, images: Pictures, *, group: str | None = None) -> list[Route]:
        """Return the experts that each image would use.

        In the image scope this runs as much of the router as each image needs: no expert, unless the bundle has a judge, which
        runs two for an image in doubt to the end. In the layer scope it takes a run of the tower.

        group: let only the tasks of this group compete.

        Raises `ImageError`, `BundleError`, `UnknownTaskError`; `ExpertError` and `DeviceMemoryError` where experts are judged.
        """
        scope = self.scope
        find = scope.route if group is None else partial(self._grouped(group).route, group=group)
        return [route for batch in self._batches(images) for route in find(batch.pixels)]

    def close(self) -> None:
        """Finish what was submitted, and give back the memory once running calls have ended.

        Everything but another `close` raises `EdgeError` from now on. To leave work undone, cancel its futures before.
        """
        super().close()
        if os.getpid() == self._process:
            self._submissions.close()

    def _answering(
        self, task: str | None, top: int, head: str | None, on_error: OnError, reject_below: float | None, group: str | None
    ) -> Callable[[Batch], list[Prediction | ImageError]]:
        """Return what turns images into predictions; arguments as in `classify`, and checked."""
        if on_error not in ("raise", "skip"):
            raise EdgeError(f'on_error is {on_error!r}, must be "raise" or "skip"')
        predictions, embed = self._predictor(task, top, head, reject_below), self._embedding(task, group)

        def answer(batch: Batch) -> list[Prediction | ImageError]:
            answers = iter(predictions(*embed(batch.pixels)) if len(batch.pixels) else ())
            return [next(answers) if error is None else error for error in batch.errors]

        return answer

    def _predictor(self, task: str | None, top: int, head: str | None, reject_below: float | None) -> Predictor:
        """Return what turns embeddings `[m, dim]` and m routes into predictions; arguments as in `classify`, and checked."""
        if not _is_whole(top) or top < 1:
            raise EdgeError(f"top is {top!r}, must be a whole number and at least 1")
        if reject_below is not None and not (_is_real(reject_below) and 0 <= reject_below <= 1):
            raise EdgeError(f"reject_below is {reject_below!r}, must be a probability, from 0 to 1, or None to reject nothing")
        self._check_tasks([task] if task is not None else [])
        chosen = task if head is None else self._check_head(head)
        known = self._heads  # once, so that labels and rows are of one head where another thread loads one
        asked = {name: known[name] for name in (self.tasks if chosen is None else (chosen,))}
        heads = {name: labeled.head for name, labeled in asked.items()}
        labels = {name: labeled.labels for name, labeled in asked.items()}
        return lambda embeds, routes: [
            predict(embed, route, heads, labels, top, reject_below) for embed, route in zip(embeds, routes, strict=True)
        ]

    def _batches(self, images: Pictures, on_error: OnError = "raise") -> Generator[Batch, None, None]:
        return batches(images, self._bundle.index.preprocess, on_error)


def _is_whole(value: Any) -> bool:
    try:
        return operator.index(value) is not None and not isinstance(value, bool)
    except TypeError:
        return False


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
