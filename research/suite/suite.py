"""Making the suite: its images, pretrained models, fine-tuned models and task files, each skipped when it is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from mingle_edge.core.progress import Progress
from mingle_edge.demo.contact_sheet import INK, Cell, Row, write_contact_sheet
from mingle_edge.demo.parallel import run_parts
from mingle_edge.demo.task_files import write_task_file
from research.suite.collection import Collection
from research.suite.images import write_images
from research.suite.models import BACKBONE, CONFIG_FILE, weights, write_backbone, write_fine_tuned
from research.suite.rendered import Rendered
from research.suite.scale import WIDTH, Scale
from research.suite.tasks import TASKS

DATA_SEED = 11
"""Of all images. Nothing rendered with it was looked at before the suite was finished."""
SEEDS_PER_CLASS = 5


def make_suite(
    output: Path,
    seeds: Sequence[int],
    device: torch.device,
    progress: Progress,
    *,
    processes: int,
    collection: Collection | None = None,
    data_seed: int = DATA_SEED,
    scale: Scale | None = None,
) -> None:
    """Make what is missing of the images and of the models of every pretraining seed, in the folder `output`.

    The tasks are the twenty unless a collection is given. On a CPU so many processes train side by side, on another device one
    model after the other. The error of a part is raised, and what was made stays.
    """
    scale, collection = scale or Scale(), collection or Rendered(TASKS)
    images = {task: output / "images" / task.name for task in collection.tasks}
    folders = {seed: output / f"seed-{seed}" for seed in seeds}
    for folder in (output / "images", *folders.values()):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in folders.values():
        write_group_files(folder, collection)
    rendering = {path.name: partial(write_images, path, collection, task, data_seed, scale) for task, path in images.items()}
    pretraining = {
        f"seed-{seed}": partial(write_backbone, folder, collection, seed, scale, device) for seed, folder in folders.items()
    }
    fine_tuning = {
        f"seed-{seed}/{task.name}": partial(write_fine_tuned, folder, collection, task, path, seed, data_seed, scale, device)
        for seed, folder in folders.items()
        for task, path in images.items()
    }
    training = processes if device.type == "cpu" else 1
    run_parts("render", rendering, progress, processes)
    run_parts("pretrain", pretraining, progress, training)
    run_parts("fine-tune", fine_tuning, progress, training)
    rows = []
    for number, (task, path) in enumerate(images.items(), start=1):
        first = [min((path / "seeds" / name).glob("*.png")) for name in task.classes]  # test images stay unseen
        cells = [Cell(image, ((name, INK),)) for name, image in zip(task.classes, first, strict=True)]
        rows.append(Row(f"{number}  {task.name}", "", cells))
    write_contact_sheet(output / "suite.png", rows, lines=1)


def write_group_files(folder: Path, collection: Collection) -> None:
    """Write the task files `<count>.toml` of the first so many tasks, for every group."""
    for count in collection.groups:
        tasks = [
            {
                "name": task.name,
                "weights": weights(task),
                "seeds": f"../images/{task.name}/seeds/<class>/*.png",
                "seeds_per_class": SEEDS_PER_CLASS,
                "classes": task.classes,
                "templates": [task.template],
                "test": f"../images/{task.name}/test/<class>/*.png",
                "tune": f"../images/{task.name}/tune/<class>/*.png",
            }
            for task in collection.tasks[:count]
        ]
        backbone = {"model": CONFIG_FILE, "weights": BACKBONE}
        write_task_file(folder / f"{count}.toml", backbone, {"rank": WIDTH // 4}, tasks)
