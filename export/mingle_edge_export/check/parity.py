"""The gate of every export: the bundle's graphs in ONNX Runtime against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.progress import Progress
from mingle_edge_export.check.fidelity import MAX_ABS, Bounds
from mingle_edge_export.check.reference import MIXTURE, ImageScopeOutputs, Reference, Routed
from mingle_edge_export.check.route_parity import RouteMismatchError, agreeing_routes
from mingle_edge_export.errors import ParityError
from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime.adapter import map_adapter, read_adapter
from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.mixture import mix
from mingle_edge_runtime.session import CPU, Session

BATCHES = (1, 2, 7)
POSTERIOR = 1e-3  # at most, of probabilities: so the most probable task is the same wherever it leads by twice that
CONFIDENCE = 1e-3  # at most, relative

Outputs = Mapping[str, NDArray[Any]]
Case = tuple[str, Callable[[Array], Outputs], Callable[[str, Outputs, int], None]]
"""What it is, pixel_values -> outputs, and the comparison of the outputs for the first so many images."""


@dataclass(frozen=True)
class Parity:
    """How far the graphs are from the reference."""

    cosine: float
    """smallest, of an embedding with its reference"""
    max_abs: float
    """largest difference of an element of an embedding"""
    posterior: float
    """largest difference of a probability; 0 in the layer scope"""
    near_ties: int
    """in fp32, runs of an image that took another expert of equal contribution, to rounding, and were not compared further"""
    route_agreement: float
    """share of routes that are the reference's: of images (image scope), of choices of an expert in a layer (layer scope)"""


def check_parity(bundle: Bundle, reference: Reference, norms: Array | None, bounds: Bounds, progress: Progress) -> Parity:
    """Compare every graph of a bundle with the reference at batch 1, 2 and 7.

    In fp32 elements, posteriors and gate values must be equal to rounding; at other precisions the bounds decide.

    Image scope: no expert, each expert alone, a mixture of two, the router. Layer scope: some top_k and all, with routes.
    norms: `||B_t A_t||_F` `[layers, T]` in the layer scope, None in the image scope. Raises `ParityError` with the figures.
    """
    index = bundle.index
    exact = (index.precision, index.expert_precision) == ("fp32", "fp32")
    worst = _Worst(bounds, exact, index.router is None or index.router.precision == "fp32")
    one_by_one = bundle.index.one_by_one
    dense = Session(bundle.graph(bundle.index.dense), [CPU], one_by_one=one_by_one)
    expected_dense = reference.plain if reference.folded is None else reference.folded
    cases: list[Case] = [("dense tower", _runner(dense), partial(worst.embeds, expected_dense))]
    if reference.by_image is not None:
        cases += _image_scope(bundle, reference.plain, reference.by_image, worst)
    if norms is not None:
        cases += _layer_scope(bundle, reference.by_layer, norms, worst)
    for i, (what, run, compare) in enumerate(cases):
        progress("parity", i, len(cases), what)
        for count in BATCHES:
            try:
                outputs = run(reference.pixels[:count])
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise _failed(f"{what}, batch {count}: does not run ({' '.join(str(error).split())[:200]})", True) from error
            compare(f"{what}, batch {count}", outputs, count)
    progress("parity", len(cases), len(cases))
    return worst.parity()


