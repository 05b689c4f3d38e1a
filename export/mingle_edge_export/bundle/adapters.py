"""Experts of the image scope as files in ONNX Runtime's adapter format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_export.errors import OutputError

VERSION = 1  # of the adapter and of the model it is for; ONNX Runtime stores both and checks neither


def write_adapter(path: Path, values: Mapping[str, NDArray[Any]]) -> None:
    """Write one expert; values: every optional input of the tower by name. Raises `OutputError` where that fails."""
    import onnxruntime

    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    # The adapter keeps views without owning them: the arrays must outlive export_adapter, or garbage is written.
    arrays = {name: np.ascontiguousarray(value) for name, value in sorted(values.items())}
    parameters = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    adapter.set_parameters(parameters)
    try:
        adapter.export_adapter(str(path))
    except RuntimeError as error:
        raise OutputError(
            f"{path}: ONNX Runtime could not write the expert; check the space left and the permissions"
        ) from error
