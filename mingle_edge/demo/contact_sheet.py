"""A sheet of test images as the runtime answers them when it is given nothing but the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mingle_edge_runtime import Prediction
from mingle_edge_runtime.image_file import read_image

COLUMNS = 10
_ZOOM = 3  # screen pixels per image pixel
_CELL, _LINE, _MARGIN, _FRAME, _HEADING = 112, 15, 20, 3, 30  # pixels: pitch of columns, line of text, borders, headings
_INK, _FAINT, _RIGHT, _WRONG = "#1b1f24", "#57606a", "#1a7f37", "#cf222e"
_EXPERTS = ("#0969da", "#bf8700", "#8250df", "#1b7c83", "#bc4c00", "#6e7781")
_PLAIN = "#d0d7de"


@dataclass(frozen=True)
class Shown:
    """One image, its truth, and what the runtime said."""

    path: Path
    task: str
    label: str
    prediction: Prediction

    @property
    def right(self) -> bool:
        """Whether task and label are."""
        return (self.prediction.tasks[0], self.prediction.labels[0]) == (self.task, self.label)


def write_contact_sheet(path: Path, rows: Sequence[Sequence[Shown]]) -> None:
    """Write a PNG with a heading and `COLUMNS` images a line for each task; a frame in the colour of the expert that ran."""
    tasks = [row[0].task for row in rows]
    colours = {task: _EXPERTS[number % len(_EXPERTS)] for number, task in enumerate(tasks)}
    side = read_image(rows[0][0].path).width * _ZOOM
    line = side + 2 * _FRAME + 3 * _LINE + 8
    lines = [-(-len(row) // COLUMNS) for row in rows]
    size = (2 * _MARGIN + COLUMNS * _CELL, 3 * _MARGIN + _HEADING + sum(_HEADING + count * line for count in lines))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _legend(draw, colours)
    top = 2 * _MARGIN + _HEADING
    for row, count in zip(rows, lines, strict=True):
        right = sum(shown.right for shown in row)
        draw.text((_MARGIN, top), row[0].task, _INK, ImageFont.load_default(18))
        draw.text((_MARGIN + 96, top + 4), f"{right} of {len(row)} right", _FAINT, ImageFont.load_default(13))
        for number, shown in enumerate(row):
            left = _MARGIN + number % COLUMNS * _CELL
            _cell(sheet, draw, shown, (left, top + _HEADING + number // COLUMNS * line), side, colours)
        top += _HEADING + count * line
    sheet.save(path, optimize=True)


def _legend(draw: ImageDraw.ImageDraw, colours: dict[str, str]) -> None:
    font, left = ImageFont.load_default(14), float(_MARGIN)
    parts = [("Nothing but the pixels was given. Frame: the expert that the router chose.", None)]
    for text, colour in [*parts, *colours.items(), ("none, plain backbone", _PLAIN)]:
        if colour:
            draw.rectangle((left, _MARGIN + 2, left + 13, _MARGIN + 15), outline=colour, width=_FRAME)
            left += 20
        draw.text((left, _MARGIN), text, _INK, font)
        left += draw.textlength(text, font) + 22


def _cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, shown: Shown, corner: tuple[int, int], side: int, colours: dict[str, str]
) -> None:
    left, top = corner
    expert = shown.prediction.route.tasks[0] if shown.prediction.route.tasks else None
    end = side + 2 * _FRAME - 1
    draw.rectangle((left, top, left + end, top + end), outline=colours[expert] if expert else _PLAIN, width=_FRAME)
    large = read_image(shown.path).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    sheet.paste(large, (left + _FRAME, top + _FRAME))
    font, y = ImageFont.load_default(13), top + end + 3
    draw.text((left, y), shown.prediction.labels[0], _RIGHT if shown.right else _WRONG, font)
    if not shown.right:
        draw.text((left, y + _LINE), f"is: {shown.label}", _INK, font)
        if expert != shown.task:
            draw.text((left, y + 2 * _LINE), f"expert: {expert or 'none'}", _WRONG, font)
