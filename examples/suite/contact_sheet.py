"""A picture of the suite: a few images of every class of every task."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tasks import TASKS

from mingle_edge.demo.canvas import SIDE
from mingle_edge_runtime.image_file import read_image

_SHOWN, _COLUMNS = 2, 2  # images of a class, below each other; tasks, beside each other
_ZOOM, _GAP, _HEADING, _MARGIN = 2, 2, 20, 12  # screen pixels per image pixel, then screen pixels
_COLOURS = 200


def write_contact_sheet(path: Path, images: Path) -> None:
    """Write a PNG of the first images in `images/<task>/seeds/<class>`; test images stay unseen."""
    pitch = SIDE * _ZOOM + _GAP
    most = max(len(task.classes) for task in TASKS)
    width, height = most * pitch + _MARGIN, _SHOWN * pitch + _HEADING + _MARGIN
    rows = -(-len(TASKS) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _MARGIN, rows * height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, task in enumerate(TASKS):
        left, top = _MARGIN + number // rows * width, _MARGIN + number % rows * height
        draw.text((left, top), f"{number + 1}  {task.name}", "#1b1f24", ImageFont.load_default(14))
        for column, name in enumerate(task.classes):
            for row, file in enumerate(sorted((images / task.name / "seeds" / name).glob("*.png"))[:_SHOWN]):
                large = read_image(file).resize((SIDE * _ZOOM,) * 2, Image.Resampling.NEAREST)
                sheet.paste(large, (left + column * pitch, top + _HEADING + row * pitch))
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
