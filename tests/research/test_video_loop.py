"""The benchmark of sustained load runs as a user would run it, without anything of the workstation side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_bundle import images

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("frames")
    for i, picture in enumerate(images(0, 0, 2, 2, 3, 1)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("way", ["submit", "stream", "named"])
@pytest.mark.parametrize(("scope", "from_files"), [("image", True), ("image", False), ("layer", True)])
def test_video_loop(bundles, frames, way: str, scope: str, from_files: bool) -> None:
    source = [str(frames)] if from_files else []
    options = ["--minutes", "0.004", "--cut", "0.05", "--cool-down", "0", "--threads", "1", "--way", way]
    command = [sys.executable, str(ROOT / "benchmarks/video_loop.py"), str(bundles[scope, 1]), *source, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    header, minute, total, *reuse = result.stdout.splitlines()
    assert header.split()[:3] == ["minute", "frames", "per"]
    count = int(minute.split()[1])
    assert count > 0
    assert int(minute.split()[7]) >= 1  # cuts
    assert re.match(rf"all: {count} frames, [\d.]+ per s, .* ms; last full minute 1.000 x the first; throttled ", total)
    assert [line.startswith(f"route reuse: StreamStats(frames={count}, ") for line in reuse] == [True] * (way == "stream")
