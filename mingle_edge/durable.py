"""Making sure that what was written is on the disk before a rename makes it visible."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
