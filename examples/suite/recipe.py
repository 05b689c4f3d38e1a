"""Whether something on the disk was made by the recipe of today: a hash of code and numbers, kept beside what it made."""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path
from types import ModuleType

from mingle_edge.durable import flush


def recipe(*parts: object) -> str:
    """A hash of code (modules) and of whatever else has a telling `repr`."""
    texts = [_code(part) if isinstance(part, ModuleType) else repr(part) for part in parts]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def is_made(path: Path, by: str) -> bool:
    """Whether a file or folder is there and the recipe beside it is this one."""
    beside = _beside(path)
    return path.exists() and beside.is_file() and beside.read_text() == by


def publish(partial: Path, path: Path, by: str) -> None:
    """Rename what is finished into its place, which must be free, and write its recipe beside it."""
    partial.rename(path)
    flush(path.parent)
    _beside(path).write_text(by)


def withdraw(path: Path) -> Path:
    """Forget the recipe of what is about to be made again, and return where to make it; `path` itself is still there."""
    _beside(path).unlink(missing_ok=True)
    return path.with_name(f"{path.name}.partial")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.recipe")


def _code(module: ModuleType) -> str:
    """A module as a syntax tree without docstrings, so that neither comments nor layout count."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
