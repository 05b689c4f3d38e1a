"""The gate of every export: the bundle's graphs in ONNX Runtime against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge.progress import Progress
from mingle_edge_export.errors import ParityError
from mingle_edge_export.graph import Array
from mingle_edge_export.reference import MIXTURE, Reference, compared_top_k
from mingle_edge_export.route_parity import agreeing_routes
from mingle_edge_runtime.adapter import map_adapter, read_adapter
from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.mixture import mix
from mingle_edge_runtime.session import CPU, Session

BATCHES = (1, 2, 7)
COSINE = 0.99999  # at least
MAX_ABS = 1e-4  # at most, of embeddings of unit length
POSTERIOR = 1e-3  # at most, of probabilities: so the most probable task is the same wherever it leads by twice that
CONFIDENCE = 1e-3  # at most, relative

Run = Callable[[Array], dict[str, NDArray[Any]]]
"""pixel_values -> outputs by name"""


@dataclass(frozen=True)
class Parity:
    """How far the graphs are from the reference, at most."""

    cosine: float  # of an embedding with its reference, the smallest
    max_abs: float  # difference of an element of an embedding
    posterior: float | None  # difference of a probability; None in the layer scope
    near_ties: int  # routes that took another expert of equal contribution, to rounding, and were not compared further


class _Figures:
    """The worst so far."""

    def __init__(self) -> None:
        self.cosine = 1.0
        self.max_abs = 0.0
        self.posterior: float | None = None
        self.near_ties = 0

    def embeds(self, what: str, actual: Array, expected: Array) -> None:
        cosine = float((actual * expected).sum(axis=1).min())
        max_abs = float(np.abs(actual - expected).max())
        if not (cosine >= COSINE and max_abs <= MAX_ABS):  # so that NaN fails
            raise ParityError(
                f"{what}: cosine {cosine:.7f} (must be at least {COSINE}), largest difference {max_abs:.1e} (at most {MAX_ABS}) "
                "from the PyTorch model; no bundle was written, please report this with the merged model's mingle.json"
            )
        self.cosine, self.max_abs = min(self.cosine, cosine), max(self.max_abs, max_abs)

    def routes(self, what: str, outputs: dict[str, NDArray[Any]], posterior: Array, confidence: Array) -> None:
        difference = float(np.abs(outputs["posterior"] - posterior).max())
        relative = float((np.abs(outputs["confidence"] - confidence) / np.maximum(1, np.abs(confidence))).max())
        if not (difference <= POSTERIOR and relative <= CONFIDENCE):
            raise ParityError(
                f"{what}: the posterior differs by {difference:.1e} (at most {POSTERIOR}), the confidence by {relative:.1e} of "
                f"itself (at most {CONFIDENCE}) from the PyTorch model; no bundle was written, please report this"
            )
        self.posterior = max(self.posterior or 0.0, difference)


def check_parity(bundle: Bundle, reference: Reference, norms: Array, progress: Progress) -> Parity:
    """Compare every graph of a bundle with the reference at batch 1, 2 and 7.

    Image scope: no expert, each expert alone, a mixture of two, the router. Layer scope: top_k 1, 2 and all, with routes.
    norms: `||B_t A_t||_F` `[layers, T]`, in the layer scope. Raises `ParityError` with the figures.
    """
    figures = _Figures()
    dense = Session(bundle.graph(bundle.index.dense), [CPU])
    cases = [("the dense tower", _plain(dense), reference.plain)]
    if bundle.index.scope == "image":
        _check_router(bundle, reference, figures)
        cases = [*cases, *_image_scope(bundle, reference)]
    total = len(cases)
    tower = Session(bundle.graph(bundle.index.tower), [CPU])
    ...
