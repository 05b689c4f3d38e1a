"""`mingle-edge demo`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.interruption import if_interrupted
from mingle_edge.cli.next_step import suggest
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import one_line

METHODS = {
    "pretrained": "pretrained",
    "individual": "individual models",
    "average": "weight average",
    "layer_pooled": "layer, batch-pooled",
    "layer_dense": "layer, per image",
    "layer_top1": "layer, top-1",
    "image_top1": "image, top-1",
}
_WIDTH = 80  # characters
_WHY = (
    "At full size a bundle takes about as long as one model, and about the memory of one model plus the experts in use. Not "
    "here: this model is so small that starting an operator takes longer than its arithmetic, that an expert is large "
    "beside it, and that the router and the graphs are larger still. docs/performance.md has the figures of both."
)


@click.command(short_help="The whole line on four small tasks, trained on the spot.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    default=Path("demo-output"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="New folder, or an earlier demo to replace.",
)
def command(output: Path) -> None:
    """Train a tiny CLIP and four tasks, then merge, evaluate, export and run.

    Takes two to three minutes on two cores, and about 80 MB of disk. DIR holds
    everything a user would have: images, checkpoints, task files, merged models,
    bundles; and the results, report.json and contact-sheet.png.
    """
    import torch

    from mingle_edge.demo.demo import check_demo_folder, run_demo

    check_demo_folder(output)
    click.echo(one_line(f"the demo takes two to three minutes on two cores, and writes about 80 MB into {output}"), err=True)
    torch.set_num_threads(1)  # a model this small gains little from more, and loses much where the cores are busy
    with if_interrupted(lambda: f"{output} holds a part of a demo; the same command begins anew"), ProgressBar() as progress:
        report = run_demo(output, progress=progress)
    click.echo(table(report))
    click.echo(one_line(f"figures: {output / 'report.json'}"))
    click.echo(one_line(f"pictures: {output / 'contact-sheet.png'}"))
    suggest("init", "CHECKPOINTS", "IMAGES", note="with folders of your own")


def table(report: dict[str, Any]) -> str:
    """Write ACC and BWT of every method in percent, and what the export and the runtime cost."""
    protocols = list(report["accuracy"]["pretrained"])
    given = {"P1": "head given", "P2": "task given", "P3": "nothing given"}
    lines = [f"{'':<20}" + "".join(f"{f'{p}: {given[p]}':>20}" for p in protocols)]
    lines.append(f"{'accuracy, percent':<20}" + f"{'ACC':>13}{'BWT':>7}" * len(protocols))
    for method, name in METHODS.items():
        figures = "".join(f"{s['acc']:13.1f}{s['bwt']:+7.1f}" for s in report["accuracy"][method].values())
        lines.append(f"{name:<20}{figures}")
    parity, seconds = report["parity"], report["seconds"]
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
    return "\n".join(
        [
            *lines,
            "",
            f"PyTorch and ONNX: cosine at least {parity['cosine']:.7f}, elements differ by at most {parity['max_abs']:.1e}",
            "",
            *cost(report),
            "",
            textwrap.fill(f"{sum(seconds.values()):.0f} seconds: {stages}", _WIDTH),
        ]
    )


def cost(report: dict[str, Any]) -> list[str]:
    """Say what the bundle costs beside the models it stands for, and why that is not what it costs at full size."""
    measured, tasks = report["cost"], len(report["test_images"])
    one, named, routed = (measured[f"milliseconds_{kind}"] for kind in ("dense", "named", "routed"))
    held, separate = measured["memory_bundle"], measured["memory_separate_models"]
    return [
        "What the bundle costs here, one image on one thread, beside one model of these:",
        f"  task named         {named:6.2f} ms, {measured['ratio_to_dense']:.2f} x the {one:.2f} ms of one model",
        f"  route found        {routed:6.2f} ms, {measured['ratio_to_dense_routed']:.2f} x",
        f"  memory, all tasks  {format_bytes(held)}, {held / separate:.0%} of the {format_bytes(separate)} of {tasks} models",
        textwrap.fill(_WHY, _WIDTH),
    ]
