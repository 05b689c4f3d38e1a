"""What a run keeps for the next one: downloads, environments, bundles and measured cells, in a folder that git ignores.

Delete the folder to start over, with the newest of everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mingle_edge.files.partial_folder import partial_folder

CACHE = Path(__file__).with_name(".cache")


def kept(name: str, fill: Callable[[Path], None], cache: Path = CACHE) -> Path:
    """Return the folder `name` of the cache, filled by `fill` if it is not there; a killed `fill` leaves nothing behind."""
    folder = cache / name
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with partial_folder(cache, name) as unfinished:
            fill(unfinished)
            unfinished.rename(folder)
    return folder
