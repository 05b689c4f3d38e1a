"""What a merge is compared with: the pretrained model, each task's own fine-tuned model, and their average."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.comparison.cell import Cell
from mingle_edge.comparison.cell_run import run_cell
from mingle_edge.comparison.material import Material
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.device import choose_device
from mingle_edge.core.progress import silent
from mingle_edge.evaluation.evaluate import EvaluationReport
from mingle_edge.evaluation.protocols import PROTOCOLS

BASELINES = {"pretrained": "pretrained", "individual": "individual", "average": "weight-averaging"}


def evaluate_baseline(task_file: Path, name: str, seed: int) -> EvaluationReport:
    """Evaluate one of `BASELINES` on the test images of a task file, merged in its order."""
    material = Material.open(task_file, seed=seed, seeds_per_class=(), progress=silent)
    method, images = BASELINES[name], [len(images) for images in material.parts["test"].values()]
    cell = Cell(name, method, {}, tuple(material.tasks), seed, every_step=False)
    accuracy = run_cell(cell, SPECS[method], material, material.workbench(choose_device("auto")), silent).accuracy
    after_own = {p: [_measured(accuracy[p][t + 1][t]) for t in range(len(images))] for p in PROTOCOLS}
    final = {p: [_measured(value) for value in accuracy[p][-1]] for p in PROTOCOLS}
    return EvaluationReport(material.tasks, after_own, final, images)


def _measured(value: float | None) -> float:
    if value is None:
        raise ValueError("a cell always measures each task right after its own merge and in the end")
    return value
