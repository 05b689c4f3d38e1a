"""The server's page in headless Chromium: the model's answers, on a phone's width, in both color schemes, by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from running_server import png
from tiny_bundle import images


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A green picture, and one that is broken."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "green.png").write_bytes(png(images(1)[0]))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def seen(server, files, chromium):
    address = f"http://localhost:{server.port}/"
    return chromium(Path(__file__).with_name("page.mjs"), address, files / "green.png", files / "broken.png", "red")


def test_its_answers_are_the_models(seen, model, files) -> None:
    for scheme, task in (("light", None), ("dark", None), ("named", "red")):
        (prediction,) = model.classify(files / "green.png", task=task)
        shown = seen[scheme]
        assert shown["answer"] == f"{prediction.label} ({prediction.task}), {100 * prediction.probability:.1f}%"
        assert shown["route"] == prediction.route.tasks[0]
        assert all(row.startswith(label) for row, label in zip(shown["labels"], prediction.labels, strict=True))
    assert seen["light"]["posterior"] == 3
    assert seen["named"]["posterior"] == 0
    assert seen["named"]["confidence"] == "no router was asked"
    assert re.fullmatch(r"[\d.]+ [kM]B of [\d.]+ [kM]B", seen["light"]["resident"])


def test_it_fits_a_phone_in_both_color_schemes(seen) -> None:
    assert seen["widths"] == [360, 360]
    assert seen["light"]["background"] != seen["dark"]["background"]


def test_it_is_used_by_keyboard(seen) -> None:
    assert seen["keyboard"] == ["task", "choose", "camera"]
    assert (seen["button"], seen["stopped"]) == ("Stop the camera", True)


def test_the_camera_is_answered(seen) -> None:
    assert re.fullmatch(r"\w+ \d \(\w+\), [\d.]+%", seen["camera"]["answer"])


def test_what_is_no_picture_is_told_and_no_old_answer_stays(seen) -> None:
    assert seen["problem"].startswith("image 0 cannot be read as an image")
    assert seen["resultAfterProblem"] is False


def test_it_asks_nobody_else_and_nothing_is_forbidden_to_it(seen) -> None:
    assert seen["outside"] == []
    failed = "Failed to load resource: the server responded with a status of 400"
    assert [text for text in seen["complaints"] if not text.startswith(failed)] == []
    assert len(seen["complaints"]) == 1  # of the broken picture
