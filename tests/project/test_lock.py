"""The lock files hold what pyproject.toml asks for, and nothing that is true of one machine alone."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "locks" / "development.txt", ROOT / "locks" / "onnxruntime-1.20.txt"]
EXTRAS = ("cpu", "merge", "demo", "dev")  # what the Makefile installs


def releases(lock: Path) -> dict[str, list[str]]:
    """The releases in a lock file by name; a package may have one per Python version."""
    by_name: dict[str, list[str]] = {}
    for name, release in re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE):
        by_name.setdefault(name, []).append(release)
    return by_name


def not_locked(asked: list[str], lock: Path) -> list[str]:
    """Requirements that have no release in the lock file, or one that they do not allow."""
    locked = releases(lock)
    wanted = {text: Requirement(text) for text in asked}
    present = {text: locked.get(canonicalize_name(requirement.name), []) for text, requirement in wanted.items()}
    return [text for text in asked if not present[text] or not all(map(wanted[text].specifier.contains, present[text]))]


def test_every_dependency_is_locked_at_a_release_that_pyproject_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = project["build-system"]["requires"] + project["project"]["dependencies"] + [r for e in EXTRAS for r in extras[e]]
    assert not_locked(asked, LOCKS[0]) == [], "run `make lock`"


def test_the_oldest_onnxruntime_is_locked() -> None:
    asked = [line for line in LOCKS[1].with_suffix(".in").read_text().splitlines() if not line.startswith("#")]
    assert not_locked(asked, LOCKS[1]) == [], "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_lines_are_releases_and_hashes_and_name_no_index_or_folder_of_a_machine(lock: Path) -> None:
    line = re.compile(
        r"[a-z0-9-]+==\S+ (; [^/]+ )?\\| {4}--hash=sha256:[0-9a-f]{64}( \\)?| *#[^/:]*(:|\(pyproject.toml\)|locks/\S+)?"
    )
    assert [text for text in lock.read_text().splitlines() if not line.fullmatch(text)] == []
