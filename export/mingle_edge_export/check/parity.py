"""The gate of every export: the bundle's graphs in ONNX Runtime against the PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mingle_edge.core.progress import Progress
from mingle_edge_export.check.reference import MIXTURE, Outputs, Reference
from mingle_edge_export.check.route_parity import RouteMismatchError, agreeing_routes
from mingle_edge_export.errors import ParityError
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.options import Bounds
from mingle_edge_export.report import Parity, PartParity
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.bundle.index import Router, Task
from mingle_edge_runtime.experts.adapter import map_adapter, read_adapter
from mingle_edge_runtime.experts.mixture import mix
from mingle_edge_runtime.ort.session import CPU, EMBEDDINGS, Session

BATCHES = (1, 2, 7)
MAX_ABS = 1e-4  # of embeddings, as a share of their length, in fp32
POSTERIOR = 1e-3  # at most, of probabilities: so the most probable task is the same wherever it leads by twice that
CONFIDENCE = 1e-3  # at most, relative
_REPORT = "please report this with mingle.json"


class Case(NamedTuple):
    """One way to run a graph, and what must come out."""

    title: str
    session: Session
    expected: Outputs
    inputs: Outputs | None = None
    """besides those of each image"""
    adapter: Callable[[], Any] | None = None
    rows: Outputs | None = None
    """what it reads of each image; `pixel_values` where None"""


def check_parity(bundle: Bundle, reference: Reference, norms: Array | None, bounds: Bounds, progress: Progress) -> Parity:
    """Compare every graph of a bundle with the reference at batch 1, 2 and 7.

    In fp32 elements, posteriors and gate values must be equal to rounding; at other precisions the bounds decide.

    Image scope: no expert, each stage of the router, each expert alone, a mixture of two. Layer scope: some top_k and all, with
    routes.
    norms: `||B_t A_t||_F` `[layers, T]` in the layer scope, None in the others. Raises `ParityError` with the figures of every
    part, once all are compared.
    """
    comparison = Comparison(bundle, norms, bounds)
    total = 1 + len(reference.routed) + len(reference.experts) + len(reference.stages) + bool(reference.mixture)
    total += bool(reference.stages)  # the tower without an expert
    for i, (title, session, expected, inputs, adapter, rows) in enumerate(_cases(bundle, reference)):
        progress("parity", i, total, title)
        for count in BATCHES:
            what = f"{title}, batch {count}"
            try:
                given = {name: values[:count] for name, values in (rows or {"pixel_values": reference.pixels}).items()}
                outputs = session.run({**given, **(inputs or {})}, adapter)
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise comparison.failed(f"{what}: does not run ({' '.join(str(error).split())[:200]})", _REPORT) from error
            comparison.compare(title, what, outputs, {name: value[:count] for name, value in expected.items()})
    progress("parity", total, total)
    return comparison.parity()


def _cases(bundle: Bundle, reference: Reference) -> Iterator[Case]:
    """Yield every case, with one expert in memory at a time."""
    index, router = bundle.index, bundle.index.router
    yield Case("dense tower", Session(bundle.graph(index.dense), [CPU], one_by_one=index.one_by_one), reference.plain)
    if index.scope == "folded":
        return
    tower = Session(bundle.graph(index.tower), [CPU], one_by_one=index.one_by_one)
    for k, outputs in reference.routed.items():
        yield Case(f"top {k}", tower, outputs, {"top_k": np.array([k], dtype=np.int64)})
    if router is None:
        return
    yield Case("tower without expert", tower, reference.plain)
    yield from _stages(bundle, router, tower, reference)
    for task in index.tasks:
        yield Case(f"expert {task.name}", tower, reference.experts[task.name], *expert_inputs(bundle, task, tower))
    if reference.mixture is not None:
        experts = [read_adapter(bundle, task, tower.optional_inputs) for task in index.tasks[:2]]
        yield Case("mixture of two", tower, reference.mixture, mix(experts, MIXTURE, bundle.read_defaults()))


def _stages(bundle: Bundle, router: Router, tower: Session, reference: Reference) -> Iterator[Case]:
    """Yield the stages of the router, each on what the bundle's own graphs before it compute."""
    features: Outputs = {}
    for stage, expected in zip(router.stages, reference.stages, strict=True):
        session = Session(bundle.graph(stage.file), [CPU], one_by_one=router.one_by_one)
        rows: Outputs = {"pixel_values": reference.pixels}
        if stage.name == "embedding":
            rows = {EMBEDDINGS: tower.run(rows)[EMBEDDINGS]}
        rows = {**rows, **features}
        yield Case(f"router, {stage.name}", session, expected, rows=rows)
        if stage is not router.stages[-1]:
            features = {"previous_features": session.run(rows)["features"]}


def expert_inputs(bundle: Bundle, task: Task, tower: Session) -> tuple[Outputs, Callable[[], Any] | None]:
    """Return the inputs, besides images, and the adapter that make the tower run under one task's expert alone."""
    index = bundle.index
    if index.scope == "layer":
        mask = np.array([name == task.name for name in index.task_names], np.float32)
        return {"task_mask": mask, "top_k": np.array([1], np.int64)}, None
    if index.expands(task):
        return read_adapter(bundle, task, tower.optional_inputs), None
    return {}, map_adapter(bundle, task, tower.optional_inputs).ready if index.scope == "image" else None


@dataclass
class _Worst:
    """Figures of one part."""

    cosine: float = math.inf
    agreeing: int = 0
    routes: int = 0


