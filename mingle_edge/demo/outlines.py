"""Outlines of drawn objects, and objects of a fixed form made of them. Points are `[n, 2]`: x, and y down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

from mingle_edge.demo.canvas import Color, Drawing, Floats


def points(*values: tuple[float, float]) -> Floats:
    """Return points `[n, 2]`."""
    return np.asarray(values, float)


def arc(
    start: float, stop: float, radius: float | tuple[float, float] = 1.0, center: tuple[float, float] = (0, 0), count: int = 14
) -> Floats:
    """Return points `[count, 2]` on an ellipse between two angles, which grow clockwise from the right, y being down."""
    angles = np.linspace(start, stop, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + center


def regular(corners: int, start: float = 0.0, radius: float = 1.0, center: tuple[float, float] = (0, 0)) -> Floats:
    """Return corners `[n, 2]` of a regular polygon, the first at the angle `start`."""
    return arc(start, start + 2 * np.pi * (corners - 1) / corners, radius, center, count=corners)


def disc(radius: float = 1.0, center: tuple[float, float] = (0, 0)) -> Floats:
    """Return a circle as a polygon."""
    return regular(28, radius=radius, center=center)


def box(left: float, top: float, right: float, bottom: float) -> Floats:
    """Return corners `[4, 2]` of an upright rectangle."""
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def rotation(angle: float) -> Floats:
    """Return the matrix `[2, 2]` that turns points by an angle in radians, clockwise as y is down."""
    return points((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))


class Part(NamedTuple):
    """A shape of an object that has a fixed form: a filled polygon, or a line where it has a width."""

    outline: Floats  # [n, 2] in units of the object's radius
    paint: int = 0  # number of its color among those of the object
    width: float = 0.0  # of a line, in units of the object's radius


class Pose(Protocol):
    """Where and how an object lies in the picture: turns points of the object (unit circle, y down) into picture points."""

    radius: float  # of the unit circle, in picture sides

    def __call__(self, points: Floats) -> Floats:
        """Return points `[n, 2]` of the object as points of the picture."""


def draw_parts(drawing: Drawing, pose: Pose, parts: Iterable[Part], *paints: Color) -> None:
    """Draw the parts of an object one over another."""
    for outline, paint, width in parts:
        if width:
            drawing.line(pose(outline), paints[paint], width * pose.radius)
        else:
            drawing.polygon(pose(outline), paints[paint])
