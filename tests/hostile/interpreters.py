"""Interpreters that serve bundles: this one, and one with ONNX Runtime 1.20.1 where `MINGLE_ORT_1_20` names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mingle_edge_runtime

INTERPRETERS = [sys.executable, *filter(None, [os.environ.get("MINGLE_ORT_1_20")])]
every_interpreter = pytest.mark.parametrize("interpreter", INTERPRETERS, ids=["newest", "oldest"][: len(INTERPRETERS)])


def output_of(interpreter: str, *arguments: object) -> str:
    """Return what a process that knows the runtime alone prints; it must end well and print nothing else."""
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    command = [interpreter, *map(str, arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout
