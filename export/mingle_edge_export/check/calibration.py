"""Choosing how to quantise a backbone to int8 from a few unlabelled images: activation smoothing, then mixed precision.

What the images decide is made of them alone; accuracy is reported on others (`labelled_accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingle_edge.activations import input_peaks, integer_noise, own_embeddings
from mingle_edge.gated_tower import GatedTower
from mingle_edge.merged_model import MergedModel
from mingle_edge.progress import Progress
from mingle_edge_export.graph.builder import Array
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_runtime.bundle import LARGEST_CODE

LEAST_AGREEMENT = 0.995  # of labels with the reference; half a point, were the reference always right
MOST_IMAGES = 64  # a task
SHARES = (0.0, 1 / 12, 1 / 6, 1 / 3)  # of the layers that stay in fp32, tried in turn

Images = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Calibration:
    """What was learned from calibration images."""

    images: Images
    embeds: Mapping[str, Array]
    """task -> embeddings of its images under its own expert, in PyTorch"""
    smoothing: Smoothing
    noise: Mapping[str, float]
    """layer -> relative change of its output by 8-bit arithmetic, after smoothing"""

    def exact_layers(self) -> Iterator[frozenset[str]]:
        """Sets of layers to keep in fp32, the noisiest first, each larger than the one before."""
        order = sorted(self.noise, key=lambda layer: (-self.noise[layer], layer))
        for share in SHARES:
            yield frozenset(order[: round(share * len(order))])


def calibrate(merged: MergedModel, images: Images, progress: Progress) -> Calibration:
    """Run the merged model in PyTorch on up to 64 images of each task.

    images: task -> unlabelled images, such as the seeds it was merged with.
    """
    chosen = {task: _spread(paths) for task, paths in images.items()}
    tower = GatedTower(merged)
    progress("calibrate", 0, 3, "ranges")
    smoothing = Smoothing.from_peaks(merged.architecture, merged.backbone(), input_peaks(tower, chosen))
    progress("calibrate", 1, 3, "noise")
    noise = integer_noise(tower, chosen, smoothing.layers, LARGEST_CODE)
    progress("calibrate", 2, 3, "reference")
    embeds = own_embeddings(tower, chosen)
    progress("calibrate", 3, 3)
    return Calibration(chosen, embeds, smoothing, noise)


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most `MOST_IMAGES`, evenly from all of them, as folders are sorted by class."""
    picks = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_IMAGES)).round().astype(int))
    return [paths[i] for i in picks]
