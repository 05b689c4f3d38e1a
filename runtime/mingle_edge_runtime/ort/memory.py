"""Memory of this process, split by what backs it: anonymous pages cost memory, file pages are given back under pressure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MAPPINGS = Path("/proc/self/smaps")


@dataclass(frozen=True)
class ProcessMemory:
    """Resident memory of this process."""

    resident: int
    """bytes"""
    anonymous: int | None
    """bytes not backed by a file; None where the system does not tell"""
    file: int | None
    """bytes of mapped files; None where the system does not tell"""
    peak: int
    """bytes resident at most so far"""
    source: str
    """where the figures come from"""


def process_memory() -> ProcessMemory:
    """Return what this process has in memory now; where there is no `/proc`, the peak so far stands for it."""
    peak = _peak()
    try:
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        resident, anonymous, file, shared = (
            int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")
        )
    except (OSError, KeyError):
        return ProcessMemory(peak, None, None, peak, "getrusage: the peak so far, not the present")
    # The system counts in batches per thread: the two may disagree by some pages.
    return ProcessMemory(resident, anonymous + shared, file, max(peak, resident), str(_STATUS))


def mapped_bytes(folder: Path) -> dict[str, int] | None:
    """Return the bytes in memory of each file under `folder` that this process has mapped, by path relative to that.

    The system maps what surrounds a touched page, too, where that is in its cache: up to 64 KiB, or the whole folio of up to
    2 MiB that it keeps the page in. None where the system does not tell.
    """
    try:
        lines = _MAPPINGS.read_text().splitlines()
    except OSError:
        return None
    start = f"{folder.resolve()}/"
    sizes: dict[str, int] = {}
    name = ""
    for line in lines:
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):  # address, permissions, offset, device, inode, path
            path = rest[4] if len(rest) == 5 else ""
            name = path.removeprefix(start) if path.startswith(start) else ""
        elif name and first == "Rss:":
            sizes[name] = sizes.get(name, 0) + int(rest[0]) * 1024
    return sizes


def _peak() -> int:
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