class _Worst:
    """Compares outputs and remembers the worst figures."""

    def __init__(self, bounds: Bounds, exact: bool, exact_router: bool) -> None:
        """exact, exact_router: whether nothing but float rounding may tell outputs from their references."""
        self._bounds = bounds
        self._exact = exact
        self._exact_router = exact_router
        self._cosine, self._max_abs, self._posterior, self._near_ties = 1.0, 0.0, 0.0, 0
        self._agreeing = self._routes = 0

    def parity(self) -> Parity:
        """The figures. Raises `ParityError` where too few routes agree."""
        agreement = self._agreeing / self._routes if self._routes else 1.0
        if not ((self._exact and self._exact_router) or agreement >= self._bounds.route_agreement):
            raise _failed(f"{agreement:.1%} of the routes agree (at least {self._bounds.route_agreement:.1%})", False)
        return Parity(self._cosine, self._max_abs, self._posterior, self._near_ties, agreement)

    def embeds(self, expected: Array, what: str, outputs: Outputs, count: int) -> None:
        """The first `count` embeddings."""
        self._embeds(what, outputs["image_embeds"], expected[:count])

    def router(self, expected: ImageScopeOutputs, what: str, outputs: Outputs, count: int) -> None:
        """Posterior and confidence."""
        posterior, confidence = expected.posterior[:count], expected.confidence[:count]
        difference = float(np.abs(outputs["posterior"] - posterior).max())
        relative = float((np.abs(outputs["confidence"] - confidence) / np.maximum(1, np.abs(confidence))).max())
        if self._exact_router and not (difference <= POSTERIOR and relative <= CONFIDENCE):  # so that NaN fails
            raise _failed(
                f"{what}: probabilities differ by {difference:.1e} (at most {POSTERIOR}), "
                f"confidence by {relative:.1e} of itself (at most {CONFIDENCE})",
                self._exact,
            )
        self._posterior = max(self._posterior, difference)
        self._count(outputs["posterior"].argmax(axis=1) == posterior.argmax(axis=1))

    def routed(self, expected: Routed, norms: Array, what: str, outputs: Outputs, count: int) -> None:
        """Routes, and the embeddings of images whose routes agree everywhere."""
        if self._exact:
            try:
                agree = agreeing_routes(
                    (expected.tasks[:count], expected.weights[:count]),
                    (outputs["route_tasks"], outputs["route_weights"]),
                    norms,
                )
            except RouteMismatchError as error:
                raise _failed(f"{what}: {error}", self._exact) from error
            self._count(agree)
            self._near_ties += int((~agree).sum())
        else:
            tasks = outputs["route_tasks"]  # [count, layers, k]
            same = (tasks[..., None] == expected.tasks[:count, :, None]).any(axis=-1)
            self._count(same)
            agree = same.all(axis=(1, 2))  # where top_k is all tasks, every image: the dense form is always compared
        if agree.any():
            self._embeds(what, outputs["image_embeds"][agree], expected.embeds[:count][agree])

    def _count(self, agreeing: NDArray[np.bool_]) -> None:
        self._agreeing += int(agreeing.sum())
        self._routes += agreeing.size

    def _embeds(self, what: str, actual: Array, expected: Array) -> None:
        cosine = float((actual * expected).sum(axis=1).min())
        max_abs = float(np.abs(actual - expected).max())
        if not (cosine >= self._bounds.cosine and (max_abs <= MAX_ABS or not self._exact)):
            most = f" (at most {MAX_ABS})" if self._exact else ""
            raise _failed(
                f"{what}: cosine {cosine:.7f} (at least {self._bounds.cosine}), largest difference {max_abs:.1e}{most}",
                self._exact,
            )
        self._cosine, self._max_abs = min(self._cosine, cosine), max(self._max_abs, max_abs)


def _image_scope(bundle: Bundle, plain: Array, expected: ImageScopeOutputs, worst: _Worst) -> Iterator[Case]:
    router = bundle.index.router
    assert router is not None
    routing = Session(bundle.graph(router.file), [CPU], one_by_one=router.one_by_one)
    yield "router", _runner(routing), partial(worst.router, expected)
    tower = Session(bundle.graph(bundle.index.tower), [CPU], one_by_one=bundle.index.one_by_one)
    yield "tower without expert", _runner(tower), partial(worst.embeds, plain)
    for task in bundle.index.tasks:
        compare = partial(worst.embeds, expected.experts[task.name])
        if bundle.index.expands:
            read = read_adapter(bundle, task, tower.optional_inputs)
            yield f"expert {task.name}", partial(_run_values, tower, read), compare
        else:
            adapter = map_adapter(bundle, task, tower.optional_inputs)
            yield f"expert {task.name}", _runner(tower, adapter.ready), compare
    if expected.mixture is not None:
        yield "mixture of two", _mixture(bundle, tower), partial(worst.embeds, expected.mixture)


def _mixture(bundle: Bundle, tower: Session) -> Callable[[Array], Outputs]:
    """The tower under the first two tasks' experts by the weights of `reference.MIXTURE`."""
    defaults = bundle.read_defaults()

    def run(pixels: Array) -> Outputs:
        first_two = bundle.index.tasks[:2]
        experts = [read_adapter(bundle, task, tower.optional_inputs) for task in first_two]
        return tower.run({"pixel_values": pixels} | mix(experts, MIXTURE, defaults))

    return run


def _layer_scope(bundle: Bundle, expected: Mapping[int, Routed], norms: Array, worst: _Worst) -> Iterator[Case]:
    tower = Session(bundle.graph(bundle.index.tower), [CPU], one_by_one=bundle.index.one_by_one)
    for k, routed in expected.items():
        run = _runner(tower, top_k=np.array([k], dtype=np.int64))
        yield f"top {k}", run, partial(worst.routed, routed, norms)


def _runner(session: Session, adapter: Callable[[], Any] | None = None, **inputs: NDArray[Any]) -> Callable[[Array], Outputs]:
    return lambda pixels: session.run({"pixel_values": pixels} | inputs, adapter=adapter)


def _run_values(session: Session, expert: dict[str, NDArray[Any]], pixels: Array) -> Outputs:
    return session.run({"pixel_values": pixels, **expert})


def _failed(figures: str, exact: bool) -> ParityError:
    advice = (
        "please report this with mingle.json"
        if exact
        else "calibrate with --images, choose a higher precision, or set another bound"
    )
    return ParityError(f"the graphs do not compute what PyTorch does: {figures}; no bundle was written, {advice}")
