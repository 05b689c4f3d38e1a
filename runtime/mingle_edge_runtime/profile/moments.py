"""Memory of this process at the moments of a profile."""

from __future__ import annotations

import ctypes

from mingle_edge_runtime.ort.memory import process_memory
from mingle_edge_runtime.profile.report import Memory


def memory_now() -> Memory:
    """Return what the process has resident; the peak so far where the system tells no more."""
    memory = process_memory()
    return Memory(memory.resident, memory.anonymous, memory.file)


def memory_before() -> Memory:
    """Give back what was freed, so that nothing opened next hides in it (with glibc alone), and return `memory_now`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return memory_now()
