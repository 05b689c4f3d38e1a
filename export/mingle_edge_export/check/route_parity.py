"""Whether two implementations chose the same experts wherever contributions differ by more than rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.graph.builder import Array

CLOSE = 1e-3  # what rounding may do to a gate value or contribution, relative to the largest one of the layer

Routes = tuple[NDArray[np.int64], Array]
"""tasks and gate values, both [n, layers, k]"""


class RouteMismatchError(Exception):
    """Another expert was chosen although it contributes less, or a gate has another value. The message says where."""


def agreeing_routes(expected: Routes, actual: Routes, norms: Array) -> NDArray[np.bool_]:
    """Return which images `[n]` have routes that agree in every layer.

    In the layer where an image's routes part, the exchanged experts must have equal contributions `|s_t| ||B_t A_t||_F` (norms
    `[layers, T]`); what follows in that image cannot be compared. Raises `RouteMismatchError`.
    """
    (chosen, gates), (other_chosen, other_gates) = (_by_task(routes, norms.shape[1]) for routes in (expected, actual))
    parted = (chosen != other_chosen).any(axis=2)  # [n, layers]
    layers = parted.shape[1]
    first = np.where(parted.any(axis=1), parted.argmax(axis=1), layers)  # [n]
    comparable = np.arange(layers) < first[:, None]  # [n, layers]
    scale = np.abs(gates).max(axis=(0, 2)) + np.finfo(np.float32).tiny  # [layers]
    off = np.abs(gates - other_gates).max(axis=2) / scale * comparable  # [n, layers]
    if not off.max() <= CLOSE:  # so that NaN fails
        image, layer = np.unravel_index(off.argmax(), off.shape)
        raise RouteMismatchError(f"gate values of image {image}, gated layer {layer} differ by {off.max():.1e} of the largest")
    contributions = np.maximum(np.abs(gates), np.abs(other_gates)) * norms  # [n, layers, T]
    for image, layer in enumerate(first):
        if layer < layers:
            exchanged = contributions[image, layer][chosen[image, layer] != other_chosen[image, layer]]
            margin = np.ptp(exchanged) / contributions[:, layer].max()
            if not margin <= CLOSE:
                raise RouteMismatchError(
                    f"image {image} takes other experts in gated layer {layer}, by {margin:.1e} of the largest contribution"
                )
    return np.asarray(first == layers)


def _by_task(routes: Routes, tasks: int) -> tuple[NDArray[np.bool_], Array]:
    """Return which tasks were chosen, and their gate values, 0 for the others: both `[n, layers, T]`."""
    numbers, values = routes
    shape = (*numbers.shape[:2], tasks)
    chosen, gates = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    np.put_along_axis(chosen, numbers, True, axis=2)
    np.put_along_axis(gates, numbers, values, axis=2)
    return chosen, gates
