"""The whole line on four small tasks: images and checkpoints are made, and then every stage works on the files of the last."""

from __future__ import annotations

import copy
import json
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mingle_edge.demo import task_files, tiny_clip
from mingle_edge.demo.baselines import evaluate_baselines
from mingle_edge.demo.contact_sheet import write_contact_sheet
from mingle_edge.demo.pretraining import pretraining_images
from mingle_edge.demo.tasks import TASKS, LabelledImages, make_split, write_labelled, write_unlabelled
from mingle_edge.errors import MingleError
from mingle_edge.evaluation import EvaluationReport, evaluate
from mingle_edge.merge import merge
from mingle_edge.progress import Progress, silent
from mingle_edge.protocols import PROTOCOLS
from mingle_edge_export import export_bundle
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.machine import machine_record
from mingle_edge_runtime.profile import profile
from mingle_edge_runtime.verify import verify

SCOPES = ("image", "layer")
MARK = "ABOUT.txt"
_MARK_TEXT = "Written by `mingle-edge demo`. A new demo in this folder replaces everything in it.\n"
_PROFILE_RUNS = 200


class DemoFolderError(MingleError):
    """The output folder holds something that is not an earlier demonstration."""


def run_demo(output: Path, *, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """Make the tasks and models, merge, evaluate, export, verify, classify and profile them; everything is under `output`.

    Returns what `report.json` holds: accuracies in percent, times in seconds. Raises a `MingleError` or an error of the
    stage at fault.
    """
    _prepare_folder(output)
    report: dict[str, Any] = {"seconds": {}}
    seconds = report["seconds"]
    with _timed(seconds, "render"):
        training = _render(output, seed, progress)
        images, subjects = pretraining_images(seed)
    with _timed(seconds, "pretrain"):
        model = tiny_clip.new_model(seed)
        tiny_clip.train_text_tower(model, sorted(set(subjects)), seed, progress)
        tiny_clip.pretrain(model, images, subjects, seed, progress)
    ...
    return report
