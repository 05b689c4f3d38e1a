"""`mingle-edge compare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.exit_codes import ExitCode
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest, unused
from mingle_edge.cli.path_kind import PathKind, PathKindError, check_kinds, kind_of
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line
from mingle_edge.core.wording import count

if TYPE_CHECKING:
    from mingle_edge.data.corruptions import Corruption


@click.command(short_help="What merging costs, method by method, on your tasks.")
@click.argument("task_files", metavar="TASKS.toml...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="DIR", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--methods", metavar="LIST", help="Such as ties,'mingle(steps=10)'.  [default: one of each kind]")
@click.option("--ablation", "ablations", metavar="NAME", multiple=True, help="Also a table of the paper, or compression.")
@click.option("--orders", default=10, show_default=True, type=click.IntRange(1, 1000), help="Task orders to average over.")
@click.option("--seed", default=42, show_default=True, type=int, help="Of the orders and of everything random.")
@click.option("--tune", is_flag=True, help="Choose parameters on the validation images, 5 trials a method.")
@click.option("--corruptions", metavar="LIST", help="Also on corrupted images: all, or names.")
@click.option("--severity", type=click.IntRange(1, 5), help="Of the corruptions.  [default: 5]")
@click.option(
    "--step-images",
    metavar="N",
    type=click.IntRange(min=0),
    help="Test images per task for states that are neither its own nor the last; 0: skip those states.  [default: all]",
)
@click.option("--unmerged", metavar="NAME", multiple=True, help="Never merge this task, and measure what is known of it.")
@click.option("--address", metavar="HOST:PORT", help="Of a Ray cluster.  [default: Ray on this machine]")
@click.option("--no-ray", is_flag=True, help="Cells one after another, in this process.")
@shared_options.device
@click.option(
    "--list",
    "listed",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda c, p, v: _list(c, v),
    help="Show all methods, their parameters and the ablations.",
)
def command(
    task_files: tuple[Path, ...], output: Path, corruptions: str | None, severity: int | None, no_ray: bool, **options: Any
) -> None:
    """Compare methods of merging on the tasks of TASKS.toml, as the paper does.

    Several task files are compared together, as one list of tasks.

    Tasks arrive one after another, in several orders. ACC is the mean accuracy
    in the end, BWT what earlier tasks lost since their own merge, FWT what
    later ones gain beforehand. P1: the head is given. P2: head and task are
    given. P3: nothing is given, the labels of all tasks compete.

    DIR holds report.html, results.json, results.csv, routes.csv, and every
    finished cell: run the same command again to continue, or to add methods.
    """
    if corruptions is None and severity is not None:
        raise click.UsageError("--severity is that of --corruptions: add --corruptions, or leave it out")
    if no_ray and options["address"] is not None:
        raise click.UsageError("--address names a Ray cluster and --no-ray uses none: leave out one of them")
    check_kinds("compare", [(path, PathKind.TASK_FILE) for path in task_files])
    if (kind := kind_of(output)) in (PathKind.BUNDLE, PathKind.MERGED_MODEL):
        raise PathKindError(f"{output} is {kind.value}, and the results need a folder of their own; name another after -o")
    started = time.perf_counter()
    from mingle_edge.comparison.compare import ComparisonOptions, compare
    from mingle_edge.comparison.table import format_table

    chosen = ComparisonOptions(**options, corruptions=_corruptions(corruptions, severity or 5), parallel=not no_ray)
    with if_interrupted(lambda: _kept(output)), ProgressBar() as progress:
        results = compare(task_files, output, chosen, progress=progress)
    click.echo(format_table(results))
    click.echo(f"\nreport: {output / 'report.html'}\nfigures: {output / 'results.json'}, {output / 'results.csv'}")
    methods, orders = count(len(results["methods"]), "method"), count(len(results["orders"]), "task order")
    tasks, seconds = count(len(results["tasks"]), "task"), time.perf_counter() - started
    click.echo(one_line(f"{output}: {methods}, {tasks}, {orders}, {seconds:.1f} s"))
    if failed := results["failed"]:
        for cell in failed:
            click.echo(one_line(f"failed: {cell['method']}, order {', '.join(cell['order'])}: {cell['error']}"), err=True)
        click.echo("the same command tries what failed again", err=True)
        raise click.exceptions.Exit(ExitCode.PARTLY)
    suggest("merge", task_files[0], "-o", unused("merged"))


def _kept(output: Path) -> str:
    """Say what an interrupted comparison has finished."""
    cells = sum(1 for _ in (output / "cells").glob("*.json"))
    if not cells:
        return "no cell was finished; the same command starts again"
    return f"{count(cells, 'finished cell')} {'is' if cells == 1 else 'are'} kept in {output}; the same command continues"


def _corruptions(text: str | None, severity: int) -> tuple[Corruption, ...]:
    from mingle_edge.data.corruptions import CORRUPTIONS, Corruption

    if text is None:
        return ()
    names = CORRUPTIONS if text.strip() == "all" else [name.strip() for name in text.split(",")]
    return tuple(Corruption(name, severity) for name in names)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted:
        return
    from mingle_edge.comparison.entries import ABLATIONS
    from mingle_edge.comparison.registry import SPECS

    for spec in SPECS.values():
        click.echo(f"{spec.name}: {spec.summary}")
        parameters = ", ".join(f"{key}={value}" for key, value in spec.published(8).items())
        if parameters:
            click.echo(f"    {parameters}")
    click.echo("\nablations")
    for name, methods in ABLATIONS.items():
        click.echo(f"{name}: {methods}")
    context.exit()
