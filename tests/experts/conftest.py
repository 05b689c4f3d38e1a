"""Tasks with seeds enough to adapt experts on, and images that no seed shows."""

from __future__ import annotations

import pytest
import torch
from tiny_clip import write_images, write_task_file

from mingle_edge.core.progress import silent
from mingle_edge.data.task_file import read_task_file
from mingle_edge.merging.merge_inputs import read_merge_inputs


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A task file of two tasks with twenty seeds each, and images of the first that no seed shows."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task_file(folder, tasks=2)
    for number in range(2):
        write_images(folder / "seeds" / f"task{number}", count=20, seed=number)
    write_images(folder / "unseen", count=40, seed=0, variant=9)
    return folder


@pytest.fixture(scope="session")
def loaded(folder):
    """The backbone and the first task, in memory."""
    inputs = read_merge_inputs(read_task_file(folder / "TASKS.toml"), silent)
    pretrained = inputs.load(torch.device("cpu"))
    return pretrained, inputs.tasks[0].load(pretrained)
