"""`mingle-edge run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mingle_edge.cli.byte_size import byte_size
from mingle_edge.cli.terminal import one_line

if TYPE_CHECKING:
    from mingle_edge_runtime import Prediction

AT_ONCE = 32  # images whose answers are shown together


@click.command(short_help="Classify images with a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--task", help="Use this task's expert and labels; the router is skipped.")
@click.option("--head", help="Use this task's labels, whichever expert is chosen.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Labels to show per image.")
@click.option(
    "--expert-budget", metavar="SIZE", callback=byte_size, help="Experts to keep in memory, like 64MB.  [default: all]"
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.  [default: one per core]")
@click.option("--provider", help="Execution provider of ONNX Runtime.  [default: cpu]")
@click.option("--low-memory", is_flag=True, help="Leave the weights in the files, mapped: less memory, slower.")
@click.option("--check-hashes", is_flag=True, help="Compare the hash of each file of the bundle when it is first used.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(
    bundle: Path,
    images: tuple[Path, ...],
    task: str | None,
    head: str | None,
    top: int,
    provider: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify each IMAGE with BUNDLE.

    The bundle chooses the expert for each image, unless --task names it. With
    neither --task nor --head the labels of all tasks compete.

    An image that cannot be read costs no other one its answer: it is named on
    standard error, and the exit code is 1, or 2 where none could be read.
    """
    from mingle_edge_runtime import EdgeModel, ImageError

    answered: list[dict[str, Any]] = []
    broken = 0
    with EdgeModel.open(bundle, providers=[provider] if provider else None, **options) as model:
        try:
            for start in range(0, len(images), AT_ONCE):
                some = images[start : start + AT_ONCE]
                for image, answer in zip(some, model.classify(some, task, top, head, on_error="skip"), strict=True):
                    if isinstance(answer, ImageError):
                        broken += 1
                        click.echo(f"error: {one_line(answer)}", err=True)
                        continue
                    answered.append({"image": str(image)} | answer.to_dict())
                    if not as_json:
                        click.echo(table(image, answer))
        finally:  # what was computed is shown, whatever ends it
            if as_json and (answered or broken):
                click.echo(json.dumps(answered, indent=1))
    if broken:
        raise click.exceptions.Exit(1 if answered else 2)


def table(image: Path, prediction: Prediction) -> str:
    """The image with its route, then a line per label."""
    route = prediction.route
    shares = ", ".join(f"{task} {weight:.2f}" for task, weight in zip(route.tasks, route.weights, strict=True))
    lines = [f"{image}  (experts: {shares or 'none, plain backbone'})"]
    width = max(len(task) for task in prediction.tasks)
    for task, label, probability in zip(prediction.tasks, prediction.labels, prediction.probabilities, strict=True):
        lines.append(f"  {probability:6.1%}  {task:<{width}}  {label}")
    return "\n".join(map(one_line, lines))
