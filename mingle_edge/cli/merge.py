"""`mingle-edge merge`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest, unused
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line
from mingle_edge.core.errors import MingleError
from mingle_edge.core.progress import WARNING
from mingle_edge.core.wording import count

if TYPE_CHECKING:
    from mingle_edge.merging.merged_model import MergedModel
    from mingle_edge.routing.outlook import Outlook


@click.command(short_help="Merge fine-tuned checkpoints into one gated model.")
@click.argument("task_file", metavar="TASKS.toml", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="New folder for the merged model.")
@click.option("--into", type=click.Path(path_type=Path), help="Merged model to add the tasks to.")
@shared_options.device
def command(task_file: Path, output: Path | None, into: Path | None, device: str) -> None:
    """Merge the tasks of TASKS.toml, one after another.

    Each task is committed as it is done. After an interruption the same command
    continues at the first unfinished task. Give -o for a new model, or --into to
    add tasks to an existing one.
    """
    if output is not None and into is not None and output != into:
        raise click.UsageError("-o and --into name different folders; --into adds to its folder and needs no -o")
    check_kinds("merge", [(task_file, PathKind.TASK_FILE)])
    target = into or output
    if target is None:
        raise click.UsageError("give -o FOLDER for a new merged model, or --into FOLDER to add to one")
    if into is not None:
        check_kinds("merge --into", [(into, PathKind.MERGED_MODEL)])
    started = time.perf_counter()
    from mingle_edge.data.task_file import read_task_file
    from mingle_edge.merging.merge import merge
    from mingle_edge.routing.outlook import routing_warnings

    names = [task.name for task in read_task_file(task_file).tasks]
    before = _task_names(target)
    with if_interrupted(lambda: _kept(target, names)), ProgressBar() as progress:
        model = merge(task_file, target, into=into is not None, device=device, progress=progress)
        ahead = model.outlook() if model.scope == "image" and len(model.tasks) > 1 else None
        for warning in () if ahead is None else routing_warnings(ahead):
            progress(WARNING, 1, 1, warning)
    new = [name for name in model.task_names if name not in before]
    if not new:
        click.echo(one_line(f"{target}: nothing to do, all tasks of {task_file} are in it already: {', '.join(names)}"))
    elif before:
        click.echo(one_line(f"{target}: added {', '.join(new)} to {', '.join(before)}"))
    if ahead is not None:
        click.echo(one_line(routing(ahead)))
    click.echo(one_line(f"{summary(model)}, {time.perf_counter() - started:.1f} s"))
    _suggest(model, task_file, names)


def summary(model: MergedModel) -> str:
    """Say what a merged model is: its tasks and size, what its experts keep, and what its router reads."""
    kept = {task.name: float(share) for task in model.tasks if (share := task.record.get("explained_norm")) is not None}
    parts = [
        f"{model.path}: {count(len(model.tasks), 'task')}, scope {model.scope}: {', '.join(model.task_names)}; "
        f"{format_bytes(model.stored_bytes)}"
    ]
    if kept:
        least = min(kept, key=kept.__getitem__)
        most = f" (least {kept[least]:.1%}, {least})" if len(kept) > 1 else ""
        mean = sum(kept.values()) / len(kept)
        ranks = sorted({int(task.record["rank"]) for task in model.tasks if "rank" in task.record})
        spread = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else str(ranks[0] if ranks else model.settings.rank)
        parts.append(f"experts of rank {spread} keep {mean:.1%} of their task vectors' squared norm{most}")
    if model.scope == "image":
        depth = model.router_depth
        read = "no block" if depth is None else f"{depth} blocks"
        parts.append(f"its router reads the pixels and {read} of {model.architecture.layers}")
    return ", ".join(parts)


def routing(ahead: Outlook) -> str:
    """Say what to expect of the router, from seeds that it has not seen."""
    before, after = ahead.calibration_error
    line = (
        f"seeds left out: {ahead.routed.diagonal().mean():.1%} routed to their own task, {ahead.lost.mean():.1%} of labels "
        f"change by wrong routes; expected calibration error {after:.1%} ({before:.1%} before calibration)"
    )
    if ahead.foreign is None or ahead.auroc is None:
        return line
    return f"{line}; of a task left out {ahead.foreign.mean():.1%} refused as foreign, AUROC {ahead.auroc:.3f}"


def _kept(target: Path, names: list[str]) -> str:
    """Say which tasks an interrupted merge has finished."""
    there = _task_names(target)
    kept = [name for name in names if name in there]
    if not kept:
        return "no task was finished; the same command starts again"
    return f"{len(kept)} of {len(names)} tasks are kept in {target} ({', '.join(kept)}); the same command continues"


def _task_names(target: Path) -> list[str]:
    """Return the tasks in a folder; none where it is no merged model, or not yet."""
    from mingle_edge.merging.merged_model import MergedModel

    try:
        return MergedModel.open(target).task_names
    except MingleError:
        return []


def _suggest(model: MergedModel, task_file: Path, names: list[str]) -> None:
    """Suggest to evaluate where there are test images, else to export."""
    from mingle_edge.data.task_file import read_task_file

    others = [name for name in model.task_names if name not in names]
    if any(task.test is None for task in read_task_file(task_file).tasks):
        suggest("export", model.path, "-o", unused("bundle"))
    elif (earlier := _files_of(others, task_file)) is not None:
        suggest("evaluate", model.path, *earlier, task_file)
    else:
        suggest("evaluate", model.path, "EARLIER.toml", task_file, note=f"EARLIER.toml: the file of {', '.join(others)}")


def _files_of(names: list[str], task_file: Path) -> list[Path] | None:
    """Return the task files beside this one that hold these tasks and no others; None where there are none for all of them."""
    from mingle_edge.data.task_file import read_task_file

    missing, found = set(names), []
    for path in sorted(task_file.parent.glob("*.toml")):
        try:
            held = {task.name for task in read_task_file(path).tasks}
        except MingleError:  # of another use, or of a merge that is no more
            continue
        if held <= missing:
            found.append(path)
            missing -= held
    return None if missing else found
