"""Programs of this machine, and what to say where one is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

DEBIAN_PACKAGES = {
    "qemu-x86_64-static": "qemu-user-static",
    "qemu-aarch64-static": "qemu-user-static",
    "node": "nodejs",
    "npm": "npm",
    "apt-get": "apt",
    "dpkg": "dpkg",
}


class UnavailableError(Exception):
    """This machine lacks what a measurement needs; the message says what to install. Its cells stay unmeasured."""


def find(program: str) -> str:
    """Return the path of a program. Raises `UnavailableError` naming the Debian package to install."""
    path = shutil.which(program)
    if path is None:
        raise UnavailableError(f"{program} is not installed: apt-get install {DEBIAN_PACKAGES[program]}")
    return path


def prepare(what: str, command: Sequence[str]) -> None:
    """Run a command that fetches or unpacks something. Raises `UnavailableError` with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise UnavailableError(f"{what} cannot be installed: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """Return the last line that says something, at most 200 characters of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
