"""`mingle-edge run`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mingle_edge.cli.byte_size import byte_size

if TYPE_CHECKING:
    from mingle_edge_runtime import Prediction


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(
    bundle: Path,
    images: tuple[Path, ...],
    task: str | None,
    head: str | None,
    top: int,
    expert_budget: int | None,
    threads: int | None,
    provider: str | None,
    low_memory: bool,
    as_json: bool,
) -> None:
    """Classify each IMAGE with BUNDLE.

    The bundle chooses the expert for each image, unless --task names it. With
    neither --task nor --head the labels of all tasks compete.
    """
    from mingle_edge_runtime import EdgeModel

    providers = [provider] if provider else None
    with EdgeModel.open(bundle, expert_budget, providers, threads, low_memory) as model:
        predictions = model.classify(images, task, top, head)
    if as_json:
        records = [{"image": str(image)} | asdict(found) for image, found in zip(images, predictions, strict=True)]
        click.echo(json.dumps(records, indent=1))
    else:
        click.echo("\n".join(table(image, found) for image, found in zip(images, predictions, strict=True)))


def table(image: Path, prediction: Prediction) -> str:
    """The image with its route, then a line per label."""
    route = prediction.route
    shares = ", ".join(f"{task} {weight:.2f}" for task, weight in zip(route.tasks, route.weights, strict=True))
    lines = [f"{image}  (experts: {shares or 'none, plain backbone'})"]
    width = max(len(task) for task in prediction.tasks)
    for task, label, probability in zip(prediction.tasks, prediction.labels, prediction.probabilities, strict=True):
        lines.append(f"  {probability:6.1%}  {task:<{width}}  {label}")
    return "\n".join(lines)
