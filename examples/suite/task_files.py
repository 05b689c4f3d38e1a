"""The task files of one pretraining seed, one for each group of tasks."""

from __future__ import annotations

import json
from pathlib import Path

from models import BACKBONE, CONFIG_FILE, WIDTH, weights
from tasks import GROUPS, TASKS, SuiteTask

SEEDS_PER_CLASS = 5


def write_task_files(folder: Path) -> None:
    """Write `<count>.toml` with the first so many tasks, for every group."""
    for count in GROUPS:
        (folder / f"{count}.toml").write_text(_text(TASKS[:count]))


def _text(tasks: tuple[SuiteTask, ...]) -> str:
    lines = ["[backbone]", f'model = "{CONFIG_FILE}"', f'weights = "{BACKBONE}"', "", "[settings]", f"rank = {WIDTH // 4}"]
    for task in tasks:
        root = f"../images/{task.name}"
        lines += ["", "[[task]]", f'name = "{task.name}"', f'weights = "{weights(task)}"']
        lines += [f'seeds = "{root}/seeds/<class>/*.png"', f"seeds_per_class = {SEEDS_PER_CLASS}"]
        lines += [f"classes = {json.dumps(task.classes)}", f"templates = {json.dumps([task.template])}"]
        lines += [f'{part} = "{root}/{part}/<class>/*.png"' for part in ("test", "tune")]
    return "\n".join(lines) + "\n"
