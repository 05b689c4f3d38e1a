"""One cell of the matrix: a bundle on a device with one version of ONNX Runtime, and whether its answers are right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from devices.cases import Case

LEAST_COSINE = {True: 0.9999, False: 0.999}
"""with every golden output and every answer of this machine; True: a bundle in fp32 alone"""

State = Literal["right", "wrong", "not measured"]


@dataclass(frozen=True)
class Share:
    """How many of a number of things are equal."""

    equal: int
    total: int

    @property
    def whole(self) -> bool:
        """Whether all are."""
        return self.equal == self.total


@dataclass(frozen=True)
class Run:
    """The answers of one way to run a bundle: `named`, `routed`, or `folded`."""

    name: str
    golden_cosine: float | None
    """the smallest with the golden outputs, which in fp32 are PyTorch's; None where they hold none of this run"""
    host_cosine: float
    """the smallest with this machine's answers, over all images"""
    difference: float
    """the largest of an element, in both comparisons"""
    routes: Share
    labels: Share
    seconds: float
    """of all images on the device"""


@dataclass(frozen=True)
class Cell:
    """What was measured, or why nothing was."""

    device: str
    version: str
    """as the device's file has it"""
    bundle: str
    state: State
    reason: str = ""
    """why it is wrong or not measured"""
    installed: dict[str, str] = field(default_factory=dict)
    """versions of packages on the device"""
    runs: tuple[Run, ...] = ()
    products: Share | None = None
    """matrices whose integer products are bit-equal to numpy's; None where the bundle multiplies no integers in 8 bits"""
    full_codes: int | None = None
    """what the device makes of 64 x 255 by 64 x 127, codes larger than a bundle has; right is 2072640"""
    date: str = ""
    key: str = ""
    """of all that went into it"""

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cell:
        """Read what `dataclasses.asdict` wrote."""
        runs = [
            Run(**{**run, "routes": Share(**run["routes"]), "labels": Share(**run["labels"])}) for run in record.pop("runs")
        ]
        products = record.pop("products")
        return cls(**record, runs=tuple(runs), products=Share(**products) if products else None)


def judge(case: Case, measured: dict[str, Any]) -> tuple[tuple[Run, ...], Share | None, list[str]]:
    """Compare a device's answers with the golden outputs, with this machine's and with numpy's products.

    Returns the runs, the share of equal products, and what is wrong.
    """
    index, golden, reference = case.bundle.index, case.golden(), case.read("reference.json")
    stages = index.router.stages if index.router else ()
    lossless = {index.precision, index.expert_precision, *(stage.precision for stage in stages)} == {"fp32"}
    runs = []
    for name in ("named", "routed"):
        routed = name == "routed"
        pairs = _golden_pairs(index.scope, name, golden, measured, reference["routes"], index.task_names)
        host = (np.array(measured[name]), np.array(reference[name]))
        total = len(reference["routes"])
        runs.append(
            Run(
                "folded" if index.scope == "folded" else name,
                _cosine(*pairs) if pairs else None,
                _cosine(*host),
                max(float(np.abs(a - b).max()) for a, b in filter(None, (pairs, host))),
                _equal(measured["routes"], reference["routes"]) if routed else Share(total, total),
                _equal(measured["labels"], reference["labels"]),
                measured["seconds"][name],
            )
        )
    if index.scope == "folded":
        runs = runs[1:]  # a task is all there is to name
    expected = case.read("products.json")
    products = Share(sum(measured["products"].get(k) == v for k, v in expected.items()), len(expected)) if expected else None
    return tuple(runs), products, list(_wrong(runs, products, LEAST_COSINE[lossless]))


def _wrong(runs: list[Run], products: Share | None, least: float) -> Any:
    for run in runs:
        cosine = min(run.host_cosine, 1.0 if run.golden_cosine is None else run.golden_cosine)
        if not cosine >= least:
            yield f"{run.name}: cosine {cosine:.6f}, at least {least} is needed"
        if not run.routes.whole:
            yield f"{run.name}: {run.routes.total - run.routes.equal} of {run.routes.total} routes differ"
    if products is not None and not products.whole:
        yield f"{products.total - products.equal} of {products.total} integer products differ from numpy's"


def _golden_pairs(
    scope: str,
    run: str,
    golden: dict[str, NDArray[Any]],
    measured: dict[str, Any],
    routes: list[list[str]],
    tasks: tuple[str, ...],
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """What was measured of the golden images in one run, and the golden outputs for it."""
    count = len(golden["images"])
    if scope == "layer":
        return (np.array(measured["golden"]), golden["embeds"]) if run == "routed" else None
    if run == "named":
        return np.array(measured["named"])[:, :count], golden["embeds"]
    if scope == "folded":
        return np.array(measured["routed"])[:count], golden["embeds"][0]
    expected = [
        golden["embeds"][tasks.index(route[0]), i] if route else golden["plain"][i] for i, route in enumerate(routes[:count])
    ]
    return np.array(measured["routed"])[:count], np.stack(expected)


def _cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float(np.min(np.nan_to_num(cosine, nan=-1.0)))  # NaN or zero answers are as wrong as can be


def _equal(actual: list[Any], expected: list[Any]) -> Share:
    return Share(sum(a == b for a, b in zip(actual, expected, strict=True)), len(expected))
