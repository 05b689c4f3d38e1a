"""`mingle-edge verify`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.progress_bar import ProgressBar


@click.command(short_help="Check a bundle's hashes and its outputs on this machine.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.  [default: one per core]")
@click.option("--provider", help="Execution provider of ONNX Runtime.  [default: cpu]")
def command(bundle: Path, threads: int | None, provider: str | None) -> None:
    """Check that BUNDLE is intact and computes right on this machine.

    Compares the hash of every file, then the outputs for the images that travel
    with the bundle against those of PyTorch. Exit code 2 where they differ.
    """
    from mingle_edge_runtime.verify import verify

    with ProgressBar() as progress:
        found = verify(
            bundle,
            [provider] if provider else None,
            threads,
            lambda done, total: progress("hashes", done, total),
        )
    click.echo(f"hashes: {found.files} files, {format_bytes(found.bytes)}, all as recorded")
    width = max(map(len, found.cosines))
    for name, cosine in found.cosines.items():
        click.echo(f"  {name:<{width}}  cosine {cosine:.7f}")
    for note in found.notes:
        click.echo(f"note: {note}")
    found.check()
    click.echo("outputs: all as recorded")
