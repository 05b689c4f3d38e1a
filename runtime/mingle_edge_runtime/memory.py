"""Memory of this process, split by what backs it: anonymous pages cost memory, file pages are given back under pressure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class ProcessMemory:
    """Resident memory of this process."""

    resident: int
    """bytes"""
    anonymous: int | None
    """bytes not backed by a file; None where the system does not tell"""
    file: int | None
    """bytes of mapped files; None where the system does not tell"""
    source: str
    """where the figures come from"""


def process_memory() -> ProcessMemory:
    """What this process has in memory now; the peak so far on systems without `/proc`."""
    try:
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        resident, anonymous, file, shared = (
            int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")
        )
    except (OSError, KeyError):
        return _peak()
    return ProcessMemory(resident, anonymous + shared, file, str(_STATUS))


def _peak() -> ProcessMemory:
    import resource  # not on Windows; Linux does not get here

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return ProcessMemory(peak, None, None, "getrusage: the peak so far, not the present")
