"""How much of everything: images per split, captioned images, and training steps. Tests make the same things smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mingle_edge.demo.tiny_clip import Training

Part = Literal["test", "tune", "seeds", "train"]


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

    def per_class(self, part: Part, classes: int) -> int:
        """Images of one class in one part."""
        if part == "seeds" or part == "train":
            return self.seeds if part == "seeds" else self.train
        return -(-(self.test if part == "test" else self.tune) // classes)
