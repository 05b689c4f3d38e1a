"""What the rendered subjects share: a pose, outlines in its units, backdrops and glass."""

from __future__ import annotations

import numpy as np

from mingle_edge.demo.canvas import Color, Drawing, Floats, blend, color, dark_and_light, smooth_noise
from mingle_edge.demo.outlines import box, rotation


class Pose:
    """Where and how an object lies in the picture: turns points of the object (unit circle, y down) into picture points."""

    def __init__(
        self,
        rng: np.random.Generator,
        radius: tuple[float, float] = (0.32, 0.46),  # of the unit circle, in picture sides
        turn: float = 0.12,  # standard deviation of the angle in radians
        squeeze: float = 0.85,  # narrowest width, seen from the side
        mirrored: bool = False,  # whether half the objects face the other way
        wander: float = 1.0,  # how far from the middle, 1: up to the picture's border
    ) -> None:
        self.radius, angle = rng.uniform(*radius), rng.normal(0, turn)
        reach = wander * max(0.5 - 0.9 * self.radius, 0.0)
        self.center = 0.5 + rng.uniform(-reach, reach, 2)
        side = -1 if mirrored and rng.uniform() < 0.5 else 1
        self._matrix = self.radius * rotation(angle) @ np.diag([side * rng.uniform(squeeze, 1.0), 1.0])

    def __call__(self, points: Floats) -> Floats:
        """Return points `[n, 2]` of the object as points of the picture."""
        return points @ self._matrix.T + self.center

    def width(self, of_radius: float) -> float:
        """Return a line's width, given as a part of the object's radius, in picture sides."""
        return of_radius * self.radius


def closed(outline: Floats) -> Floats:
    """Return the outline `[n, 2]` with its first point again at the end."""
    return np.concatenate([outline, outline[:1]])


def ray(angle: float, start: float, stop: float) -> Floats:
    """Return two points on a ray from the center."""
    return np.outer((start, stop), (np.cos(angle), np.sin(angle)))


def gray(rng: np.random.Generator, value: float) -> Color:
    """Return a color that is nearly gray."""
    return color(rng, saturation=0.06, value=value)


def surface(rng: np.random.Generator, hue: float | None, saturation: float, value: float) -> Floats:
    """Return an uneven surface of about one color."""
    hue = rng.uniform() if hue is None else hue
    low, high = color(rng, hue, saturation, value - 0.1), color(rng, hue, saturation, value + 0.1)
    return blend(0.6 * smooth_noise(rng, 3) + 0.4 * smooth_noise(rng, 10), low, high)


def any_surface(rng: np.random.Generator, dark: bool) -> tuple[Floats, Color]:
    """Return an uneven dark or light surface of any color, and a color to draw on it that stands out."""
    low, high = dark_and_light(rng)
    own, other = (low, high) if dark else (high, low)
    shade = (0.75 * own[0], 0.75 * own[1], 0.75 * own[2])
    return blend(smooth_noise(rng, 4), shade, own), other


def clutter(rng: np.random.Generator, drawing: Drawing, count: int | np.integer, saturation: float = 0.4) -> None:
    """Draw boxes of any color, size and place, behind what is drawn next."""
    for _ in range(count):
        corner, size = rng.uniform(-0.2, 1, 2), rng.uniform(0.1, 0.5, 2)
        fill = color(rng, saturation=saturation, value=rng.uniform(0.2, 0.85))
        drawing.polygon(box(0, 0, 1, 1) * size + corner, fill)


def behind_glass(rng: np.random.Generator, image: Floats, most: float, where: float) -> Floats:
    """Return the image with a reflection of any strength up to `most`, the smaller `where` the wider."""
    reflection = rng.uniform(0, most) * np.clip(2 * smooth_noise(rng, 2) - where, 0, 1)
    return np.asarray(blend(reflection, (0, 0, 0), (1, 1, 1)) + image * (1 - reflection[:, :, None]))
