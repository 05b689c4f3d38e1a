"""Values that stay inputs of a session over many runs, wherever they live: bound once, not handed over in every run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BoundInputs:
    """Some inputs of one session with their values; runs from any thread."""

    def __init__(self, session: Any, values: Mapping[str, Any]) -> None:
        """Bind `values`, `onnxruntime.OrtValue`s by input name, to `session`, an `onnxruntime.InferenceSession`."""
        self._session = session
        self._values = dict(values)
        # A binding serves one run at a time; there are as many as runs that overlapped.
        self._free: deque[Any] = deque([self._bind()])

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: list[str], options: Any) -> list[NDArray[Any]]:
        """Return the `outputs` of one run, on the host, with `inputs` beside the bound ones."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = self._bind()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name)  # on the host, of the size that this run finds
        binding.synchronize_inputs()  # some devices copy in the background
        self._session.run_with_iobinding(binding, options)
        arrays: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        for name, array in inputs.items():  # a waiting binding keeps no images
            binding.bind_cpu_input(name, np.empty((0, *array.shape[1:]), array.dtype))
        self._free.append(binding)  # after an error it is let go instead
        return arrays

    def _bind(self) -> Any:
        binding = self._session.io_binding()
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, value)
        return binding
