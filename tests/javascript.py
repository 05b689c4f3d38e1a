"""Starts programs in JavaScript, with the node that the lock file installs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
NODE = Path(sys.executable).with_name("node")


def node(script: Path, *arguments: object, status: int = 0, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Run a script; what it prints, and what it complains of."""
    command = [str(NODE), str(script), *map(str, arguments)]
    variables = os.environ | (environment or {})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr
