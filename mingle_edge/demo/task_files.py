"""The demonstration's files as a user would lay them out, and the task files that name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from mingle_edge.demo.tasks import TASKS, ImageTask
from mingle_edge.demo.tiny_clip import WIDTH

# Gates of so narrow a model need larger steps than the default. Of 3e-4, 1e-3, 3e-3, 1e-2 and 3e-2 this one had the best ACC on
# images that are not in the test set: rendered with another seed, digits from the training scans.
LEARNING_RATE = 0.01
BACKBONE, CONFIG = "models/backbone.safetensors", "models/backbone.json"

Table = Mapping[str, object]


def weights(task: ImageTask) -> str:
    """Return the path of a fine-tuned model within the demonstration's folder."""
    return f"models/{task.name}.safetensors"


def calibration_images(task: ImageTask) -> str:
    """Return the path of the folder of seed images."""
    return f"images/{task.name}/seeds"


def test_images(task: ImageTask) -> str:
    """Return the path of the folder with a folder of test images per class."""
    return f"images/{task.name}/test"


def write_task_files(folder: Path, scope: str) -> tuple[Path, list[Path]]:
    """Write `<scope>.toml` with every task, and a file per task in `<scope>-steps/` for merging them one by one."""
    steps = folder / f"{scope}-steps"
    steps.mkdir()
    single = [steps / f"{number}-{task.name}.toml" for number, task in enumerate(TASKS, start=1)]
    settings: dict[str, object] = {"scope": scope}
    if scope == "layer":
        settings |= {"rank": WIDTH // 4, "learning_rate": LEARNING_RATE}
    together = folder / f"{scope}.toml"
    files = [(together, TASKS, ""), *((path, (task,), "../") for path, task in zip(single, TASKS, strict=True))]
    for path, tasks, root in files:
        backbone = {"model": f"{root}{CONFIG}", "weights": f"{root}{BACKBONE}"}
        write_task_file(path, backbone, settings, (_task(task, root) for task in tasks))
    return together, single


def write_task_file(path: Path, backbone: Table, settings: Table, tasks: Iterable[Table]) -> None:
    """Write a task file of these tables, whose values are strings, numbers and lists."""
    tables = [("[backbone]", backbone), ("[settings]", settings), *(("[[task]]", task) for task in tasks)]
    texts = ["\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]) for head, table in tables]
    path.write_text("\n\n".join(texts) + "\n")


def _task(task: ImageTask, root: str) -> Table:
    return {
        "name": task.name,
        "weights": root + weights(task),
        "seeds": root + calibration_images(task),
        "classes": task.classes,
        "templates": [task.template],
        "test": f"{root}{test_images(task)}/<class>/*.png",
    }
