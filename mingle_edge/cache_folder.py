"""Where what can be made again is kept between runs."""

import os
from pathlib import Path

VARIABLE = "MINGLE_EDGE_CACHE"


def cache_folder() -> Path:
    """Return the folder that the environment variable `MINGLE_EDGE_CACHE` names, or `~/.cache/mingle-edge`. It may not exist
    yet.
    """
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "mingle-edge"
