"""Memory of this process at a moment of a profile."""

from __future__ import annotations

from mingle_edge_runtime.memory import process_memory
from mingle_edge_runtime.profile.report import Memory


def memory_now() -> Memory:
    """What the process has resident; the peak so far where the system tells no more."""
    found = process_memory()
    return Memory(found.resident, found.anonymous, found.file)
