"""Changes of a bundle whose recorded sizes and hashes are right, as an attacker makes them. Shared by several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from tiny_bundle import relist, rewrite


def put(bundle: Path, name: str, content: bytes) -> None:
    """Give a file of the bundle other content."""

    def fit(record: dict[str, Any]) -> None:
        for task in record["tasks"]:
            if task.get("expert") == name:
                task["expert_bytes"] = len(content)

    (bundle / name).write_bytes(content)
    relist(bundle, name)
    rewrite(bundle, fit)


def member(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets a member of bundle.json, for `rewrite`."""

    def apply(record: Any) -> None:
        for step in path[:-1]:
            record = record[step]
        record[path[-1]] = to

    return apply


@contextmanager
def changed_graph(bundle: Path, name: str = "tower.onnx") -> Iterator[onnx.ModelProto]:
    """Read a graph of the bundle without its weights, to be changed, and write it again."""
    model = onnx.load(bundle / name, load_external_data=False)
    yield model
    put(bundle, name, model.SerializeToString())


def flip_bit(path: Path) -> None:
    """Change the middle of a file, and no record of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
