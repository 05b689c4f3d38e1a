"""The style sheet of the pages: text and marks are legible in both schemes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from jinja2 import Template
from page_colors import contrast, parsed

STYLE = Template((files("mingle_edge.pages") / "templates/style.css").read_text(encoding="utf-8")).render()
LIGHT, DARK = (
    dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{([^}]*)\}", STYLE)
)  # fmt: skip
KINDS = ("blue", "green", "grey", "orange", "purple", "red")


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "card"])
@pytest.mark.parametrize("name", ["text", "soft", *KINDS])
def test_every_color_of_text_stands_out_from_what_it_is_on(scheme: dict[str, str], ground: str, name: str) -> None:
    assert contrast(parsed(scheme[name]), parsed(scheme[ground])) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_figures_stand_out_from_every_tint(scheme: dict[str, str]) -> None:
    tints = re.findall(
        r"\.tint-(\d+) \{ background: color-mix\(in srgb, var\(--blue\) (\d+)%, transparent\);(?: color: (\S+);)? \}", STYLE
    )
    assert [int(number) for number, _, _ in tints] == list(range(21))
    for number, percent, color in tints:
        share = int(percent) / 100
        red, green, blue = (
            share * tint + (1 - share) * card for tint, card in zip(parsed(scheme["blue"]), parsed(scheme["card"]), strict=True)
        )
        variable = re.fullmatch(r"var\(--(\w+)\)", color or "var(--text)")
        text = parsed(scheme[variable.group(1)] if variable else color)
        assert contrast(text, (red, green, blue)) >= 4.5, number


def test_paper_is_white_whatever_the_screen_is() -> None:
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE
    assert "@media print" in STYLE


def test_what_the_keyboard_reaches_is_framed_and_the_first_column_stays() -> None:
    assert re.search(r":focus-visible \{ outline: 2px solid", STYLE)
    assert re.search(r"\.scroll th:first-child \{ position: sticky; left: 0;", STYLE)
