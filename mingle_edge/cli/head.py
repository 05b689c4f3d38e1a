"""`mingle-edge head`."""

from __future__ import annotations

from pathlib import Path

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.path_kind import PathKind, check_kinds
from mingle_edge.cli.terminal import one_line
from mingle_edge.core.wording import count


@click.command(short_help="Labels for bundles that are on devices already.")
@click.argument("task_file", metavar="TASKS.toml", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--task", help="Task whose text tower, templates and classes to use.  [default: the backbone's text tower]")
@click.option("--name", help="What the device calls it.  [default: the task, whose labels it replaces]")
@click.option("--classes", metavar="FILE", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--template", "templates", metavar="TEXT", multiple=True, help="Prompt with {} for the class; may be repeated.")
def command(
    task_file: Path, output: Path, task: str | None, name: str | None, classes: Path | None, templates: tuple[str, ...]
) -> None:
    """Write a head that a device loads beside its bundle.

    A head holds class names and what their text embeds to. The text tower stays
    here; the bundle stays as it is. Give --task to replace the labels of a task,
    after its classes changed in TASKS.toml or with --classes. Give --name and
    --classes to add labels of any kind, for the backbone's text tower.

    \b
    On the device:
      mingle-edge run BUNDLE IMAGE... --load-head FILE [--head NAME]
      EdgeModel.open(BUNDLE).load_head(FILE)
    """
    check_kinds("head", [(task_file, PathKind.TASK_FILE)])
    from mingle_edge.data.class_list import read_class_list
    from mingle_edge.merging.head_for_device import write_head

    file = write_head(
        task_file,
        output,
        task=task,
        name=name,
        classes=None if classes is None else read_class_list(classes),
        templates=templates or None,
    )
    labels, size = count(len(file.index.labels), "label"), format_bytes(output.stat().st_size)
    click.echo(one_line(f"{output}: head {file.index.name}, {labels}, from the {file.index.origin}, {size}"))
