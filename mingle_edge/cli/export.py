"""`mingle-edge export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line

if TYPE_CHECKING:
    from mingle_edge_export import ExportReport

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
@click.option("--router-precision", type=click.Choice(PRECISIONS), help="Of the blocks it reads.  [default: the backbone's]")
@click.option(
    "--images",
    metavar="TASKS.toml",
    type=click.Path(path_type=Path),
    help="Calibrate int8 on its seeds; report accuracy on its test images.",
)
@click.option("--min-cosine", type=click.FloatRange(0, 1), help="Fail below.  [default: by precision]")
@click.option("--min-route-agreement", type=click.FloatRange(0, 1), help="Fail below.  [default: by precision]")
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 100), help="Points; fail above.  [default: 0.5]")
def command(merged: Path, output: Path, **options: Any) -> None:
    """Write MERGED as ONNX graphs with experts that load on demand.

    The graphs are compared with the merged model in PyTorch; where they differ
    by more than their precision may, nothing is written. A bundle runs in any
    ONNX Runtime from 1.20 on (layer scope with experts in int4: from 1.23 on).

    fp16 halves files and experts in memory; int8 is fastest; int4 is smallest.
    """
    from mingle_edge_export import ExportOptions, export_bundle

    with ProgressBar() as progress:
        report = export_bundle(merged, output, ExportOptions(**options), progress=progress)
    click.echo("\n".join(map(one_line, table(report))))


def table(report: ExportReport) -> Iterator[str]:
    """Yield the lines that say what was written, how close it is to PyTorch, and what that means for accuracy."""
    yield f"{report.path}: {len(report.files)} files, {format_bytes(sum(report.files.values()))}"
    parity = report.parity
    yield f"PyTorch and ONNX: cosine at least {parity.cosine:.7f}, elements differ by at most {parity.max_abs:.1e}"
    yield f"routes that agree: {parity.route_agreement:.1%}"
    if report.exact_layers:
        yield f"in fp32: {', '.join(report.exact_layers)}"
    if report.accuracy:
        width = max(len("accuracy"), *(len(task.task) for task in report.accuracy))
        yield f"{'accuracy':<{width}}  images    P1: PyTorch, ONNX    P2: PyTorch, ONNX"
        for task in report.accuracy:
            routed, named = (f"{before:12.2f}  {after:6.2f}" for before, after in (task.routed, task.named))
            yield f"{task.task:<{width}}  {task.images:6d} {routed} {named}"
