"""`mingle-edge run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mingle_edge.cli import shared_options
from mingle_edge.cli.exit_codes import ExitCode
from mingle_edge.cli.image_arguments import ImageArguments
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.path_kind import PathKind, check_kinds, kind_of
from mingle_edge.cli.terminal import one_line

if TYPE_CHECKING:
    from mingle_edge_runtime import Prediction


@click.command(short_help="Classify images with a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--task", help="Use this task's expert and labels; the router is skipped.")
@click.option("--head", help="Use the labels of this task, or of a loaded head, whichever expert is chosen.")
@shared_options.load_head
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Labels to show per image.")
@click.option(
    "--reject-below",
    metavar="PROBABILITY",
    type=click.FloatRange(0, 1),
    help="Give no label to an image whose best one is less probable.",
)
@shared_options.expert_budget
@shared_options.threads
@shared_options.provider
@shared_options.low_memory
@shared_options.check_hashes
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: an object a line, for each image.")
def command(
    bundle: Path,
    images: tuple[Path, ...],
    task: str | None,
    head: str | None,
    heads: tuple[str, ...],
    top: int,
    reject_below: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify each IMAGE with BUNDLE, and print each answer as soon as it is there.

    IMAGE is a file; a folder, for all images in it and in the folders inside; a
    pattern in quotes, as in 'photos/**/*.jpg'; or "-", to read names from
    standard input, one a line.

    The bundle chooses the expert for each image, unless --task names it. With
    neither --task nor --head the labels of all tasks compete.

    An image that cannot be read is named on standard error, and with --json
    also in its line, as {"image": ..., "error": ...}. All others get their
    answers. Exit code 1 where some could not be read, 3 where none could.
    """
    _check_places(bundle, images)
    from mingle_edge_runtime import EdgeModel, ImageError, classify_each

    asked = ImageArguments(images)
    answered = 0

    def fail(image: object, error: object) -> None:
        click.echo(f"error: {one_line(error)}", err=True)
        if as_json:
            click.echo(json.dumps({"image": str(image), "error": str(error)}))

    with (
        if_interrupted(lambda: f"{asked.progress} done, and what was printed is complete"),
        EdgeModel.open(bundle, **options) as model,
    ):
        for file in heads:
            model.load_head(file)
        for argument, reason in asked.unusable:
            fail(argument, reason)
        for image, answer in classify_each(model, asked, task, top, head, reject_below=reject_below):
            if isinstance(answer, ImageError):
                fail(image, answer)
            else:
                answered += 1
                click.echo(json.dumps({"image": str(image)} | answer.to_dict()) if as_json else text(str(image), answer))
            asked.done += 1
    if not asked.done and not asked.unusable:
        click.echo("error: no image was named on standard input; write one name a line", err=True)
    if answered < asked.done + len(asked.unusable) or not answered:
        raise click.exceptions.Exit(ExitCode.PARTLY if answered else ExitCode.INPUT)


def text(image: str, prediction: Prediction) -> str:
    """Return the image with its route, then a line per label."""
    route = prediction.route
    shares = ", ".join(f"{task} {weight:.2f}" for task, weight in zip(route.tasks, route.weights, strict=True))
    rejected = "rejected, no label is probable enough; " if prediction.rejected else ""
    lines = [f"{image}  ({rejected}experts: {shares or 'none, plain backbone'})"]
    width = max(len(task) for task in prediction.tasks)
    for task, label, probability in zip(prediction.tasks, prediction.labels, prediction.probabilities, strict=True):
        lines.append(f"  {probability:6.1%}  {task:<{width}}  {label}")
    return "\n".join(map(one_line, lines))


def _check_places(bundle: Path, images: Sequence[Path]) -> None:
    """Say what is given in the place of the bundle, where that is something else, and whether the arguments are swapped."""
    places = [(bundle, PathKind.BUNDLE)]
    first = kind_of(bundle)
    if first in (PathKind.IMAGE, PathKind.IMAGE_FOLDER):
        places += [(path, first) for path in images if kind_of(path) is PathKind.BUNDLE]
    check_kinds("run", places)
