"""`mingle-edge merge`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli.progress_bar import ProgressBar


@click.command(short_help="Merge fine-tuned checkpoints into one gated model.")
@click.argument("task_file", metavar="TASKS.toml", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="New folder for the merged model.")
@click.option("--into", type=click.Path(path_type=Path), help="Merged model to add the tasks to.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def command(task_file: Path, output: Path | None, into: Path | None, device: str) -> None:
    """Merge the tasks of TASKS.toml, one after another.

    Each task is committed as it is done. After an interruption the same command
    continues at the first unfinished task. Give -o for a new model, or --into to
    add tasks to an existing one.
    """
    if output is not None and into is not None and output != into:
        raise click.UsageError("-o and --into name different folders; --into adds to its folder and needs no -o")
    target = into or output
    if target is None:
        raise click.UsageError("give -o FOLDER for a new merged model, or --into FOLDER to add to one")
    from mingle_edge.merging.merge import merge

    with ProgressBar() as progress:
        model = merge(task_file, target, into=into is not None, device=device, progress=progress)
    click.echo(f"{target}: {len(model.tasks)} tasks, scope {model.scope}: {', '.join(model.task_names)}")
