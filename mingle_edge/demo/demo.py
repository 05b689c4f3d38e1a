"""The whole line on four small tasks: images and checkpoints are made, and then every stage works on the files of the last."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip

from mingle_edge.core.errors import MingleError
from mingle_edge.core.progress import Progress, silent
from mingle_edge.demo import task_files, tiny_clip
from mingle_edge.demo.baselines import BASELINES, evaluate_baseline
from mingle_edge.demo.captions import captioned_images
from mingle_edge.demo.classification import classify_test_images
from mingle_edge.demo.cost import measure_cost
from mingle_edge.demo.parallel import run_parts
from mingle_edge.demo.splits import LabeledImages, make_split, write_labeled, write_unlabeled
from mingle_edge.demo.tasks import TASKS, ImageTask
from mingle_edge.evaluation.evaluate import EvaluationReport, evaluate
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.files.atomic_files import replacing, why_not_written, write_text
from mingle_edge.files.folder_lock import LOCK, locked
from mingle_edge.files.new_folder import contents
from mingle_edge.files.output_path import check_output_folder
from mingle_edge.merging.merge import merge
from mingle_edge_export import Parity, export_bundle
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.ort.machine import machine_record

SCOPES = ("image", "layer")
MARK = "ABOUT.txt"
_MARK_TEXT = "Written by `mingle-edge demo`. A new demo in this folder replaces everything in it.\n"
SEED = 2
"""Of everything drawn and trained. Results of 0 and 1 were seen while the demonstration was made; of this one, nothing was."""
CAPTIONED = 8000  # images for pretraining
_PACKAGES = ("mingle-edge", "torch", "open_clip_torch", "onnx", "onnxruntime", "scikit-learn")


class DemoFolderError(MingleError):
    """The output folder holds something that is not an earlier demonstration."""


def run_demo(output: Path, *, seed: int = SEED, progress: Progress = silent) -> dict[str, Any]:
    """Make the tasks and models, then merge, evaluate, export, verify, classify and profile them, all in the folder `output`.

    Returns what `report.json` holds: accuracies in percent, times in seconds. Raises `DemoFolderError`, or the error of the
    stage at fault.
    """
    try:
        check_demo_folder(output)
        with locked(output / LOCK, "demo"):
            return _run(output, seed, progress)
    except OSError as error:
        raise DemoFolderError(f"{output}: {why_not_written(error)}") from error


def check_demo_folder(output: Path) -> None:
    """Check that a demo can be written into a folder, which may be missing. Raises `DemoFolderError`, `OutputError`."""
    if output.exists() and not output.is_dir():
        raise DemoFolderError(f"{output}: the output must be a folder, and this is a file; name another with -o")
    check_output_folder(output)
    if output.exists() and not _is_demo(output) and (held := contents(output)):
        raise DemoFolderError(
            f"{output}: the output folder must be new, empty or an earlier demo, and holds {', '.join(held[:3])}; "
            "name another with -o"
        )


def _run(output: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Do as `run_demo`, in a folder that is this process's alone."""
    _prepare_folder(output)
    seconds: dict[str, float] = {}
    with _timed(seconds, "render"):
        parts: dict[str, Callable[[], Any]] = {"captions": partial(captioned_images, (None, *TASKS), seed, CAPTIONED)}
        parts |= {task.name: partial(_render_task, output, task, seed) for task in TASKS}
        rendered = run_parts("render", parts, progress)
        images, subjects = rendered.pop("captions")
    (output / "models").mkdir()
    with _timed(seconds, "pretrain"):
        model = tiny_clip.new_model(seed)
        tiny_clip.train_text_tower(model, sorted(set(subjects)), seed, progress)
        tiny_clip.pretrain(model, images, subjects, seed, progress)
        tiny_clip.save_config(output / task_files.CONFIG)
        with replacing(output / task_files.BACKBONE) as written:
            tiny_clip.save(model, written)
    with _timed(seconds, "fine-tune"):
        run_parts("fine-tune", {t.name: partial(_fine_tune, output, model, t, rendered[t.name], seed) for t in TASKS}, progress)
    with _timed(seconds, "merge"):
        run_parts("merge", {scope: partial(_merge_one_by_one, output, scope) for scope in SCOPES}, progress)
    report: dict[str, Any] = {}
    with _timed(seconds, "evaluate"):
        report |= _accuracies(_evaluate_all(output, seed, progress))
    with _timed(seconds, "export"):
        parities = run_parts("export", {scope: partial(_export, output, scope) for scope in SCOPES}, progress).values()
    report["parity"] = {"cosine": min(p.cosine for p in parities), "max_abs": max(p.max_abs for p in parities)}
    with _timed(seconds, "verify"):
        report["verified"] = {}
        for number, scope in enumerate(SCOPES):
            progress("verify", number, len(SCOPES), scope)
            report["verified"][scope] = _verify(output / f"{scope}-bundle")
        progress("verify", len(SCOPES), len(SCOPES))
    with _timed(seconds, "classify"):
        report["runtime"] = classify_test_images(output, progress)
    with _timed(seconds, "profile"):
        progress("profile", 0, 1)
        report["cost"] = measure_cost(output / "image-bundle")
        progress("profile", 1, 1)
    report |= {"seconds": seconds, "machine": machine_record(), "versions": {name: version(name) for name in _PACKAGES}}
    write_text(output / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def _prepare_folder(output: Path) -> None:
    """Empty the folder of what an earlier demonstration left under its mark, and mark it."""
    check_demo_folder(output)  # again, now that no other process may write there
    if _is_demo(output):
        for path in output.iterdir():  # the mark stays until the last: a demonstration killed here is replaced by the next
            if path.name not in (MARK, LOCK):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    write_text(output / MARK, _MARK_TEXT)


def _is_demo(output: Path) -> bool:
    return (output / MARK).is_file() and (output / MARK).read_bytes() == _MARK_TEXT.encode()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 2)


