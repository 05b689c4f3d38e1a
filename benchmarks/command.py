"""The options and the report that the benchmarks' commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from mingle_edge_runtime.ort.machine import machine_record


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as help and takes `--json`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser


def write_report(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write figures and the machine they are of as JSON; nothing without a path."""
    if path is not None:
        path.write_text(report(figures) + "\n")


def report(figures: Mapping[str, object]) -> str:
    """Return figures and the machine they are of as JSON."""
    return json.dumps({**figures, "machine": machine_record()}, indent=1)
