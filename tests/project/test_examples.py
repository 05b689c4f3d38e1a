"""The examples run as a user would run them, without anything of the workstation side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_bundle import images

import mingle_edge_runtime

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("frames")
    for i, picture in enumerate(images(0, 0, 2, 2, 3, 1)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def example(name: str, *arguments: object) -> list[str]:
    """Lines that an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    return result.stdout.splitlines()


@pytest.mark.parametrize("way", ["submit", "stream", "named"])
@pytest.mark.parametrize(("scope", "from_files"), [("image", True), ("image", False), ("layer", True)])
def test_video_loop(bundles, frames, way: str, scope: str, from_files: bool) -> None:
    source = [frames] if from_files else []
    options = ["--minutes", 0.004, "--cut", 0.05, "--cool-down", 0, "--threads", 1, "--way", way]
    header, minute, total, *reuse = example("video_loop.py", bundles[scope, 1], *source, *options)
    assert header.split()[:3] == ["minute", "frames", "per"]
    count = int(minute.split()[1])
    assert count > 0
    assert int(minute.split()[7]) >= 1  # cuts
    assert re.match(rf"all: {count} frames, [\d.]+ per s, .* ms; last full minute 1.000 x the first; throttled ", total)
    assert [line.startswith(f"route reuse: StreamStats(frames={count}, ") for line in reuse] == [True] * (way == "stream")


def test_onboard(image_bundle, frames) -> None:
    lines = example("onboard.py", image_bundle, *sorted(frames.iterdir()))
    assert len(lines) == 7
    assert [re.search(r"by (.*),", line)[1] for line in lines[:6]] == ["red", "red", "blue", "blue", "plain backbone", "green"]
    assert lines[-1].startswith("experts: ")
