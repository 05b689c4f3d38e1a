"""The twenty tasks of the suite in the order of merging, their groups, and the pairs that are alike on purpose."""

from __future__ import annotations

from mingle_edge.demo import tasks as demo
from mingle_edge.demo.digits import DIGITS
from mingle_edge.demo.tasks import ImageTask
from research.suite.pictures.cards import SUITS, draw_card
from research.suite.pictures.charts import CHARTS, draw_chart
from research.suite.pictures.counting import COUNTS, draw_count
from research.suite.pictures.defects import DEFECTS, draw_surface
from research.suite.pictures.dials import CLOCKS, GAUGES, draw_clock, draw_gauge
from research.suite.pictures.displays import draw_display
from research.suite.pictures.fabrics import FABRICS, draw_fabric
from research.suite.pictures.faces import FACES, draw_face
from research.suite.pictures.hazards import HAZARDS, draw_hazard
from research.suite.pictures.lanes import ROADS, draw_road
from research.suite.pictures.leaves import LEAVES, draw_leaf
from research.suite.pictures.letters import CAPITALS, MINUSCULES, draw_letter
from research.suite.pictures.vehicles import VEHICLES, draw_vehicle
from research.suite.pictures.weather import WEATHER, draw_weather

TASKS = (
    *demo.TASKS,
    ImageTask("displays", DIGITS, "a photo of a display showing {}.", "display showing {}", draw_display),
    ImageTask("leaves", tuple(LEAVES), "a photo of a {} leaf.", "{} leaf", draw_leaf),
    ImageTask("hazards", tuple(HAZARDS), "a photo of a {} hazard sign.", "{} hazard sign", draw_hazard),
    ImageTask("gauges", GAUGES, "a photo of a gauge reading {}.", "gauge reading {}", draw_gauge),
    ImageTask("capitals", tuple(CAPITALS), "a photo of a capital letter {}.", "capital letter {}", draw_letter),
    ImageTask("charts", tuple(CHARTS), "a photo of a {} chart.", "{} chart", draw_chart),
    ImageTask("clocks", CLOCKS, "a photo of a clock at {}.", "clock at {}", draw_clock),
    ImageTask("faces", tuple(FACES), "a drawing of a {} face.", "{} face", draw_face),
    ImageTask("fabrics", tuple(FABRICS), "a photo of a {} fabric.", "{} fabric", draw_fabric),
    ImageTask("defects", tuple(DEFECTS), "a photo of a metal surface with {}.", "metal with {}", draw_surface),
    ImageTask("minuscules", tuple(MINUSCULES), "a photo of a small letter {}.", "small letter {}", draw_letter),
    ImageTask("vehicles", tuple(VEHICLES), "a photo of a {} on the street.", "{} on the street", draw_vehicle),
    ImageTask("counting", COUNTS, "a photo of {} objects.", "{} objects", draw_count),
    ImageTask("weather", tuple(WEATHER), "an icon of {} weather.", "{} weather", draw_weather),
    ImageTask("cards", tuple(SUITS), "a photo of a card of {}.", "card of {}", draw_card),
    ImageTask("roads", tuple(ROADS), "a photo of a {} ahead.", "{} ahead", draw_road),
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
