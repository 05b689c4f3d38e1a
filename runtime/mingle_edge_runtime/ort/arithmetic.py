"""What this machine multiplies with, and whether its products of 8-bit integers are exact.

x86 processors without VNNI may add two products of an unsigned and a signed byte in 16 bits, where large ones saturate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingle_edge_runtime.ort.processor import Processor, read_processor
from mingle_edge_runtime.ort.session import onnxruntime

_GRAPH = Path(__file__).with_name("integer_product.onnx")  # `activations [1, 64]` uint8 by 64 weights of 127, signed
_FATAL_ONLY = 4  # log severity
_TERMS = 64
EXACT_PRODUCT = _TERMS * 255 * 127
"""The sum of 64 products of the largest unsigned and the largest signed byte."""


@dataclass(frozen=True)
class Arithmetic:
    """The processor, the version of ONNX Runtime, and what the two make of a product of 8-bit integers."""

    processor: Processor
    onnxruntime: str
    """version"""
    product: int
    """what they compute for `EXACT_PRODUCT`"""

    @property
    def saturation(self) -> str | None:
        """Return the product beside the exact one, as in `64 x 255 by 64 x 127 gives 1048544, not 2072640`; None if exact."""
        if self.product == EXACT_PRODUCT:
            return None
        return f"{_TERMS} x 255 by {_TERMS} x 127 gives {self.product}, not {EXACT_PRODUCT}"

    def __str__(self) -> str:
        return f"{self.processor}, onnxruntime {self.onnxruntime}"


def measure_arithmetic(providers: Sequence[str]) -> Arithmetic:
    """Multiply the largest codes on `providers`, full names in order of preference."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1  # one product needs no pool of threads
    session = ort.InferenceSession(str(_GRAPH), options, providers=list(providers))
    (product,) = session.run(None, {"activations": np.full((1, _TERMS), 255, np.uint8)})
    return Arithmetic(read_processor(), str(ort.__version__), int(product.item()))
