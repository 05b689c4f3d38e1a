"""How much of the cores' time went to this process, to other ones, and to other guests of a virtual machine's host."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_LINE = re.compile(r"^cpu(\d+) (.+)$", re.MULTILINE)
_IDLE = 3, 4  # of a core's times: idle, and idle while a disk works
_STOLEN = 7
_TIMES = 8  # those after them, of guests, are counted in the first two


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of the cores that this process may use, all together, since the machine started."""

    total: float
    busy: float
    """of any process, or of the system"""
    stolen: float
    """that the host of this virtual machine gave to other guests while there was work here"""
    own: float
    """of this process, since it started"""

    def since(self, before: ProcessorTime) -> ProcessorTime:
        """Return the seconds from `before` to this moment."""
        return ProcessorTime(
            self.total - before.total, self.busy - before.busy, self.stolen - before.stolen, self.own - before.own
        )


def processor_time() -> ProcessorTime | None:
    """Read `/proc/stat`, which counts in hundredths of a second; None where the system does not tell."""
    try:
        lines = dict(_LINE.findall(_STAT.read_text()))
        cores = [[int(time) for time in lines[str(core)].split()[:_TIMES]] for core in os.sched_getaffinity(0)]
        total = sum(map(sum, cores))
        idle, stolen = (sum(times[i] for times in cores for i in indices) for indices in (_IDLE, [_STOLEN]))
        tick = 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, KeyError, IndexError, ValueError):  # another system, or a sandbox that hides cores
        return None
    own = os.times()
    return ProcessorTime(tick * total, tick * (total - idle - stolen), tick * stolen, own.user + own.system)
