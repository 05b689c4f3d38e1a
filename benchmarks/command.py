"""The options and the report that the benchmarks' commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from mingle_edge_runtime.ort.machine import machine_record


def make_parser(doc: str | None, *paths: str, **options: object) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as help and takes `--json`.

    paths: names of paths that must be given. options: a default by name, or the type of an option that has none.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(name, type=Path)
    for name, default in options.items():
        kind, value = (default, None) if isinstance(default, type) else (type(default), default)
        parser.add_argument(f"--{name}", type=kind, default=value, help=None if value is None else f"[default: {value}]")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser


def write_report(path: Path | None, figures: Mapping[str, object], *, show: bool = False) -> None:
    """Write figures and the machine they are of as JSON, where a path is given, and print them where they are to be shown."""
    text = json.dumps({**figures, "machine": machine_record()}, indent=1)
    if path is not None:
        path.write_text(text + "\n")
    if show:
        print(text)
