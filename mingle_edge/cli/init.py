"""`mingle-edge init`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli.next_step import suggest
from mingle_edge.cli.terminal import one_line

_SHOWN = 10  # files left out that are listed


@click.command(short_help="Write a first TASKS.toml from folders of checkpoints.")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", default="TASKS.toml", show_default=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--backbone", metavar="MODEL", help="Open_clip name or config, folder, or hf:// model.  [default: found]")
@click.option("--backbone-weights", metavar="W", help="File, folder or open_clip tag, where MODEL brings none.")
@click.option("--overwrite", is_flag=True, help="Also where there is a file already.")
def command(
    folders: tuple[Path, ...], output: Path, backbone: str | None, backbone_weights: str | None, overwrite: bool
) -> None:
    """Write a task file for the checkpoints, heads and images in FOLDER...

    Tasks are named after files and folders, classes come from config.json, text
    files or class folders, images from folders that name a task and a split, as
    in data/eurosat/train/<class>. What was not found is a comment in the file.
    """
    from mingle_edge.checking.starting_task_file import init

    written = init(folders, output, backbone=backbone, backbone_weights=backbone_weights, overwrite=overwrite)
    for path, reason in list(written.left_out.items())[:_SHOWN]:
        click.echo(one_line(f"left out: {path}: {reason}"), err=True)
    if (more := len(written.left_out) - _SHOWN) > 0:
        click.echo(f"left out: {more} more", err=True)
    for sentence in written.missing:
        click.echo(one_line(f"missing: {sentence}"), err=True)
    click.echo(one_line(f"{written.path}: {len(written.tasks)} tasks: {', '.join(written.tasks)}"))
    suggest("check", output, note="once what is missing is filled in" if written.missing else "")