class Comparison:
    """Compares outputs, and remembers the worst figures and what is beyond its bound."""

    def __init__(self, bundle: Bundle, norms: Array | None, bounds: Bounds) -> None:
        index = bundle.index
        self.bounds = bounds
        self.norms = norms
        # Whether nothing but float rounding may tell outputs from their references.
        stored = {index.precision, *(task.precision for task in index.tasks)}
        self.exact = stored == {"fp32"}
        stages = index.router.stages if index.router else ()
        self.exact_router = all(stage.precision == "fp32" for stage in stages) and (
            index.precision == "fp32" or all(stage.name != "embedding" for stage in stages)
        )
        self.calibrates = "int8" in stored
        self.max_abs, self.posterior, self.near_ties = 0.0, 0.0, 0
        self.parts: dict[str, _Worst] = {}
        self.faults: list[tuple[str, str]] = []
        """what is wrong and how much, with the next step"""

    def compare(self, part: str, what: str, outputs: Outputs, expected: Outputs) -> None:
        """Compare those outputs of a part that are expected; embeddings of images whose routes agree everywhere."""
        worst = self.parts.setdefault(part, _Worst())
        if "posterior" in expected:
            confidence = expected["confidence"]
            losses = expected["losses"]
            difference = max(float(np.abs(outputs[name] - expected[name]).max()) for name in ("posterior", "losses"))
            relative = float((np.abs(outputs["confidence"] - confidence) / np.maximum(1, np.abs(confidence))).max())
            if self.exact_router and not (difference <= POSTERIOR and relative <= CONFIDENCE):  # so that NaN fails
                figures = (
                    f"{difference:.1e} (at most {POSTERIOR}), confidence by {relative:.1e} of itself (at most {CONFIDENCE})"
                )
                self.faults.append((f"{what}: probabilities or expected losses differ by {figures}", _REPORT))
            self.posterior = max(self.posterior, difference)
            worst.agreeing += int((outputs["losses"].argmin(axis=1) == losses.argmin(axis=1)).sum())
            worst.routes += len(losses)
            return
        actual, wanted = outputs["image_embeds"], expected["image_embeds"]
        if "route_tasks" in expected:
            agree = self._compare_routes(worst, what, outputs, expected)
            actual, wanted = actual[agree], wanted[agree]
        if not len(wanted):
            return
        length, own = (np.linalg.norm(embeds, axis=1, keepdims=True) for embeds in (wanted, actual))
        cosine = float((actual * wanted / (own * length)).sum(axis=1).min())
        max_abs = float((np.abs(actual - wanted) / length).max())
        if not (cosine >= self.bounds.cosine and (max_abs <= MAX_ABS or not self.exact)):
            most = f" (at most {MAX_ABS})" if self.exact else ""
            figures = f"cosine {cosine:.7f} (at least {self.bounds.cosine}), largest difference {max_abs:.1e}{most}"
            self.faults.append((f"{what}: {figures}", _REPORT if self.exact else self._allow("--min-cosine")))
        worst.cosine, self.max_abs = float(np.minimum(worst.cosine, cosine)), max(self.max_abs, max_abs)

    def parity(self) -> Parity:
        """Return the worst figures of all parts. Raises `ParityError` where one is beyond its bound."""
        agreeing, routes = (sum(getattr(worst, name) for worst in self.parts.values()) for name in ("agreeing", "routes"))
        agreement = agreeing / routes if routes else 1.0
        if not ((self.exact and self.exact_router) or agreement >= self.bounds.route_agreement):
            figures = f"{agreement:.1%} of the routes agree (at least {self.bounds.route_agreement:.1%})"
            self.faults.append((figures, self._allow("--min-route-agreement")))
        if self.faults:
            raise self.failed(*self.faults[0])
        cosine = min([1.0, *(worst.cosine for worst in self.parts.values())])
        return Parity(cosine, self.max_abs, self.posterior, self.near_ties, agreement, self._figures())

    def failed(self, figures: str, advice: str) -> ParityError:
        """Return the error to raise for the first fault."""
        more = f", and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
        return ParityError(
            f"the graphs do not compute what PyTorch does: {figures}{more}; no bundle was written, {advice}", self._figures()
        )

    def _allow(self, option: str) -> str:
        """Return the next step where precision costs more than is allowed; int8 is what calibration helps."""
        calibrate = "calibrate with --images, " if self.calibrates else ""
        return f"{calibrate}choose a higher precision, or allow it with {option}"

    def _figures(self) -> list[PartParity]:
        return [
            PartParity(part, None if worst.cosine == math.inf else worst.cosine, worst.agreeing, worst.routes)
            for part, worst in self.parts.items()
        ]

    def _compare_routes(self, worst: _Worst, what: str, outputs: Outputs, expected: Outputs) -> NDArray[np.bool_]:
        """Return which images `[n]` have routes that agree in every layer."""
        routes, actual = ((each["route_tasks"], each["route_weights"]) for each in (expected, outputs))
        if self.exact and self.norms is not None:
            try:
                same = agree = agreeing_routes(routes, actual, self.norms)
            except RouteMismatchError as error:
                self.faults.append((f"{what}: {error}", _REPORT))
                return np.zeros(len(routes[0]), dtype=bool)
            self.near_ties += int((~agree).sum())
        else:
            same = (actual[0][..., None] == routes[0][:, :, None]).any(axis=-1)  # [n, layers, k]
            agree = same.all(axis=(1, 2))  # where top_k is all tasks, every image: the dense form is always compared
        worst.agreeing += int(same.sum())
        worst.routes += same.size
        return agree
