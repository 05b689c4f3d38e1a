"""The twenty tasks of the suite in the order of merging, their groups, and the pairs that are alike on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from pictures import (
    cards,
    charts,
    counting,
    defects,
    dials,
    displays,
    fabrics,
    faces,
    hazards,
    lanes,
    leaves,
    letters,
    vehicles,
    weather,
)

from mingle_edge.demo import digits, satellite, signs, textures
from mingle_edge.demo.canvas import Floats

Draw = Callable[[np.random.Generator, str], Floats]


@dataclass(frozen=True)
class SuiteTask:
    """One image classification task."""

    name: str
    classes: tuple[str, ...]
    template: str  # of a prompt, {} for the class
    subject: str  # of a caption in pretraining, {} for the class
    draw: Draw | None  # None for the handwritten digits, which are scans
    source: ModuleType  # where the drawing is defined


TASKS = (
    SuiteTask("digits", digits.DIGITS, "a photo of a handwritten digit {}.", "digit {}", None, digits),
    SuiteTask("textures", tuple(textures.TEXTURES), "a photo of a {} texture.", "{} texture", textures.draw_texture, textures),
    SuiteTask("signs", tuple(signs.SIGNS), "a photo of a {} traffic sign.", "{} traffic sign", signs.draw_sign, signs),
    SuiteTask(
        "satellite",
        tuple(satellite.LANDS),
        "a satellite photo of a {} from above.",
        "{} from above",
        satellite.draw_land,
        satellite,
    ),
    SuiteTask(
        "displays", digits.DIGITS, "a photo of a display showing {}.", "display showing {}", displays.draw_display, displays
    ),
    SuiteTask("leaves", tuple(leaves.LEAVES), "a photo of a {} leaf.", "{} leaf", leaves.draw_leaf, leaves),
    SuiteTask(
        "hazards", tuple(hazards.HAZARDS), "a photo of a {} hazard sign.", "{} hazard sign", hazards.draw_hazard, hazards
    ),
    SuiteTask("gauges", dials.GAUGES, "a photo of a gauge reading {}.", "gauge reading {}", dials.draw_gauge, dials),
    SuiteTask(
        "capitals",
        tuple(letters.CAPITALS),
        "a photo of a capital letter {}.",
        "capital letter {}",
        letters.draw_letter,
        letters,
    ),
    SuiteTask("charts", tuple(charts.CHARTS), "a photo of a {} chart.", "{} chart", charts.draw_chart, charts),
    SuiteTask("clocks", dials.CLOCKS, "a photo of a clock at {}.", "clock at {}", dials.draw_clock, dials),
    SuiteTask("faces", tuple(faces.FACES), "a drawing of a {} face.", "{} face", faces.draw_face, faces),
    SuiteTask("fabrics", tuple(fabrics.FABRICS), "a photo of a {} fabric.", "{} fabric", fabrics.draw_fabric, fabrics),
    SuiteTask(
        "defects", tuple(defects.DEFECTS), "a photo of a metal surface with {}.", "metal with {}", defects.draw_surface, defects
    ),
    SuiteTask(
        "minuscules",
        tuple(letters.MINUSCULES),
        "a photo of a small letter {}.",
        "small letter {}",
        letters.draw_letter,
        letters,
    ),
    SuiteTask(
        "vehicles",
        tuple(vehicles.VEHICLES),
        "a photo of a {} on the street.",
        "{} on the street",
        vehicles.draw_vehicle,
        vehicles,
    ),
    SuiteTask("counting", counting.COUNTS, "a photo of {} objects.", "{} objects", counting.draw_count, counting),
    SuiteTask("weather", tuple(weather.WEATHER), "an icon of {} weather.", "{} weather", weather.draw_weather, weather),
    SuiteTask("cards", tuple(cards.SUITS), "a photo of a card of {}.", "card of {}", cards.draw_card, cards),
    SuiteTask("roads", tuple(lanes.ROADS), "a photo of a {} ahead.", "{} ahead", lanes.draw_road, lanes),
)
GROUPS = (8, 14, 20)
"""The first so many tasks form a group, as TA8, TALL14 and TALL20 of the paper do."""

SIMILAR = (
    ("digits", "displays"),
    ("signs", "hazards"),
    ("gauges", "clocks"),
    ("textures", "fabrics"),
    ("capitals", "minuscules"),
)
"""Pairs of tasks that look or read alike."""


def task_named(name: str) -> SuiteTask:
    """A task by its name."""
    return next(task for task in TASKS if task.name == name)
