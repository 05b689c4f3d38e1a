"""`mingle-edge evaluate`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.figures_files import write_and_show
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest, unused
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line
from mingle_edge.cli.text_table import text_table
from mingle_edge.core.wording import count
from mingle_edge.evaluation.protocols import HEAD_GIVEN, PROTOCOLS
from mingle_edge.files.output_path import check_output_file

if TYPE_CHECKING:
    from mingle_edge.evaluation.evaluate import EvaluationReport


@click.command(short_help="Accuracy and forgetting of a merged model.")
@click.argument("merged", type=click.Path(path_type=Path))
@click.argument("task_files", metavar="TASKS.toml...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top-k", type=click.IntRange(min=1), help="Experts per image or layer.  [default: 1; layer scope: all]")
@click.option("--pooled", is_flag=True, help="Layer scope: pool gates over batches of one task, as published.")
@shared_options.device
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write all figures to this file.")
def command(
    merged: Path, task_files: tuple[Path, ...], top_k: int | None, pooled: bool, device: str, json_path: Path | None
) -> None:
    """Measure the accuracy of MERGED on the test images that TASKS.toml names.

    Name every task file that MERGED was merged from, also those of --into.

    P1: the head is given, the route is not. P2: head and task are given. P3:
    nothing is given, the labels of all tasks compete. BWT is what earlier tasks
    lost since their own merge.
    """
    check_kinds("evaluate", [(merged, PathKind.MERGED_MODEL), *((path, PathKind.TASK_FILE) for path in task_files)])
    check_output_file(json_path, *task_files)
    started = time.perf_counter()
    from mingle_edge.evaluation.evaluate import evaluate

    with if_interrupted(lambda: "nothing was written; start again"), ProgressBar() as progress:
        report = evaluate(
            merged,
            task_files,
            top_k=top_k,
            pooling="batch" if pooled else "image",
            device=device,
            progress=progress,
        )
    write_and_show(report, map(one_line, table(report)), json_path)
    for line in router_lines(report):
        click.echo(one_line(line))
    seconds = time.perf_counter() - started
    tasks, images = count(len(report.tasks), "task"), count(sum(report.images), "test image")
    click.echo(one_line(f"{merged}: {tasks}, {images}, {seconds:.1f} s"))
    suggest("export", merged, "-o", unused("bundle"))


def router_lines(report: EvaluationReport) -> Iterator[str]:
    """Yield lines on the router: what its stages settle, how honest it is, what it refuses, and where it harms."""
    router = report.router
    if router is None:
        return
    yield "routed by " + ", ".join(f"{name} {share:.1f}%" for name, share in router.stages.items())
    before, after = (router.calibration_error[name] for name in ("uncalibrated", "calibrated"))
    yield f"expected calibration error of its probabilities {after:.1f}% ({before:.1f}% before calibration)"
    if router.foreign_refused and router.foreign_auroc is not None:
        shares = router.foreign_refused.values()
        yield (
            f"images of a task left out: {sum(shares) / len(shares):.1f}% refused as foreign, own images "
            f"{sum(report.unclaimed) / len(report.unclaimed):.1f}%; AUROC {router.foreign_auroc:.3f}"
        )
    for name, right in zip(report.tasks, report.final[HEAD_GIVEN], strict=True):
        if right < router.plain[name]:
            yield (
                f"task {name}: {right:.1f} under P1 is below the plain backbone's {router.plain[name]:.1f}; give more seeds, "
                "name the task when it is known, or group the tasks it is confused with"
            )


def table(report: EvaluationReport) -> Iterator[str]:
    """Yield lines with accuracies in percent: one for each task, then ACC and BWT."""
    routed = bool(report.own_route)
    head = ["task", "images", *PROTOCOLS, *(["routed right", "unclaimed"] if routed else [])]
    rows = []
    for i, name in enumerate(report.tasks):
        figures = [f"{report.final[protocol][i]:.1f}" for protocol in PROTOCOLS]
        routes = [f"{report.own_route[i]:.1f}%", f"{report.unclaimed[i]:.1f}%"] if routed else []
        rows.append([name, str(report.images[i]), *figures, *routes])
    for label, value in (("ACC", report.acc), ("BWT", report.bwt)):
        rows.append([label, "", *(f"{value(protocol):.1f}" for protocol in PROTOCOLS), *[""] * (len(head) - 5)])
    return text_table(head, rows)
