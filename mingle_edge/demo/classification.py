"""The exported bundle on the test images: accuracy under the three protocols, and a sheet of what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mingle_edge.core.progress import Progress
from mingle_edge.demo.contact_sheet import COLUMNS, INK, Cell, Row, write_contact_sheet
from mingle_edge.demo.task_files import test_images
from mingle_edge.demo.tasks import TASKS
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge_runtime import EdgeModel, Prediction

_SHOWN = 2 * COLUMNS  # images per task on the contact sheet
_RIGHT, _WRONG = "#1a7f37", "#cf222e"
_PLAIN = "#d0d7de"
_EXPERTS = dict(zip((task.name for task in TASKS), ("#0969da", "#bf8700", "#8250df", "#1b7c83"), strict=True))


def classify_test_images(folder: Path, progress: Progress) -> dict[str, dict[str, float]]:
    """Classify all test images and write a contact sheet of the first of each task.

    Returns percent right by protocol and task.
    """
    right: dict[str, dict[str, float]] = {protocol: {} for protocol in PROTOCOLS}
    rows = []
    with EdgeModel.open(folder / "image-bundle") as model:
        for number, task in enumerate(TASKS):
            progress("classify", number, len(TASKS), task.name)
            paths = sorted((folder / test_images(task)).glob("*/*.png"), key=lambda path: path.name)
            truth = [(task.name, path.parent.name) for path in paths]
            answers = (
                model.classify(paths, head=task.name, top=1),
                model.classify(paths, task=task.name, top=1),
                model.classify(paths, top=1),
            )
            for protocol, predictions in zip(PROTOCOLS, answers, strict=True):
                hits = [is_right(p, *own) for p, own in zip(predictions, truth, strict=True)]
                right[protocol][task.name] = 100 * sum(hits) / len(hits)
            shown = list(zip(answers[-1], truth, paths, strict=True))[:_SHOWN]
            count = sum(is_right(p, *own) for p, own, _ in shown)
            cells = [answer_cell(path, *own, p, _EXPERTS) for p, own, path in shown]
            rows.append(Row(task.name, f"{count} of {len(shown)} right", cells))
    heading = "Nothing but the pixels was given. Frame: the expert that the router chose."
    legend = [(heading, None), *_EXPERTS.items(), ("none, plain backbone", _PLAIN)]
    write_contact_sheet(folder / "contact-sheet.png", rows, lines=3, legend=legend)
    progress("classify", len(TASKS), len(TASKS))
    return right


def is_right(prediction: Prediction, task: str, label: str) -> bool:
    """Return whether the first answer is this label of this task."""
    return (prediction.tasks[0], prediction.labels[0]) == (task, label)


def answer_cell(path: Path, task: str, label: str, prediction: Prediction, colors: Mapping[str, str]) -> Cell:
    """Return the image framed in the color of the expert that ran, with the answer and, where it is wrong, the truth."""
    expert = prediction.route.tasks[0] if prediction.route.tasks else None
    frame = colors[expert] if expert else _PLAIN
    if is_right(prediction, task, label):
        return Cell(path, ((prediction.labels[0], _RIGHT),), frame)
    chosen = ((f"expert: {expert or 'none'}", _WRONG),) if expert != task else ()
    return Cell(path, ((prediction.labels[0], _WRONG), (f"is: {label}", INK), *chosen), frame)
