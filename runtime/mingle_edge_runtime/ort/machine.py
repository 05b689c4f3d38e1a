"""The machine a measurement was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mingle_edge_runtime.ort.processor import read_processor
from mingle_edge_runtime.ort.session import onnxruntime

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine_record() -> dict[str, Any]:
    """Return processor, memory and software of this machine; None for what it does not tell."""
    processor = read_processor()
    return {
        "cpu": processor.name,
        "instruction_sets": None if processor.instruction_sets is None else list(processor.instruction_sets),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": list(os.getloadavg()),
        "governor": next(_lines(_GOVERNOR), None),
        "os": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime().__version__,
    }


def available_memory() -> int | None:
    """Return the bytes that can be used without swapping; None where the system does not tell."""
    for line in _lines(Path("/proc/meminfo")):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _lines(path: Path) -> Iterator[str]:
    try:
        return iter(path.read_text().splitlines())
    except OSError:
        return iter(())
