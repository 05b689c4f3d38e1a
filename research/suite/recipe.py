"""Whether something on the disk was made by the recipe of today: a hash of code and numbers, kept beside what it made."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from mingle_edge.files.atomic_files import flush, write_text
from mingle_edge.files.partial_folder import partial_folder


def recipe(*parts: object) -> str:
    """Return a hash of code (modules) and of whatever else has a telling `repr`."""
    texts = [_code(part) if isinstance(part, ModuleType) else repr(part) for part in parts]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def is_made(path: Path, by: str) -> bool:
    """Return whether a file or folder is there and the recipe beside it is this one."""
    beside = _beside(path)
    return path.exists() and beside.is_file() and beside.read_text() == by


@contextmanager
def making(path: Path, by: str) -> Iterator[Path]:
    """Yield where to make a file or folder again; when the block ends it has its place, and its recipe is beside it."""
    _beside(path).unlink(missing_ok=True)
    with partial_folder(path.parent, path.name) as folder:
        yield folder / path.name
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(folder / path.name, path)
        flush(path.parent)
    write_text(_beside(path), by)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.recipe")


def _code(module: ModuleType) -> str:
    """Return a module as a syntax tree without docstrings, so that neither comments nor layout count."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
