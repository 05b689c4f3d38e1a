"""Digits: scikit-learn's real handwritten ones for the task, printed ones for pretraining."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mingle_edge.demo.canvas import SIDE, Floats, blend, dark_and_light, smooth_noise

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def handwritten_digits(rng: np.random.Generator) -> list[Floats]:
    """Return the scans of each digit in random order: ten arrays `[about 180, 8, 8]` with ink 1 on paper 0.

    Test set of the UCI "Optical Recognition of Handwritten Digits" as bundled with scikit-learn (no download).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    scans: NDArray[np.floating] = data.images / 16
    return [rng.permutation(scans[data.target == digit]).astype(np.float32) for digit in range(10)]


def draw_handwritten(rng: np.random.Generator, scan: Floats) -> Floats:
    """Draw one scan `[8, 8]` enlarged, placed anywhere on uneven paper, in any two colors: `[SIDE, SIDE, 3]`."""
    width, height = rng.integers(27, 33, 2)
    glyph = np.asarray(Image.fromarray(scan).resize((width, height), Image.Resampling.BICUBIC))
    return _ink(rng, glyph)


def draw_printed(rng: np.random.Generator, label: str) -> Floats:
    """Draw a digit by its name, set in type: `[SIDE, SIDE, 3]`."""
    font = ImageFont.load_default(48)
    text = str(DIGITS.index(label))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    page = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(page).text((-left, -top), text, fill=255, font=font)
    height = int(rng.integers(24, 31))
    width = round(height * page.width / page.height * rng.uniform(0.8, 1.1))
    return _ink(rng, np.asarray(page.resize((width, height)), np.float32) / 255)


def _ink(rng: np.random.Generator, glyph: Floats) -> Floats:
    mask = np.zeros((SIDE, SIDE), np.float32)
    height, width = glyph.shape
    spare = np.asarray([SIDE - height, SIDE - width])
    top, left = np.clip(spare // 2 + rng.integers(-3, 4, 2), 0, spare)
    mask[top : top + height, left : left + width] = np.clip(glyph, 0, 1)
    ink, paper = dark_and_light(rng)
    stains = rng.uniform(0, 0.25) * smooth_noise(rng, 3)
    return blend(np.maximum(mask, stains), paper, ink)
