"""Reading a part of a mapped file at once, before it is touched.

A run that touches a file that is not in the system's cache waits for the disk at every page, or every window of pages, in
turn. Requests for all of it, placed before anything waits, keep the disk busy. Linux serves a request only up to the device's
read-ahead window, 128 KiB unless configured otherwise, and ignores the rest, so there is a request per window;
`benchmarks/cold_expert.py` compares the ways to read.
"""

from __future__ import annotations

import errno
import mmap

import numpy as np

_WINDOW = 128 << 10  # bytes; Linux's read-ahead window unless configured otherwise
_MADV_POPULATE_READ = 22  # Linux 5.14 and newer; Python has no name for it


def read_in(mapping: mmap.mmap, start: int, end: int) -> None:
    """Return when bytes `start`, a multiple of the system's page size, to `end` are in memory.

    Raises `OSError` where the file cannot be read or has become too short, as far as the system tells (Linux 5.14).
    """
    if hasattr(mapping, "madvise"):
        for offset in range(start, end, _WINDOW):
            mapping.madvise(mmap.MADV_WILLNEED, offset, min(_WINDOW, end - offset))
        try:
            mapping.madvise(_MADV_POPULATE_READ, start, end - start)
        except OSError as error:
            if error.errno != errno.EINVAL:  # which an older kernel or another system says
                raise
        else:
            return
    np.frombuffer(mapping, np.uint8)[start : end : mmap.PAGESIZE].sum()
