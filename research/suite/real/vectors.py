"""Drawings of icon sets as `@iconify-json` packages ship them: a JSON file with the SVG of every icon of a vendor."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import vl_convert
from PIL import Image

from mingle_edge.demo.canvas import Bytes
from research.suite.real.drawing import trimmed
from research.suite.real.packages import Package

_SIZE = 96  # pixels of the longer side
_FILE = "icons.json"


def icon_set(name: str, version: str, license: str) -> Package:
    """Return the package of an icon set."""
    return Package("npm", f"@iconify-json/{name}", version, license)


def set_file(sources: Path, package: Package) -> Path:
    """Return the file with all icons of a set."""
    return package.file(sources, _FILE)


def icons(sources: Path, package: Package, names: Sequence[str]) -> list[str]:
    """Return SVG texts of those of the names that a set has, the same drawing once."""
    read = _read(set_file(sources, package))
    return list(dict.fromkeys(svg for name in names if (svg := _svg(read, name)) is not None))


def sprite(svg: str) -> Bytes:
    """Return an SVG text as a picture with opacity `[h, w, 4]`, as large as what it shows."""
    png = vl_convert.svg_to_png(svg)
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:  # noqa: TID251  # of our own making
        pixels = np.asarray(image.convert("RGBA"))
    return trimmed(pixels, pixels[:, :, 3])


def stencil(svg: str) -> Bytes:
    """Return the opacity of an SVG text `[h, w]`: what a set of one color shows."""
    return np.ascontiguousarray(sprite(svg)[:, :, 3])


@lru_cache(maxsize=2)  # the largest has 100 MB
def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def _svg(read: dict[str, Any], name: str) -> str | None:
    """Return an icon of a set by its name or another one, or None where there is none; defaults as the format has them."""
    alias = read.get("aliases", {}).get(name, {})
    icon = read["icons"].get(alias.get("parent", name))
    if icon is None or alias.keys() - {"parent"}:
        return None
    left, top, width, height = (
        {**read, **icon}.get(key, default) for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    zoom = _SIZE / max(width, height)
    size = f'width="{round(zoom * width)}" height="{round(zoom * height)}" viewBox="{left} {top} {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size}>{icon["body"]}</svg>'