def _render_task(output: Path, task: ImageTask, seed: int) -> LabeledImages:
    """Write the task's seeds and test images; the training images are returned."""
    write_unlabeled(output / task_files.calibration_images(task), make_split(task, "seeds", seed))
    write_labeled(output / task_files.test_images(task), make_split(task, "test", seed), task.classes)
    return make_split(task, "train", seed)


def _fine_tune(output: Path, model: open_clip.CLIP, task: ImageTask, training: LabeledImages, seed: int) -> None:
    """Train a copy on one task and write it: the whole model for every other task, the vision tower alone for the rest."""
    number, copied = TASKS.index(task), copy.deepcopy(model)
    tiny_clip.fine_tune(copied, training.images, training.labels, task.prompts, seed + 1 + number, silent)
    with replacing(output / task_files.weights(task)) as written:
        tiny_clip.save(copied, written, visual_only=number % 2 == 1)


def _merge_one_by_one(output: Path, scope: str) -> None:
    """Merge as a user whose tasks arrive over time: a new merged model from the first, then `--into` it the others."""
    _, steps = task_files.write_task_files(output, scope)
    for number, step in enumerate(steps):
        merge(step, output / scope, into=number > 0)


def _evaluate_all(output: Path, seed: int, progress: Progress) -> dict[str, EvaluationReport]:
    image, layer = ((output / scope, output / f"{scope}.toml") for scope in SCOPES)
    baselines = {name: partial(evaluate_baseline, image[1], name, seed) for name in BASELINES}
    merged = {
        "layer_pooled": partial(evaluate, *layer, pooling="batch"),
        "layer_dense": partial(evaluate, *layer),
        "layer_top1": partial(evaluate, *layer, top_k=1),
        "image_top1": partial(evaluate, *image, top_k=1),
    }
    methods = baselines | merged
    reports = run_parts("evaluate", dict(reversed(methods.items())), progress)  # the last takes longest and starts first
    return {name: reports[name] for name in methods}


def _export(output: Path, scope: str) -> Parity:
    return export_bundle(output / scope, output / f"{scope}-bundle").parity


def _accuracies(reports: dict[str, EvaluationReport]) -> dict[str, Any]:
    routed = reports["image_top1"]
    return {
        "accuracy": {m: {p: {"acc": r.acc(p), "bwt": r.bwt(p)} for p in PROTOCOLS} for m, r in reports.items()},
        "accuracy_by_task": {
            m: {p: dict(zip(r.tasks, r.final[p], strict=True)) for p in PROTOCOLS} for m, r in reports.items()
        },
        "routed_to_own_task": dict(zip(routed.tasks, routed.own_route, strict=True)),
        "router_blocks": routed.router_blocks,
        "test_images": dict(zip(routed.tasks, routed.images, strict=True)),
    }


def _verify(bundle: Path) -> float:
    """Verify a bundle; returns the smallest cosine with the golden outputs, and raises where a hash or an output differs."""
    verification = verify(bundle)
    verification.check()
    return min(verification.cosines.values())
