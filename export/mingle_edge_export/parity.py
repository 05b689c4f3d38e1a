"""The gate of every export: the bundle's graphs in ONNX Runtime against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.progress import Progress
from mingle_edge_export.errors import ParityError
from mingle_edge_export.graph import Array
from mingle_edge_export.reference import MIXTURE, ImageScopeOutputs, Reference, Routed, compared_top_k
from mingle_edge_export.route_parity import RouteMismatchError, agreeing_routes
from mingle_edge_runtime.adapter import map_adapter, read_adapter
from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.mixture import mix
from mingle_edge_runtime.session import CPU, Session

BATCHES = (1, 2, 7)
COSINE = 0.99999  # at least
MAX_ABS = 1e-4  # at most, of embeddings of unit length
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
    """runs of an image that took another expert of equal contribution, to rounding, and were not compared further"""


def check_parity(bundle: Bundle, reference: Reference, norms: Array | None, progress: Progress) -> Parity:
    """Compare every graph of a bundle with the reference at batch 1, 2 and 7.

    Image scope: no expert, each expert alone, a mixture of two, the router. Layer scope: top_k 1, 2 and all, with routes.
    norms: `||B_t A_t||_F` `[layers, T]` in the layer scope, None in the image scope. Raises `ParityError` with the figures.
    """
    worst = _Worst()
    dense = Session(bundle.graph(bundle.index.dense), [CPU])
    cases: list[Case] = [("dense tower", _runner(dense), partial(worst.embeds, reference.plain))]
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
                raise _failed(f"{what}, batch {count}: does not run ({' '.join(str(error).split())[:200]})") from error
            compare(f"{what}, batch {count}", outputs, count)
    progress("parity", len(cases), len(cases))
    return Parity(worst.cosine, worst.max_abs, worst.posterior, worst.near_ties)


class _Worst:
    """Compares outputs and remembers the worst figures."""

    def __init__(self) -> None:
        self.cosine, self.max_abs, self.posterior, self.near_ties = 1.0, 0.0, 0.0, 0

    def embeds(self, expected: Array, what: str, outputs: Outputs, count: int) -> None:
        """The first `count` embeddings."""
        self._embeds(what, outputs["image_embeds"], expected[:count])

    def router(self, expected: ImageScopeOutputs, what: str, outputs: Outputs, count: int) -> None:
        """Posterior and confidence."""
        posterior, confidence = expected.posterior[:count], expected.confidence[:count]
        difference = float(np.abs(outputs["posterior"] - posterior).max())
        relative = float((np.abs(outputs["confidence"] - confidence) / np.maximum(1, np.abs(confidence))).max())
        if not (difference <= POSTERIOR and relative <= CONFIDENCE):  # so that NaN fails
            raise _failed(
                f"{what}: probabilities differ by {difference:.1e} (at most {POSTERIOR}), "
                f"confidence by {relative:.1e} of itself (at most {CONFIDENCE})"
            )
        self.posterior = max(self.posterior, difference)

    def routed(self, expected: Routed, norms: Array, what: str, outputs: Outputs, count: int) -> None:
        """Routes, and the embeddings of images whose routes agree everywhere."""
        try:
            agree = agreeing_routes(
                (expected.tasks[:count], expected.weights[:count]), (outputs["route_tasks"], outputs["route_weights"]), norms
            )
        except RouteMismatchError as error:
            raise _failed(f"{what}: {error}") from error
        self.near_ties += int((~agree).sum())
        if agree.any():
            self._embeds(what, outputs["image_embeds"][agree], expected.embeds[:count][agree])

    def _embeds(self, what: str, actual: Array, expected: Array) -> None:
        cosine = float((actual * expected).sum(axis=1).min())
        max_abs = float(np.abs(actual - expected).max())
        if not (cosine >= COSINE and max_abs <= MAX_ABS):
            raise _failed(
                f"{what}: cosine {cosine:.7f} (at least {COSINE}), largest difference {max_abs:.1e} (at most {MAX_ABS})"
            )
        self.cosine, self.max_abs = min(self.cosine, cosine), max(self.max_abs, max_abs)


def _image_scope(bundle: Bundle, plain: Array, expected: ImageScopeOutputs, worst: _Worst) -> Iterator[Case]:
    router = bundle.index.router
    assert router is not None
    yield "router", _runner(Session(bundle.graph(router.file), [CPU])), partial(worst.router, expected)
    tower = Session(bundle.graph(bundle.index.tower), [CPU])
    yield "tower without expert", _runner(tower), partial(worst.embeds, plain)
    for task in bundle.index.tasks:
        adapter = map_adapter(bundle.file(str(task.expert)), task.expert_bytes, task.name)
        yield f"expert {task.name}", _runner(tower, adapter), partial(worst.embeds, expected.experts[task.name])
    if expected.mixture is not None:
        yield "mixture of two", _mixture(bundle, tower), partial(worst.embeds, expected.mixture)


def _mixture(bundle: Bundle, tower: Session) -> Callable[[Array], Outputs]:
    """The tower under the first two tasks' experts by the weights of `reference.MIXTURE`."""
    defaults = bundle.read_defaults()

    def run(pixels: Array) -> Outputs:
        first_two = bundle.index.tasks[:2]
        experts = [
            read_adapter(bundle.file(str(task.expert)), task.expert_bytes, task.name, tower.optional_inputs)
            for task in first_two
        ]
        return tower.run({"pixel_values": pixels} | mix([expert.arrays() for expert in experts], MIXTURE, defaults))

    return run


def _layer_scope(bundle: Bundle, expected: Mapping[int, Routed], norms: Array, worst: _Worst) -> Iterator[Case]:
    tower = Session(bundle.graph(bundle.index.tower), [CPU])
    for k in compared_top_k(len(expected)):
        run = _runner(tower, top_k=np.array([k], dtype=np.int64))
        yield f"top {k}", run, partial(worst.routed, expected[k], norms)


def _runner(session: Session, adapter: Any = None, **inputs: NDArray[Any]) -> Callable[[Array], Outputs]:
    return lambda pixels: session.run({"pixel_values": pixels} | inputs, adapter=adapter)


def _failed(figures: str) -> ParityError:
    return ParityError(
        f"the graphs do not compute what PyTorch does: {figures}; no bundle was written, please report this with mingle.json"
    )
