"""The demonstration's files as a user would lay them out, and the task files that name them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mingle_edge.demo.tasks import TASKS, DemoTask
from mingle_edge.demo.tiny_clip import WIDTH

# Gates of so narrow a model need larger steps than the default. Of 3e-4, 1e-3, 3e-3, 1e-2 and 3e-2 this one had the best ACC on
# images that are not in the test set: rendered with another seed, digits from the training scans.
LEARNING_RATE = 0.01
BACKBONE, CONFIG = "models/backbone.safetensors", "models/backbone.json"


def weights(task: DemoTask) -> str:
    """Path of a fine-tuned model within the demonstration's folder."""
    return f"models/{task.name}.safetensors"


def seeds(task: DemoTask) -> str:
    """Path of the folder of seed images."""
    return f"images/{task.name}/seeds"


def test_images(task: DemoTask) -> str:
    """Path of the folder with a folder of test images per class."""
    return f"images/{task.name}/test"


def write_task_files(folder: Path, scope: str) -> tuple[Path, list[Path]]:
    """Write `<scope>.toml` with every task, and a file per task in `<scope>-steps/` for merging them one by one."""
    steps = folder / f"{scope}-steps"
    steps.mkdir()
    single = [steps / f"{number}-{task.name}.toml" for number, task in enumerate(TASKS, start=1)]
    for path, task in zip(single, TASKS, strict=True):
        path.write_text(_task_file(scope, [task], "../"))
    together = folder / f"{scope}.toml"
    together.write_text(_task_file(scope, TASKS, ""))
    return together, single


def _task_file(scope: str, tasks: Sequence[DemoTask], root: str) -> str:
    lines = ["[backbone]", f'model = "{root}{CONFIG}"', f'weights = "{root}{BACKBONE}"', ""]
    lines += ["[settings]", f'scope = "{scope}"', f"rank = {WIDTH // 4}"]
    if scope == "layer":
        lines.append(f"learning_rate = {LEARNING_RATE}")
    for task in tasks:
        lines += [
            "",
            "[[task]]",
            f'name = "{task.name}"',
            f'weights = "{root}{weights(task)}"',
            f'seeds = "{root}{seeds(task)}"',
        ]
        lines += [f"classes = {json.dumps(task.classes)}", f"templates = {json.dumps([task.template])}"]
        lines += [f'test = "{root}{test_images(task)}/<class>/*.png"']
    return "\n".join(lines) + "\n"
