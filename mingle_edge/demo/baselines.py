"""What a merge is compared with: the pretrained model, each task's own fine-tuned model, and their average."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.comparison.cell import Cell, run_cell
from mingle_edge.comparison.material import Material
from mingle_edge.comparison.registry import SPECS
from mingle_edge.device import choose_device
from mingle_edge.evaluation import EvaluationReport
from mingle_edge.progress import Progress, silent
from mingle_edge.protocols import PROTOCOLS

BASELINES = {"pretrained": "pretrained", "individual": "individual", "average": "weight-averaging"}


def evaluate_baselines(task_file: Path, seed: int, progress: Progress) -> dict[str, EvaluationReport]:
    """`pretrained`, `individual` and `average` on the test images of a task file, merged in its order."""
    material = Material.open(task_file, seed=seed, seeds_per_class=(), progress=progress)
    workbench = material.workbench(choose_device("auto"))
    images = [len(material.images("test", name)) for name in material.tasks]
    reports = {}
    for number, (name, method) in enumerate(BASELINES.items()):
        progress("baselines", number, len(BASELINES), name)
        cell = Cell(name, method, {}, tuple(material.tasks), seed, every_step=False)
        accuracy = run_cell(cell, SPECS[method], material, workbench, silent).accuracy
        after_own = {p: [_measured(accuracy[p][t + 1][t]) for t in range(len(images))] for p in PROTOCOLS}
        final = {p: [_measured(value) for value in accuracy[p][-1]] for p in PROTOCOLS}
        reports[name] = EvaluationReport(material.tasks, after_own, final, images)
    progress("baselines", len(BASELINES), len(BASELINES))
    return reports


def _measured(value: float | None) -> float:
    if value is None:
        raise ValueError("a cell always measures each task right after its own merge and in the end")
    return value
