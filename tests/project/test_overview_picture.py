"""The picture at the top of README is legible on a phone and in a dark page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_colors import contrast, parsed

ROOT = ElementTree.parse(Path(__file__).parents[2] / "docs/images/overview.svg").getroot()
SVG = "{http://www.w3.org/2000/svg}"
STYLE = ROOT.findtext(f"{SVG}style") or ""
LIGHT, DARK = (dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r"svg \{([^}]*)\}", STYLE))
PHONE = 328  # pixels of a screen of 360 that are left for a picture
TEXTS = list(ROOT.iter(f"{SVG}text"))


def boxes() -> list[tuple[float, float, float, float, str]]:
    """The rectangles, each with its class."""
    return [
        (*(float(box.get(key)) for key in ("x", "y", "width", "height")), box.get("class")) for box in ROOT.iter(f"{SVG}rect")
    ]


def test_it_has_a_dark_scheme_with_every_color_of_the_light_one() -> None:
    assert "@media (prefers-color-scheme: dark)" in STYLE
    assert LIGHT.keys() == DARK.keys() == set(re.findall(r"var\(--(\w+)\)", ElementTree.tostring(ROOT, encoding="unicode")))
    assert not any(
        re.search(r"#\w{3,6}", value) for part in ROOT.iter() for key, value in part.items() if key in ("fill", "stroke")
    )


def test_texts_are_at_least_11_pixels_high_on_a_phone() -> None:
    width = float(ROOT.get("viewBox").split()[2])
    assert float(ROOT.get("font-size")) * PHONE / width >= 11
    assert not [part for part in ROOT.iter() if part is not ROOT and part.get("font-size")]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_stands_out_from_the_box_it_is_in(scheme: dict[str, str]) -> None:
    colors = {"soft": "soft", "command": "command"}
    for text in TEXTS:
        x, y = float(text.get("x")), float(text.get("y"))
        inside = [box for box in boxes() if box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]]
        ground = min(inside, key=lambda box: box[2] * box[3])[4]
        for part in (text, *text):
            color = scheme[colors.get(part.get("class", ""), "ink")]
            assert contrast(parsed(color), parsed(scheme[{"disk": "card"}.get(ground, ground)])) >= 4.5, part.text


def test_every_text_lies_in_its_box() -> None:
    width = float(ROOT.get("viewBox").split()[2])
    for text in TEXTS:
        letters = len("".join(text.itertext())) * float(ROOT.get("font-size")) * 0.5  # of the widest usual font
        x = float(text.get("x"))
        middle = any(text in group for group in ROOT.iter(f"{SVG}g") if group.get("class") == "middle")
        left = x - letters / 2 if middle else x - letters if text.get("text-anchor") == "end" else x
        inside = [
            box for box in boxes() if box[0] <= x <= box[0] + box[2] and box[1] <= float(text.get("y")) <= box[1] + box[3]
        ]
        box = min(inside, key=lambda box: box[2])
        assert max(0, box[0]) <= left, text.text
        assert left + letters <= min(width, box[0] + box[2]), text.text
