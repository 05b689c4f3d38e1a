"""Choosing where merging and evaluation compute."""

import torch

from mingle_edge.core.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA when there is one, else the CPU. Raises `DeviceError` where it does not
    exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': PyTorch sees no CUDA device here; use 'cpu' or 'auto', or check the driver")
    if name not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not one of auto, cpu, cuda")
    return torch.device(name)
