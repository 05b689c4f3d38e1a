"""The pages and the overview in headless Chromium, on a screen of 360 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison_results import TASKS, results
from PIL import Image
from tiny_bundle import images

from mingle_edge.cli.profile.page import page as profile_page
from mingle_edge.comparison.page import page as comparison_page
from mingle_edge_runtime.profile import BASELINES, profile

OVERVIEW = Path(__file__).parents[2] / "docs/images/overview.svg"
README = '<!DOCTYPE html><style>:root {{ color-scheme: light dark }} img {{ max-width: 100% }}</style><img src="{}">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the pages and pictures of them lie."""
    return tmp_path_factory.mktemp("phone")


@pytest.fixture(scope="module")
def seen(folder: Path, bundles, chromium) -> dict[str, dict[str, object]]:
    """What the browser saw, by page."""
    settings = {"against": BASELINES, "operators": True, "sweep": {"budget": [], "precision": [bundles["image", 2]]}}
    measured = profile(bundles["image", 1], images(0, 1), runs=6, threads=1, batch_sizes=(1, 3), **settings)
    pages = {
        "profile": profile_page(measured),
        "comparison": comparison_page(results()),
        "small comparison": comparison_page(results(tasks=TASKS[:2], labels=("pretrained", "individual", "ties"), orders=1)),
        "overview": README.format(OVERVIEW.as_uri()),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    told = chromium(Path(__file__).with_name("phone.mjs"), folder, *(folder / f"{name}.html" for name in pages))
    return dict(zip(pages, told, strict=True))


@pytest.mark.parametrize("name", ["profile", "comparison", "small comparison"])
def test_a_page_fits_the_screen_and_its_charts_fit_the_page(seen, name: str) -> None:
    assert seen[name]["width"] == 360
    assert seen[name]["outside"] == []
    assert seen[name]["texts"] > 50


def test_a_table_that_is_wider_scrolls_by_the_keyboard_and_keeps_its_first_column(seen) -> None:
    for name in ("profile", "comparison", "small comparison"):
        assert (seen[name]["unreachable"], seen[name]["moved"]) == (0, 0)
    assert seen["comparison"]["scrolling"] >= 7
    assert seen["profile"]["scrolling"] <= 1  # every run of the experts, which is folded


def test_the_overview_is_dark_in_a_dark_page(seen, folder: Path) -> None:
    assert seen["overview"]["width"] == 360
    brightness = {}
    for scheme in ("light", "dark"):
        with Image.open(folder / f"{scheme}.png") as picture:
            values = picture.convert("L").resize((1, 1), Image.Resampling.BOX)
        brightness[scheme] = values.getpixel((0, 0))
    assert brightness["light"] > 200
    assert brightness["dark"] < 70
