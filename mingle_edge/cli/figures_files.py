"""The files that a command writes its figures to, beside showing them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import click

from mingle_edge.files.output_path import write_output


class Report(Protocol):
    """Figures that JSON can hold."""

    def to_json(self) -> dict[str, Any]:
        """Return them as an object of JSON."""


def write_and_show(
    report: Report,
    lines: Iterable[str],
    json_path: Path | None,
    html_path: Path | None = None,
    page: Callable[[], str] | None = None,
) -> None:
    """Write the files that were asked for and print `lines`, which are not lost with a file that cannot be written.

    page: makes the page of `html_path`. Raises `OutputError`.
    """
    try:
        if json_path is not None:
            write_output(json_path, json.dumps(report.to_json(), indent=1) + "\n")
        if html_path is not None and page is not None:
            write_output(html_path, page())
    finally:
        click.echo("\n".join(lines))
