"""The example that needs nothing of this project, against the answers of the runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from javascript import EXAMPLES

from mingle_edge_runtime import EdgeModel

# A program that refuses to import this project, and then runs another.
ALONE = """
import runpy, sys
for name in ("mingle_edge", "mingle_edge_export", "mingle_edge_runtime"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(bundle: Path, images: list[Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(EXAMPLES / "onnxruntime_only.py"), str(bundle), *map(str, images)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", ["image-fp32", "image-int8"])
def test_answers_are_the_runtime_s(exported, fifty, kind: str) -> None:
    done = run(exported(kind), fifty)
    assert (done.stderr, done.returncode) == ("", 0)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(map(str, fifty))
    with EdgeModel.open(exported(kind), threads=1) as model:
        for line, prediction in zip(lines, model.classify(fifty, top=1), strict=True):
            _, label, task, probability, expert = line
            assert (label, task) == (prediction.label, prediction.task)
            assert abs(float(probability) - prediction.probability) <= (1e-3 if kind == "image-fp32" else 0.05)
            assert expert == (prediction.route.tasks[0] if prediction.route.tasks else "none, the plain backbone")


@pytest.mark.parametrize("kind", ["image-int4", "image-int8-two-experts", "layer-fp32", "folded"])
def test_a_bundle_that_takes_more_is_refused(exported, fifty, kind: str) -> None:
    done = run(exported(kind), fifty[:1])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: this bundle takes more than plain ONNX Runtime and these lines: use mingle_edge_runtime\n"


def test_what_cannot_be_read_is_one_line(exported, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for bundle, image in [
        (exported("image-fp32"), "missing.png"),
        (exported("image-fp32"), "text.png"),
        (tmp_path, "text.png"),
    ]:
        done = run(bundle, [tmp_path / image])
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert done.stderr.startswith("error: ")
        assert str(tmp_path) in done.stderr
