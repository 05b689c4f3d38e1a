"""`mingle-edge export`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mingle_edge.cli.byte_size import byte_size, format_bytes
from mingle_edge.cli.expert_table import expert_table
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line
from mingle_edge.cli.text_table import text_table
from mingle_edge.core.wording import count, name_of_stage

if TYPE_CHECKING:
    from mingle_edge_export import ExportReport, PartParity, TaskAccuracy
    from mingle_edge_runtime.bundle.index import BundleIndex

PRECISIONS = ("fp32", "fp16", "int8", "int4")


@click.command(short_help="Turn a merged model into a bundle for a device.")
@click.argument("merged", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="BUNDLE", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--top-k", default=1, show_default=True, type=click.IntRange(min=1), help="Experts per image or layer.")
@click.option(
    "--tasks",
    metavar="A,B",
    callback=lambda _, option, value: value if value is None else [name.strip() for name in value.split(",")],
    help="Tasks to export, in this order.  [default: all]",
)
@click.option("--fold", metavar="TASK", help="Merge one task into the weights; export it alone.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(PRECISIONS), help="Of the backbone.")
@click.option("--expert-precision", type=click.Choice(PRECISIONS), help="Of experts.  [default: the backbone's]")
@click.option(
    "--keep", metavar="POINTS", type=click.FloatRange(0, 100), help="Smallest experts that lose no more points of accuracy."
)
@click.option("--expert-bytes", metavar="SIZE", callback=byte_size, help="Best experts of at most that size each, like 3MB.")
@click.option("--router-precision", type=click.Choice(PRECISIONS), help="Of the blocks it reads.  [default: the backbone's]")
@click.option(
    "--images",
    metavar="TASKS.toml",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Calibrate int8 on its seeds; report accuracy on its test images. Once for each task file.",
)
@click.option("--min-cosine", type=click.FloatRange(0, 1), help="Fail below.  [default: by precision]")
@click.option("--min-route-agreement", type=click.FloatRange(0, 1), help="Fail below.  [default: by precision]")
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 100), help="Points; fail above.  [default: 0.5]")
def command(merged: Path, output: Path, images: tuple[Path, ...], **options: Any) -> None:
    """Write MERGED as ONNX graphs with experts that load on demand.

    The graphs are compared with the merged model in PyTorch; where they differ
    by more than their precision may, nothing is written. A bundle runs in any
    ONNX Runtime from 1.20 on (layer scope with experts in int4: from 1.23 on).

    fp16 halves files and experts in memory; int8 is fastest; int4 is smallest.
    --keep and --expert-bytes choose a rank and int8 or int4 for each task, by
    what was measured on seeds that its expert was not adapted on.
    """
    check_kinds("export", [(merged, PathKind.MERGED_MODEL)])
    check_kinds("export --images", [(path, PathKind.TASK_FILE) for path in images])
    started = time.perf_counter()
    from mingle_edge_export import AccuracyError, ExportOptions, ParityError, export_bundle
    from mingle_edge_runtime.bundle.bundle import Bundle

    chosen = ExportOptions(images=images or None, **options)
    try:
        with if_interrupted(lambda: _written(output)), ProgressBar() as progress:
            report = export_bundle(merged, output, chosen, progress=progress)
    except ParityError as error:
        for line in accuracy_table(error.accuracy) if isinstance(error, AccuracyError) else parity_table(error.parts):
            click.echo(one_line(line))
        raise
    index = Bundle.open(output).index
    click.echo(one_line(made(report, index, time.perf_counter() - started)))
    tables = (*expert_table(report.tasks), *accuracy_table(report.accuracy))
    for line in (*closeness(report), *tables, *unmeasured(report, index, images)):
        click.echo(one_line(line))
    suggest("verify", output, note="on the device, where the bundle was copied to")


def made(report: ExportReport, index: BundleIndex, seconds: float) -> str:
    """Say in a line what was written."""
    size = format_bytes(sum(report.files.values()))
    stages = [] if index.router is None else [name_of_stage(stage.name, stage.blocks) for stage in index.router.stages]
    depth = f", routed by {', '.join(stages)}" if stages else ""
    return (
        f"{report.path}: {count(len(report.files), 'file')}, {size}, {count(len(index.tasks), 'task')}{depth}, {seconds:.1f} s"
    )


def closeness(report: ExportReport) -> Iterator[str]:
    """Yield the lines that say how close a bundle is to PyTorch."""
    parity = report.parity
    yield f"PyTorch and ONNX: cosine at least {parity.cosine:.7f}, elements differ by at most {parity.max_abs:.1e}"
    yield f"routes that agree: {parity.route_agreement:.1%}"
    if report.exact_layers:
        yield f"in fp32: {', '.join(report.exact_layers)}"


def unmeasured(report: ExportReport, index: BundleIndex, images: Sequence[Path]) -> Iterator[str]:
    """Yield a line that names the tasks whose accuracy was asked for and that have no test images."""
    measured = {task.task for task in report.accuracy}
    if images and (left := [name for name in index.task_names if name not in measured]):
        yield f"not measured, as {', '.join(map(str, images))} gives no test images: {', '.join(left)}"


def parity_table(parts: Sequence[PartParity]) -> Iterator[str]:
    """Yield a line for each part that was compared, on images made from nothing."""
    rows = []
    for part in parts:
        cosine = "" if part.cosine is None else f"{part.cosine:.7f}"
        routes = f"{part.agreeing / part.routes:.1%} ({part.agreeing} of {part.routes})" if part.routes else ""
        rows.append([part.part, cosine, routes])
    if rows:
        yield from text_table(["part", "least cosine", "routes that agree"], rows)


def accuracy_table(tasks: Sequence[TaskAccuracy]) -> Iterator[str]:
    """Yield a line for each task and protocol with what the precision costs, and their means; nothing without images."""
    from mingle_edge_export.report import accuracy_drop

    means = [("mean", tasks)] if len(tasks) > 1 else []
    rows = []
    for name, of in [*((task.task, [task]) for task in tasks), *means]:
        for protocol, accuracies in (("P1", [task.routed for task in of]), ("P2", [task.named for task in of])):
            before, after = (sum(each.percent[i] for each in accuracies) / len(accuracies) for i in (0, 1))
            images, lost = sum(each.images for each in accuracies), accuracy_drop(accuracies)
            figures = [f"{value:.2f}" for value in (before, after, lost.estimate)]
            rows.append([name, str(images), protocol, *figures, f"{lost.low:.2f} to {lost.high:.2f}"])
    if rows:
        yield from text_table(["accuracy", "images", "", "PyTorch", "ONNX", "lost", "95% interval"], rows)


def _written(output: Path) -> str:
    """Say whether an interrupted export came to its end."""
    if (output / "bundle.json").exists():
        return f"the bundle {output} is whole"
    return "no bundle was written; start again"
