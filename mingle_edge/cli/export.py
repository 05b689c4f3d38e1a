"""`mingle-edge export`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.progress_bar import ProgressBar


@click.command(short_help="Turn a merged model into a bundle for a device.")
@click.argument("merged", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="BUNDLE", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--top-k", default=1, show_default=True, type=click.IntRange(min=1), help="Experts per image or layer.")
@click.option("--tasks", metavar="A,B", help="Tasks to export, in this order.  [default: all]")
def command(merged: Path, output: Path, top_k: int, tasks: str | None) -> None:
    """Write MERGED as ONNX graphs with experts that load on demand.

    The graphs are compared with the merged model in PyTorch; where they
    differ nothing is written. They use standard ONNX operators alone and run
    in any ONNX Runtime from 1.20 on.
    """
    from mingle_edge_export import export_bundle

    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    with ProgressBar() as progress:
        report = export_bundle(merged, output, top_k=top_k, tasks=names, progress=progress)
    count = sum(report.files.values())
    click.echo(f"{output}: {len(report.files)} files, {format_bytes(count)}")
    parity = report.parity
    click.echo(f"PyTorch and ONNX: cosine at least {parity.cosine:.7f}, elements differ by at most {parity.max_abs:.1e}")
