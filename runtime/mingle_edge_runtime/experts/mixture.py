"""Several experts as one: `sum c_t B_t A_t` is the expert of concatenated ranks, so the tower runs once for any k.

Matrices arrive as the tower's optional inputs have them (`docs/bundle-format.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Parameters: TypeAlias = Mapping[str, NDArray[Any]]
"""The optional inputs of the tower by name."""


def mix(experts: Sequence[Parameters], weights: Sequence[float], defaults: Parameters) -> dict[str, NDArray[Any]]:
    """Return one expert that acts as `sum c_t expert_t`.

    experts: k experts; what one has not, it does not change. weights: their k weights c. defaults: the backbone's vectors.
    """
    mixed: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(name for expert in experts for name in expert):
        having = [(np.float32(weight), expert[name]) for weight, expert in zip(weights, experts, strict=True) if name in expert]
        scales, parts = zip(*having, strict=True)
        kind = name.rsplit(".", 1)[-1]
        if kind == "A_codes":  # [d_in, r] -> [d_in, sum r]
            mixed[name] = np.concatenate(parts, axis=1)
        elif kind in ("A", "B_codes"):  # [r, d] -> [sum r, d]
            mixed[name] = np.concatenate(parts)
        elif kind in ("B", "scale"):  # [r, ...] -> [sum r, ...]; what is in codes takes its weight in the scale of the row
            scaled = [scale * part for scale, part in zip(scales, parts, strict=True)]
            mixed[name] = np.concatenate(scaled).astype(parts[0].dtype)
        else:
            steps = [scale * (part - defaults[name]) for scale, part in zip(scales, parts, strict=True)]
            mixed[name] = defaults[name] + sum(steps)
    return mixed
