"""A sheet of images in rows, each image in a frame and with lines of text below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mingle_edge_runtime.images.image_file import read_image

COLUMNS = 10
INK = "#1b1f24"
_ZOOM = 3  # screen pixels per image pixel
_CELL, _LINE, _MARGIN, _FRAME, _HEADING = 112, 15, 20, 3, 30  # pixels: pitch of columns, line of text, borders, headings
_FAINT = "#57606a"


@dataclass(frozen=True)
class Cell:
    """One image, lines of text with their colors, and the color of its frame."""

    path: Path
    lines: tuple[tuple[str, str], ...]
    frame: str = "white"


@dataclass(frozen=True)
class Row:
    """Images under a heading, `COLUMNS` a line."""

    heading: str
    note: str
    cells: Sequence[Cell]


def write_contact_sheet(path: Path, rows: Sequence[Row], lines: int, legend: Sequence[tuple[str, str | None]] = ()) -> None:
    """Write a PNG of the rows, with room for so many lines below each image; `legend`: texts, behind a frame of a color."""
    side = read_image(rows[0].cells[0].path).width * _ZOOM
    pitch = side + 2 * _FRAME + lines * _LINE + 8
    counts = [-(-len(row.cells) // COLUMNS) for row in rows]
    top = _MARGIN + (_MARGIN + _HEADING if legend else 0)
    size = (2 * _MARGIN + COLUMNS * _CELL, top + _MARGIN + sum(_HEADING + count * pitch for count in counts))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _write_legend(draw, legend)
    for row, count in zip(rows, counts, strict=True):
        draw.text((_MARGIN, top), row.heading, INK, ImageFont.load_default(18))
        draw.text((_MARGIN + 96, top + 4), row.note, _FAINT, ImageFont.load_default(13))
        for number, cell in enumerate(row.cells):
            left = _MARGIN + number % COLUMNS * _CELL
            _paste(sheet, draw, cell, (left, top + _HEADING + number // COLUMNS * pitch), side)
        top += _HEADING + count * pitch
    sheet.save(path, optimize=True)


def _write_legend(draw: ImageDraw.ImageDraw, legend: Sequence[tuple[str, str | None]]) -> None:
    font, left = ImageFont.load_default(14), float(_MARGIN)
    for text, color in legend:
        if color:
            draw.rectangle((left, _MARGIN + 2, left + 13, _MARGIN + 15), outline=color, width=_FRAME)
            left += 20
        draw.text((left, _MARGIN), text, INK, font)
        left += draw.textlength(text, font) + 22


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], side: int) -> None:
    left, top = corner
    end = side + 2 * _FRAME - 1
    draw.rectangle((left, top, left + end, top + end), outline=cell.frame, width=_FRAME)
    large = read_image(cell.path).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    sheet.paste(large, (left + _FRAME, top + _FRAME))
    for number, (text, color) in enumerate(cell.lines):
        draw.text((left, top + end + 3 + number * _LINE), text, color, ImageFont.load_default(13))
