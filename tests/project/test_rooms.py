"""The rooms of each package: arrows between them lead down alone, and no module lies beside them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "mingle_edge": (
        *("core", "files", "clip", "data", "checkpoints", "experts", "gates", "routing", "merging", "checking"),
        *("evaluation", "pages", "comparison", "card", "demo", "cli"),
    ),
    "export/mingle_edge_export": ("graph", "precision", "tower", "check", "bundle"),
    "runtime/mingle_edge_runtime": ("bundle", "images", "ort", "experts", "scopes", "check", "serving", "profile"),
    "server/mingle_edge_server": ("protocol", "inference", "web"),
}
"""From the lowest to the highest: a room imports those before it."""


def imported(path: Path) -> Iterator[list[str]]:
    """The parts of the name of each module that a file imports, and of what it imports from there, wherever that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}".split(".") for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".") for name in node.names)


@pytest.mark.parametrize("folder", ROOMS)
def test_every_import_between_rooms_leads_down(folder: str) -> None:
    package, rooms = folder.split("/")[-1], ROOMS[folder]
    assert sorted(rooms) == sorted(path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))
    arrows = {
        (room, other): path.relative_to(ROOT)
        for room in rooms
        for path in (ROOT / folder / room).rglob("*.py")
        for top, *others in imported(path)
        for other in others[:1]
        if top == package and other in rooms
    }
    assert len(arrows) > len(rooms)  # or nothing was found
    up = {arrow: str(path) for arrow, path in arrows.items() if rooms.index(arrow[1]) > rooms.index(arrow[0])}
    assert not up


def test_nothing_lies_beside_the_rooms() -> None:
    assert [path.name for path in (ROOT / "mingle_edge").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("folder", ["mingle_edge", "export", "runtime", "server"])
def test_the_wheel_imports_nothing_that_is_no_part_of_it(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not {top for top, *_ in imported(path)} & {"research", "benchmarks", "devices", "examples"}, path
