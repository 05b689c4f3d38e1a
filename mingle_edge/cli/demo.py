"""`mingle-edge demo`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click

from mingle_edge.cli.progress_bar import ProgressBar

METHODS = {
    "pretrained": "pretrained",
    "individual": "individual models",
    "average": "weight average",
    "layer_pooled": "layer, batch-pooled",
    "layer_dense": "layer, per image",
    "layer_top1": "layer, top-1",
    "image_top1": "image, top-1",
}


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

    Takes two or three minutes on two cores. DIR holds everything a user would
    have: images, checkpoints, task files, merged models, bundles; and the
    results, report.json and contact-sheet.png.
    """
    import torch

    from mingle_edge.demo.demo import run_demo

    torch.set_num_threads(1)  # a model this small gains little from more, and loses much where the cores are busy
    with ProgressBar() as progress:
        report = run_demo(output, progress=progress)
    click.echo(table(report))
    click.echo(f"\nfigures: {output / 'report.json'}\npictures: {output / 'contact-sheet.png'}")


def table(report: dict[str, Any]) -> str:
    """Write ACC and BWT of every method in percent, and what the export and the runtime cost."""
    protocols = list(report["accuracy"]["pretrained"])
    given = {"P1": "head given", "P2": "task given", "P3": "nothing given"}
    lines = [f"{'':<20}" + "".join(f"{f'{p}: {given[p]}':>20}" for p in protocols)]
    lines.append(f"{'accuracy, percent':<20}" + f"{'ACC':>13}{'BWT':>7}" * len(protocols))
    for method, name in METHODS.items():
        figures = "".join(f"{s['acc']:13.1f}{s['bwt']:+7.1f}" for s in report["accuracy"][method].values())
        lines.append(f"{name:<20}{figures}")
    parity, latency, seconds = report["parity"], report["latency"], report["seconds"]
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
    return "\n".join(
        [
            *lines,
            "",
            f"PyTorch and ONNX: cosine at least {parity['cosine']:.7f}, elements differ by at most {parity['max_abs']:.1e}",
            f"one image, one thread: {latency['milliseconds_dense']:.2f} ms without experts, "
            f"{latency['milliseconds_named']:.2f} ms with one ({latency['ratio_to_dense']:.2f} x)",
            textwrap.fill(f"{sum(seconds.values()):.0f} seconds: {stages}", 80),
        ]
    )
