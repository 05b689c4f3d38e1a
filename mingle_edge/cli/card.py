"""`mingle-edge card`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.terminal import one_line
from mingle_edge.core.errors import OutputError
from mingle_edge.core.wording import count
from mingle_edge.files.output_path import check_output_file, write_output

_FILE = click.Path(path_type=Path)


@click.command(short_help="Write a model card for a bundle.")
@click.argument("bundle", type=_FILE)
@click.option("-o", "--output", metavar="CARD.md", type=_FILE, help="New file to write.  [default: standard output]")
@click.option("--evaluation", metavar="REPORT", type=_FILE, help="A file of `evaluate --json`: accuracy on test images.")
@click.option("--profile", metavar="REPORT", type=_FILE, help="A file of `profile --json`: latency and memory.")
def command(bundle: Path, output: Path | None, evaluation: Path | None, profile: Path | None) -> None:
    """Write a model card for BUNDLE, in the form of the Hugging Face hub.

    It tells tasks and labels, accuracy, sizes, precision, what the bundle needs,
    how to load it, where its weights came from, and its limits. What only you can
    know, licenses first, is marked FILL IN. On the hub the card is README.md.
    """
    check_kinds("card", [(bundle, PathKind.BUNDLE)])
    check_output_file(output)
    if output is not None and os.path.lexists(output):
        raise OutputError(f"{output} exists, and may hold what somebody filled in; name another file, or take it away")
    from mingle_edge.card.card import model_card
    from mingle_edge.card.front_matter import FILL_IN

    card = model_card(bundle, evaluation, profile)
    if output is None:
        click.echo(card, nl=False)
        return
    write_output(output, card)
    places = count(card.count(FILL_IN), "place")
    click.echo(one_line(f"card: {output}, with {places} marked {FILL_IN}, which only you can know"))
