"""The four image tasks of the demonstration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from mingle_edge.demo import digits
from mingle_edge.demo.canvas import Floats
from mingle_edge.demo.digits import DIGITS
from mingle_edge.demo.satellite import LANDS, draw_land
from mingle_edge.demo.signs import SIGNS, draw_sign
from mingle_edge.demo.textures import TEXTURES, draw_texture


@dataclass(frozen=True)
class ImageTask:
    """One image classification task."""

    name: str
    classes: tuple[str, ...]
    template: str  # of a prompt, {} for the class
    subject: str  # of a caption in pretraining, {} for the class
    draw: Callable[[np.random.Generator, str], Floats] | None  # None for the handwritten digits, which are scans

    @property
    def prompts(self) -> list[str]:
        """A prompt for each class."""
        return [self.template.format(name) for name in self.classes]

    @property
    def subjects(self) -> list[str]:
        """The subject of a caption for each class."""
        return [self.subject.format(name) for name in self.classes]

    @property
    def source(self) -> ModuleType:
        """The module that draws the images."""
        return digits if self.draw is None else inspect.getmodule(self.draw) or digits


TASKS = (
    ImageTask("digits", DIGITS, "a photo of a handwritten digit {}.", "digit {}", None),
    ImageTask("textures", tuple(TEXTURES), "a photo of a {} texture.", "{} texture", draw_texture),
    ImageTask("signs", tuple(SIGNS), "a photo of a {} traffic sign.", "{} traffic sign", draw_sign),
    ImageTask("satellite", tuple(LANDS), "a satellite photo of a {} from above.", "{} from above", draw_land),
)
"""In the order of merging."""
