"""How much of everything: images per split, captioned images, and training steps. Tests make the same things smaller."""

from __future__ import annotations

from dataclasses import dataclass

from mingle_edge.demo.splits import PerClass
from mingle_edge.demo.tiny_clip import Training

WIDTH = 128
"""Of the vision tower."""
TEXT = Training("text", 150, 2e-3)
PRETRAINING = Training("pretrain", 2400, 1.5e-3)
FINE_TUNING = Training("fine-tune", 300, 1.5e-3)


@dataclass(frozen=True)
class Scale:
    """The size of a suite."""

    test: int = 500  # images of a task, at least; rounded up to the same number for every class
    tune: int = 200  # the same
    seeds: int = 10  # images of a class
    train: int = 300  # images of a class
    captioned: int = 20000  # images for pretraining
    text: Training = TEXT
    pretraining: Training = PRETRAINING
    fine_tuning: Training = FINE_TUNING

    def per_class(self, classes: int) -> PerClass:
        """Return the images of one class in each split."""
        return {"test": -(-self.test // classes), "tune": -(-self.tune // classes), "seeds": self.seeds, "train": self.train}
