"""Making the suite: jobs for the images, the pretrained models and the fine-tuned ones, each skipped when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import torch
from models import write_backbone, write_fine_tuned
from scale import Scale
from splits import write_images
from task_files import write_task_files
from tasks import TASKS

from mingle_edge.progress import Progress

DATA_SEED = 11
"""Of all images. Nothing rendered with it was looked at before the suite was finished."""


def make_suite(
    output: Path,
    seeds: Sequence[int],
    device: torch.device,
    rendering: Executor,
    training: Executor,
    progress: Progress,
    *,
    data_seed: int = DATA_SEED,
    scale: Scale | None = None,
) -> None:
    """Make what is missing of the images and of the models of every pretraining seed, in the folder `output`.

    Jobs run in the two executors, which may be the same. Fine-tuning of a seed starts when its pretrained model and all
    images are there. The error of a job is raised, what waits is
    given up, and what was made stays.
    """
    scale = scale or Scale()
    for folder in ("images", *(f"seed-{seed}" for seed in seeds)):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        write_task_files(output / f"seed-{seed}")
    total, done = len(TASKS) * (1 + len(seeds)) + len(seeds), 0
    jobs: dict[Future[None], str] = {}
    waiting = list(seeds)  # to be pretrained
    pretrained: dict[Future[None], int] = {}  # jobs of pretraining, and their seeds

    def submit(executor: Executor, name: str, job: Callable[..., None], *arguments: object) -> Future[None]:
        future = executor.submit(job, *arguments)
        jobs[future] = name
        return future

    def pretrain_next() -> None:
        if waiting:
            seed = waiting.pop(0)
            name = f"seed-{seed}/pretrained"
            pretrained[submit(training, name, write_backbone, output / f"seed-{seed}", seed, scale, device)] = seed

    pretrain_next()
    images = [
        submit(rendering, f"images/{task.name}", write_images, output / "images" / task.name, task.name, data_seed, scale)
        for task in TASKS
    ]
    pretrain_next()  # while the images are rendered and the first pretrained model is trained
    try:
        while jobs:
            finished, _ = wait(jobs, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                done += 1
                progress("suite", done, total, jobs.pop(future))
            if all(image.done() for image in images):
                for future in [future for future in pretrained if future.done()]:
                    seed = pretrained.pop(future)
                    for task in TASKS:
                        where = output / f"seed-{seed}", task.name, output / "images" / task.name
                        submit(training, f"seed-{seed}/{task.name}", write_fine_tuned, *where, seed, data_seed, scale, device)
                    pretrain_next()
    except BaseException:
        for future in jobs:
            future.cancel()
        raise
