"""The bundle's folder: one export's alone while it is written, and a bundle from the moment it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mingle_edge.files.atomic_files import why_not_written
from mingle_edge.files.folder_lock import LOCK, locked
from mingle_edge.files.new_folder import new_folder
from mingle_edge_export.errors import DiskSpaceError, OutputError
from mingle_edge_runtime.bundle.index import INDEX_NAME


@contextmanager
def bundle_folder(target: Path, needed: int) -> Iterator[Path]:
    """Yield a private folder whose files are in `target` when the block ends well; otherwise nothing is left of them.

    Raises `OutputError` where `target` holds something, is being written by another process, has less than `needed` bytes left,
    or the file system refuses; `DiskSpaceError` is one of them.
    """
    final = Path(os.path.realpath(target))
    beside = final.with_name(f".{final.name}{LOCK}")
    try:
        with ExitStack() as stack:
            if not final.is_dir() or beside.exists():  # there, and the lock too: an export was killed when it had just finished
                stack.enter_context(locked(beside, "export"))
            if final.is_dir():
                stack.enter_context(locked(final / LOCK, "export"))
            folder = stack.enter_context(new_folder(target, INDEX_NAME))
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise DiskSpaceError(
                    f"{folder.parent}: the bundle needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
                    "free some space or choose another disk"
                )
            yield folder
    except OSError as error:
        raise OutputError(f"{target}: {why_not_written(error)}") from error
