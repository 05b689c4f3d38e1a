"""Classify images on this device, no task named, and print task and label of each as JSON: `classify.py BUNDLE LIST`.

LIST is a text file of paths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mingle_edge_runtime import EdgeModel


def classify(bundle: Path, images: list[str]) -> list[list[str]]:
    """Find the most probable label of each image among those of all tasks: `[[task, label], ...]`."""
    with EdgeModel.open(bundle, threads=1) as model:
        return [[prediction.tasks[0], prediction.labels[0]] for prediction in model.classify(images, top=1)]


if __name__ == "__main__":
    json.dump(classify(Path(sys.argv[1]), Path(sys.argv[2]).read_text().splitlines()), sys.stdout)
