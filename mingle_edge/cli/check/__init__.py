"""`mingle-edge check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from mingle_edge.cli.exit_codes import ExitCode
from mingle_edge.cli.figures_files import write_and_show
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest, unused
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line
from mingle_edge.cli.text_table import text_table
from mingle_edge.files.output_path import check_output_file

if TYPE_CHECKING:
    from mingle_edge.checking.report import CheckReport

_FILE = click.Path(dir_okay=False, path_type=Path)
_WIDTH = 80  # characters


@click.command(short_help="What merge would find out, without merging.")
@click.argument("task_file", metavar="TASKS.toml", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=_FILE, help="Also write all figures to this file.")
@click.option("--html", "html_path", type=_FILE, help="Also write a page to this file.")
@click.pass_context
def command(ctx: click.Context, task_file: Path, json_path: Path | None, html_path: Path | None) -> None:
    """Check everything that TASKS.toml names, all of it at once.

    Faults are what merge would refuse. Warnings are what it would accept, but
    what is probably a mistake, such as a task fine-tuned from another backbone.
    The tables say what each checkpoint is, how far and in how many directions it
    moved, how alike tasks are, which of them the router will confuse, and how
    large the result will be. Exit code 3 where merge would refuse.
    """
    check_kinds("check", [(task_file, PathKind.TASK_FILE)])
    check_output_file(json_path, task_file, html_path)
    check_output_file(html_path, task_file)
    if html_path is not None:
        import mingle_edge.cli.check.page  # noqa: F401  # that it can be made is found out before the work
    from mingle_edge.checking.check import check

    with if_interrupted(lambda: "nothing was written; start again"), ProgressBar() as progress:
        report = check(task_file, progress=progress)
    write_and_show(report, _lines(report), json_path, html_path, lambda: _page(report))
    if report.refused:
        ctx.exit(ExitCode.INPUT)
    suggest("merge", task_file, "-o", unused("merged"))


def _page(report: CheckReport) -> str:
    from mingle_edge.cli.check.page import page

    return page(report)


def _lines(report: CheckReport) -> Iterator[str]:
    """Yield the report as a terminal shows it: faults and warnings last, where one looks first."""
    from mingle_edge.cli.check.tables import figures, headline, said

    for table in figures(report):
        if not table.wide:
            yield from wrap(f"{table.title}. {table.about}", _WIDTH)
            yield from map(one_line, text_table(table.head, table.rows))
            yield ""
    yield from (f"warning: {_shown(said(finding))}" for finding in report.warnings)
    yield from (f"fault: {_shown(said(finding))}" for finding in report.faults)
    yield one_line(headline(report))


def _shown(message: str) -> str:
    """Return a message with the lines of a list in it, and no line that a name could make."""
    return "\n  ".join(map(one_line, message.split("\n  ")))
