"""Round dials: pressure gauges read in fifths of their range, and clocks at the full hour."""

from __future__ import annotations

import numpy as np
from numpy import pi

from mingle_edge.demo.canvas import Color, Drawing, Floats, color, dark_and_light
from mingle_edge.demo.outlines import arc, disc, regular
from research.suite.pictures.shapes import Pose, behind_glass, clutter, ray, surface

GAUGES = ("empty", "one fifth", "two fifths", "three fifths", "four fifths", "full")
CLOCKS = ("one", "two", "four", "five", "seven", "eight", "ten", "eleven")
_HOURS = {"one": 1, "two": 2, "four": 4, "five": 5, "seven": 7, "eight": 8, "ten": 10, "eleven": 11}


def draw_gauge(rng: np.random.Generator, label: str) -> Floats:
    """Draw a gauge that points to about one of the six marks of `GAUGES`; a quarter of the circle is open below."""
    drawing, place, ink = _dial(rng, square=False)
    marks = 0.75 * pi + np.arange(6) * 0.3 * pi
    drawing.line(place(arc(marks[0], marks[-1], 0.78, count=24)), ink, place.width(0.06))
    for mark in marks:
        drawing.line(place(ray(mark, 0.6, 0.8)), ink, place.width(0.08))
    if rng.uniform() < 0.6:  # the red end of the scale
        end = arc(marks[-2] + rng.uniform(-0.3, 0.5), marks[-1], 0.86, count=12)
        drawing.line(place(end), color(rng, 0.99, 0.8, 0.8), place.width(0.12))
    angle = marks[GAUGES.index(label)] + rng.uniform(-0.08, 0.08) * pi
    pointer = ink if rng.uniform() < 0.7 else color(rng, 0.0, 0.85, 0.8)
    drawing.line(place(ray(angle, -0.2, rng.uniform(0.55, 0.75))), pointer, place.width(rng.uniform(0.1, 0.16)))
    drawing.polygon(place(disc(0.14)), pointer)
    return behind_glass(rng, drawing.finish(), 0.4, 1)


def draw_clock(rng: np.random.Generator, label: str) -> Floats:
    """Draw a clock at one of the hours of `CLOCKS`, give or take four minutes."""
    drawing, place, ink = _dial(rng, square=rng.uniform() < 0.4)
    for hour in range(0, 12, 3 if rng.uniform() < 0.4 else 1):
        drawing.line(place(ray(hour * pi / 6, 0.72, 0.86)), ink, place.width(0.07))
    minutes = rng.uniform(-4, 4)
    hand = ink if rng.uniform() < 0.7 else color(rng, 0.0, 0.85, 0.8)
    hour_angle = (_HOURS[label] + minutes / 60) * pi / 6 - pi / 2
    drawing.line(place(ray(minutes * pi / 30 - pi / 2, -0.12, 0.74)), hand, place.width(rng.uniform(0.07, 0.1)))
    drawing.line(place(ray(hour_angle, -0.1, rng.uniform(0.42, 0.52))), hand, place.width(rng.uniform(0.12, 0.18)))
    if rng.uniform() < 0.4:
        drawing.line(place(ray(rng.uniform(0, 6.3), -0.15, 0.75)), color(rng, 0.0, 0.85, 0.75), place.width(0.04))
    return behind_glass(rng, drawing.finish(), 0.4, 1)


def _dial(rng: np.random.Generator, square: bool) -> tuple[Drawing, Pose, Color]:
    """Draw a rim and a face on a wall or machine, in a light or dark design."""
    drawing = Drawing(surface(rng, None, 0.3, rng.uniform(0.2, 0.8)))
    clutter(rng, drawing, rng.integers(0, 4))
    place, (ink, face) = Pose(rng, (0.41, 0.48), 0.06, 0.9), dark_and_light(rng, swapped=0.3)
    rim = color(rng, saturation=rng.uniform(0, 0.7), value=rng.uniform(0.15, 0.8))
    for outline, fill in ((1.08, rim), (0.95, face)):
        drawing.polygon(place(regular(4, pi / 4, 1.25 * outline) if square else disc(outline)), fill)
    return drawing, place, ink
