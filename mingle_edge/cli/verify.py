"""`mingle-edge verify`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar


@click.command(short_help="Check a bundle's hashes and its outputs on this machine.")
@click.argument("bundle", type=click.Path(path_type=Path))
@shared_options.threads
@shared_options.provider
def command(bundle: Path, threads: int | None, providers: str | None) -> None:
    """Check that BUNDLE is intact and computes right on this machine.

    Compares the hash of every file, checks heads and labels, and computes every
    output for the images that travel with the bundle: each task's expert, the
    router, and the labels of all tasks competing.

    Exit code 4: the bundle is damaged, copy or export it again. Exit code 6: it
    is intact, and this machine computes other answers; do not serve it here.
    """
    check_kinds("verify", [(bundle, PathKind.BUNDLE)])
    from mingle_edge_runtime.check.verify import verify

    with if_interrupted(lambda: "the bundle was not verified; nothing was changed"), ProgressBar() as progress:
        verification = verify(
            bundle,
            providers,
            threads,
            lambda done, total: progress("MB hashed", _whole_megabytes(done), _whole_megabytes(total)),
        )
    click.echo(f"hashes: {verification.files} files, {format_bytes(verification.bytes)}, all as recorded")
    click.echo(f"heads: {verification.heads}, every value finite and bounded")
    click.echo(f"labels: {verification.labels}, none blank or twice in a task")
    parts = {part: f"cosine {cosine:.7f}" for part, cosine in verification.cosines.items()}
    parts |= {part: f"difference {difference:.1e}" for part, difference in verification.differences.items()}
    width = max(map(len, parts))
    for part, measured in parts.items():
        click.echo(f"  {part:<{width}}  {measured}")
    for note in verification.notes:
        click.echo(f"note: {note}")
    click.echo(f"machine: {verification.arithmetic}")
    saturation = verification.arithmetic.saturation
    click.echo(f"8-bit integers: {f'saturate, {saturation}' if saturation else 'exact'}")
    click.echo(f"seconds: {verification.seconds:.1f}")
    verification.check()
    click.echo("outputs: all as recorded")


def _whole_megabytes(size: int) -> int:
    """Return a size in units of 10^6 bytes, a part of one counted as one."""
    return -(-size // 10**6)
