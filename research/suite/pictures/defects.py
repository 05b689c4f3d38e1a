"""Surfaces of machined parts as an inspection camera sees them: six defects, and none."""

from __future__ import annotations

import numpy as np

from mingle_edge.demo.canvas import SIDE, Drawing, Floats, blend, by_class, color, smooth_noise
from mingle_edge.demo.outlines import disc, points, rotation
from research.suite.pictures.shapes import gray


def draw_surface(rng: np.random.Generator, label: str) -> Floats:
    """Draw a brushed, ground or cast surface with one defect of `DEFECTS`."""
    return np.asarray(DEFECTS[label](rng, _sound(rng))).clip(0, 1)


def _sound(rng: np.random.Generator) -> Floats:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    angle = rng.uniform(0, np.pi)
    lines = rng.uniform(0, 1, 4 * SIDE)[np.rint(np.cos(angle) * columns + np.sin(angle) * rows).astype(int) + 2 * SIDE]
    grain = np.where(rng.uniform() < 0.6, lines, smooth_noise(rng, 16))
    hue, value = rng.choice([0.08, 0.1, 0.6, 0.62]), rng.uniform(0.4, 0.75)
    saturation = rng.uniform(0.02, 0.35)
    tone = 0.5 * smooth_noise(rng, 2) + rng.uniform(0.15, 0.5) * grain
    return blend(np.clip(tone, 0, 1), color(rng, hue, saturation, value - 0.14), color(rng, hue, saturation, value + 0.16))


def _intact(rng: np.random.Generator, surface: Floats) -> Floats:
    return surface


def _scratch(rng: np.random.Generator, surface: Floats) -> Floats:
    drawing = Drawing(surface)
    for _ in range(rng.integers(1, 4)):
        center, angle, half = rng.uniform(0.25, 0.75, 2), rng.uniform(0, np.pi), rng.uniform(0.25, 0.6)
        way = half * np.asarray([np.cos(angle), np.sin(angle)])
        value = rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.9, 1.0)])
        drawing.line(np.stack([center - way, center + way]), gray(rng, value), rng.uniform(0.025, 0.05))
    return drawing.finish()


def _pits(rng: np.random.Generator, surface: Floats) -> Floats:
    drawing = Drawing(surface)
    for center in rng.uniform(0.05, 0.95, (rng.integers(6, 16), 2)):
        size = rng.uniform(0.025, 0.06)
        drawing.polygon(disc(size) + center + 0.02, gray(rng, 0.85))
        drawing.polygon(disc(size) + center, gray(rng, 0.12))
    return drawing.finish()


def _crack(rng: np.random.Generator, surface: Floats) -> Floats:
    drawing, angle = Drawing(surface), rng.uniform(0, np.pi)
    course = np.stack([np.linspace(-0.5, 0.5, 11), np.cumsum(rng.normal(0, 0.07, 11))], axis=1)
    course = (course - course.mean(0)) @ rotation(-angle) + rng.uniform(0.4, 0.6, 2)
    dark = gray(rng, rng.uniform(0.03, 0.15))
    drawing.line(course, dark, rng.uniform(0.035, 0.055))
    for start in rng.choice(9, rng.integers(1, 4), replace=False) + 1:  # branches
        branch = course[start] + np.cumsum(rng.normal(0, 0.1, (4, 2)), axis=0)
        drawing.line(np.concatenate([course[start][None], branch]), dark, 0.03)
    return drawing.finish()


def _blob(rng: np.random.Generator, sharpness: float) -> Floats:
    """Draw an irregular spot `[SIDE, SIDE]`, 1 inside."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    center, size = rng.uniform(0.3, 0.7, 2), rng.uniform(0.16, 0.32)
    distance = np.hypot(rows - center[0], columns - center[1]) / size + 0.9 * (smooth_noise(rng, 4) - 0.5)
    spot: Floats = np.clip(sharpness * (1 - distance) + 0.5, 0, 1)
    return spot


def _stain(rng: np.random.Generator, surface: Floats) -> Floats:
    weight = (rng.uniform(0.5, 0.8) * _blob(rng, 4))[:, :, None]
    stained: Floats = surface * (1 - weight) + np.asarray(color(rng, rng.uniform(0.03, 0.09), 0.75, 0.32)) * weight
    return stained


def _dent(rng: np.random.Generator, surface: Floats) -> Floats:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    center, size, angle = rng.uniform(0.3, 0.7, 2), rng.uniform(0.14, 0.26), rng.uniform(0, 2 * np.pi)
    y, x = (rows - center[0]) / size, (columns - center[1]) / size
    slope = (np.cos(angle) * x + np.sin(angle) * y) * np.exp(-(x**2 + y**2))
    dented: Floats = surface * (1 + rng.uniform(1.0, 1.7) * slope)[:, :, None]
    return dented


def _burr(rng: np.random.Generator, surface: Floats) -> Floats:
    """Draw a broken edge: beyond it the dark ground, along it a bright frayed line."""
    angle, position = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25)
    turn = rotation(-angle)
    edge = np.stack([np.linspace(-0.8, 0.8, 22), position + rng.normal(0, 0.035, 22)], axis=1)
    drawing = Drawing(surface)
    beyond = np.concatenate([edge, points((0.8, 1.5), (-0.8, 1.5))])
    drawing.polygon(beyond @ turn + 0.5, gray(rng, rng.uniform(0.05, 0.2)))
    drawing.line(edge @ turn + 0.5, gray(rng, 0.95), 0.04)
    return drawing.finish()


DEFECTS = by_class(_intact, _scratch, _pits, _crack, _stain, _dent, _burr)
