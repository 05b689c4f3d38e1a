"""What a run keeps for the next one: downloads, environments, bundles and measured cells, in a folder that git ignores.

Delete the folder to start over, with the newest of everything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).with_name(".cache")


def kept(name: str, fill: Callable[[Path], None], cache: Path = CACHE) -> Path:
    """Return the folder `name` of the cache, filled by `fill` if it is not there; a killed `fill` leaves nothing behind."""
    folder, unfinished = cache / name, cache / f"{name}.unfinished"
    if not folder.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        unfinished.rename(folder)
    return folder
