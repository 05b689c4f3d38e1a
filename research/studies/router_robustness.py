"""Where the router sends images that are not as its seeds were: corrupted, compressed again, resized, of other light.

    python -m research.studies.router_robustness --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20] [--images 100]

Seeds are clean, five per class with sixteen variations. Of every task so many test images are changed, spread evenly over its
classes: the paper's seven corruptions at severity 5, JPEG again, half the side and back (bilinear), other brightness, and a
cast of one color. "routed" is the share that goes to its own task, "no task" the share that runs on the plain backbone, then
the share that each stage settles, and of these the share routed to their own task; all means over tasks in percent.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mingle_edge.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from mingle_edge.evaluation.router_figures import JUDGED
from mingle_edge.routing.cascade import Cascade, LargestLogits
from mingle_edge_runtime.images.image_file import open_image
from research.studies.routes import Floats, Route, own_route, route
from research.studies.study import BATCH, VARIATIONS, Study
from research.studies.tables import Table, note, parser, percent

QUALITIES = (75, 30)  # of JPEG
BRIGHTER = (1.3, 0.7)  # times the values
CASTS = {"red cast": (1.2, 1.0, 0.8), "blue cast": (0.8, 1.0, 1.2), "green cast": (0.9, 1.2, 0.9)}  # times each channel
STAGES = ("pixels", "blocks", "embedding", JUDGED)

Change = Callable[[Tensor], Tensor]
"""images `[B, 3, H, W]` with pixels in [0, 1] to images of the same size"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=100, help="of each task")
    given = options.parse_args(arguments)
    header = [f"{name}{what}" for name in STAGES for what in ("", ": own task")]
    table = Table("images", "routed", "no task", *header)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        cascade = study.cascade(study.drawn(study.seed_features(VARIATIONS)))
        for name in CORRUPTIONS:
            _add(table, name, _routes(study, cascade, given.images, corruption=Corruption(name, SEVERITIES)), cascade)
            note(f"{study.folder}: {name}")
        for name, change in CHANGES.items():
            _add(table, name, _routes(study, cascade, given.images, change), cascade)
            note(f"{study.folder}: {name}")
    print(
        f"{given.tasks} tasks, {given.images} test images of each, severity {SEVERITIES}: percent, mean over tasks; deviation "
        f"over pretraining seeds.\n\n{table}"
    )


def _routes(
    study: Study, cascade: Cascade, count: int, change: Change | None = None, corruption: Corruption | None = None
) -> list[Route]:
    """Return per task where changed images go."""
    preprocess = study.architecture.preprocess
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    changed = []
    for of_task in study.images["test"]:
        images = of_task.kept(0)  # a changed image is used once
        batches = images.batches(study.architecture, images.evenly(count), corruption, BATCH)
        pixels = torch.cat([x for _, x in batches])
        changed.append(pixels if change is None else (change(pixels * std + mean).clamp(0, 1) - mean) / std)
    features = [study.router_features(torch.split(images, BATCH)) for images in changed]
    return route(cascade, study.layout, features, [_judge(study, images) for images in changed])


def _judge(study: Study, images: Tensor) -> LargestLogits:
    """Return what runs experts on images that are kept nowhere."""

    @torch.inference_mode()
    def run(numbers: NDArray[np.int64], tasks: NDArray[np.int64]) -> Floats:
        largest = np.zeros(tasks.shape)
        for task in np.unique(tasks):
            rows, column = np.nonzero(tasks == task)
            tower = study.tower(int(task), study.settings.largest_rank)
            embeds = study.pretrained.embed(images[torch.from_numpy(numbers[rows])], tower)
            largest[rows, column] = study.tasks[task].head.logits(embeds).amax(1).numpy()
        return largest

    return run


def _add(table: Table, name: str, routes: Sequence[Route], cascade: Cascade) -> None:
    """Add the row of one kind of images."""
    names = [*(stage.name for stage in cascade.stages), JUDGED]
    shares: dict[str, tuple[float, float]] = {}
    for number, stage in enumerate(names):
        here = [of_task.stage == number for of_task in routes]
        settled = [of_task.answering[mask] == task for task, (of_task, mask) in enumerate(zip(routes, here, strict=True))]
        right = [float(own.mean()) for own in settled if len(own)]
        shares[stage] = percent([mask.mean() for mask in here]), percent(right) if right else 0.0
    nobody = percent([np.mean(of_task.answering < 0) for of_task in routes])
    table.add(name, own_route(routes), nobody, *(figure for stage in STAGES for figure in shares.get(stage, ("", ""))))


def _unchanged(pixels: Tensor) -> Tensor:
    return pixels


def _compressed(pixels: Tensor, quality: int) -> Tensor:
    """Return the images after JPEG of a quality."""
    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()  # [B, H, W, 3]
    again = []
    for image in levels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        with open_image(file) as compressed:
            again.append(np.asarray(compressed))
    return torch.from_numpy(np.stack(again)).permute(0, 3, 1, 2).float() / 255


def _halved(pixels: Tensor) -> Tensor:
    """Return the images after half the side and back."""
    side = pixels.shape[-1]
    scale = partial(torch.nn.functional.interpolate, mode="bilinear", antialias=True, align_corners=False)
    return scale(scale(pixels, size=side // 2), size=side)


def _lit(pixels: Tensor, gains: Sequence[float]) -> Tensor:
    """Return the images with the values of each channel times its gain."""
    return pixels * torch.tensor(gains).view(3, 1, 1)


CHANGES: dict[str, Change] = {
    "unchanged": _unchanged,
    **{f"JPEG of quality {quality}": partial(_compressed, quality=quality) for quality in QUALITIES},
    "half the side and back": _halved,
    **{f"brightness {gain:.0%}": partial(_lit, gains=[gain] * 3) for gain in BRIGHTER},
    **{name: partial(_lit, gains=gains) for name, gains in CASTS.items()},
}


if __name__ == "__main__":
    main()
