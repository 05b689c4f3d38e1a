"""Asking the system to read a part of a file before it is touched.

Linux serves one such request only up to the device's read-ahead window, 128 KiB unless configured otherwise, and ignores the
rest, so a large part takes one request per window. (Measured: 44 MB of a cold file touched 0.03 s after requests per
window, 0.6 s after a single request, 0.7 s after none, with `MADV_RANDOM`.)
"""

from __future__ import annotations

from collections.abc import Iterator

_WINDOW = 128 << 10  # bytes


def windows(start: int, end: int) -> Iterator[tuple[int, int]]:
    """`(offset, length)` of the requests that cover bytes `start` to `end`."""
    return ((offset, min(_WINDOW, end - offset)) for offset in range(start, end, _WINDOW))
