"""Write a small bundle of random weights, to try an installed package on: `.venv/bin/python .ci/small_bundle.py DIR`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny_bundle import Weights, write_image_bundle

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_image_bundle(Path(sys.argv[1]), Weights())
