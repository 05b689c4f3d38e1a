"""The whole line on four small tasks: images and checkpoints are made, and then every stage works on the files of the last."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip

from mingle_edge.demo import task_files, tiny_clip
from mingle_edge.demo.baselines import evaluate_baselines
from mingle_edge.demo.contact_sheet import COLUMNS, Shown, write_contact_sheet
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
SEED = 2
"""Of everything drawn and trained. Results of 0 and 1 were seen while the demonstration was made; of this one, nothing was."""
_PROFILE_RUNS = 200
_SHOWN = 2 * COLUMNS  # images per task on the contact sheet
_PACKAGES = ("mingle-edge", "torch", "open_clip_torch", "onnx", "onnxruntime", "scikit-learn")


class DemoFolderError(MingleError):
    """The output folder holds something that is not an earlier demonstration."""


def run_demo(output: Path, *, seed: int = SEED, progress: Progress = silent) -> dict[str, Any]:
    """Make the tasks and models, then merge, evaluate, export, verify, classify and profile them, all in the folder `output`.

    Returns what `report.json` holds: accuracies in percent, times in seconds. Raises `DemoFolderError`, or the error of the
    stage at fault.
    """
    _prepare_folder(output)
    seconds: dict[str, float] = {}
    with _timed(seconds, "render"):
        training = _render_tasks(output, seed, progress)
        images, subjects = pretraining_images(seed, progress)
    (output / "models").mkdir()
    with _timed(seconds, "pretrain"):
        model = tiny_clip.new_model(seed)
        tiny_clip.train_text_tower(model, sorted(set(subjects)), seed, progress)
        tiny_clip.pretrain(model, images, subjects, seed, progress)
        tiny_clip.save_config(output / task_files.CONFIG)
        tiny_clip.save(model, output / task_files.BACKBONE)
    with _timed(seconds, "fine-tune"):
        _fine_tune_all(output, model, training, seed, progress)
    for scope in SCOPES:
        with _timed(seconds, f"merge {scope}"):
            _merge_one_by_one(output, scope, progress)
    report: dict[str, Any] = {}
    with _timed(seconds, "evaluate"):
        report |= _accuracies(_evaluate_all(output, seed, progress))
    with _timed(seconds, "export"):
        parities = [export_bundle(output / s, output / f"{s}-bundle", progress=progress).parity for s in SCOPES]
    report["parity"] = {"cosine": min(p.cosine for p in parities), "max_abs": max(p.max_abs for p in parities)}
    with _timed(seconds, "verify"):
        report["verified"] = {scope: _verify(output / f"{scope}-bundle", progress) for scope in SCOPES}
    with _timed(seconds, "classify"):
        report["runtime"] = _classify(output, progress)
    with _timed(seconds, "profile"):
        report["latency"] = _profile(output / "image-bundle", progress)
    report |= {"seconds": seconds, "machine": machine_record(), "versions": {name: version(name) for name in _PACKAGES}}
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _prepare_folder(output: Path) -> None:
    """An empty folder with a mark in it; what an earlier demonstration left under the same mark is removed."""
    if output.exists() and not output.is_dir():
        raise DemoFolderError(f"{output}: the output must be a folder, and this is a file; name another with -o")
    if (output / MARK).exists() and (output / MARK).read_text() == _MARK_TEXT:
        shutil.rmtree(output)
    elif output.exists() and (found := sorted(path.name for path in output.iterdir())):
        raise DemoFolderError(
            f"{output}: the output folder must be new, empty or an earlier demo, and holds {', '.join(found[:3])}; "
            "name another with -o"
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).write_text(_MARK_TEXT)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 2)


def _render_tasks(output: Path, seed: int, progress: Progress) -> list[LabelledImages]:
    """Write every task's seeds and test images; the training images stay in memory."""
    training = []
    for number, task in enumerate(TASKS):
        progress("render", number, len(TASKS), task.name)
        write_unlabelled(output / task_files.seeds(task), make_split(task, "seeds", seed))
        write_labelled(output / task_files.test_images(task), make_split(task, "test", seed), task.classes)
        training.append(make_split(task, "train", seed))
    progress("render", len(TASKS), len(TASKS))
    return training


def _fine_tune_all(
    output: Path, pretrained: open_clip.CLIP, training: Sequence[LabelledImages], seed: int, progress: Progress
) -> None:
    """Train and write one copy per task: the whole model for every other task, the vision tower alone for the rest."""
    for number, (task, split) in enumerate(zip(TASKS, training, strict=True)):
        model = copy.deepcopy(pretrained)
        prompts = [task.template.format(name) for name in task.classes]
        tiny_clip.fine_tune(model, split.images, split.labels, prompts, seed + 1 + number, _about(task.name, progress))
        tiny_clip.save(model, output / task_files.weights(task), visual_only=number % 2 == 1)


def _about(task: str, progress: Progress) -> Progress:
    return lambda stage, done, total, detail="": progress(stage, done, total, f"{task}, {detail}")


def _merge_one_by_one(output: Path, scope: str, progress: Progress) -> None:
    """As a user whose tasks arrive over time: a new merged model from the first, then `--into` it the others."""
    _, steps = task_files.write_task_files(output, scope)
    for number, step in enumerate(steps):
        merge(step, output / scope, into=number > 0, progress=progress)


def _evaluate_all(output: Path, seed: int, progress: Progress) -> dict[str, EvaluationReport]:
    image, layer = ((output / scope, output / f"{scope}.toml") for scope in SCOPES)
    reports = evaluate_baselines(image[1], seed, progress)
    reports["layer_pooled"] = evaluate(*layer, pooling="batch", progress=progress)
    reports["layer_dense"] = evaluate(*layer, progress=progress)
    reports["layer_top1"] = evaluate(*layer, top_k=1, progress=progress)
    reports["image_top1"] = evaluate(*image, top_k=1, progress=progress)
    return reports


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


def _verify(bundle: Path, progress: Progress) -> float:
    """The smallest cosine with the golden outputs; raises where a hash or an output differs."""
    found = verify(bundle, progress=lambda done, total: progress("verify", done, total))
    found.check()
    return min(found.cosines.values())


def _classify(output: Path, progress: Progress) -> dict[str, dict[str, float]]:
    """Accuracy of the runtime on all test images under P1, P2, P3, and the contact sheet of the first of each task."""
    right: dict[str, dict[str, float]] = {protocol: {} for protocol in PROTOCOLS}
    rows = []
    with EdgeModel.open(output / "image-bundle") as model:
        for number, task in enumerate(TASKS):
            progress("classify", number, len(TASKS), task.name)
            paths = sorted((output / task_files.test_images(task)).glob("*/*.png"), key=lambda path: path.name)
            truth = [(task.name, path.parent.name) for path in paths]
            answers = (
                model.classify(paths, head=task.name, top=1),
                model.classify(paths, task=task.name, top=1),
                model.classify(paths, top=1),
            )
            for protocol, found in zip(PROTOCOLS, answers, strict=True):
                hits = [(p.tasks[0], p.labels[0]) == t for p, t in zip(found, truth, strict=True)]
                right[protocol][task.name] = 100 * sum(hits) / len(hits)
            shown = zip(paths[:_SHOWN], truth, answers[-1], strict=False)
            rows.append([Shown(path, *own, prediction) for path, own, prediction in shown])
    write_contact_sheet(output / "contact-sheet.png", rows)
    progress("classify", len(TASKS), len(TASKS))
    return right


def _profile(bundle: Path, progress: Progress) -> dict[str, float]:
    """Median latencies in milliseconds at batch 1 and one thread, and the ratio of one named expert to none."""
    found = profile(
        bundle,
        runs=_PROFILE_RUNS,
        threads=1,
        batch_sizes=(1,),
        progress=lambda _, done, total: progress("profile", done, total),
    )
    ratios = found.ratios["dense"]
    return {
        "ratio_to_dense": ratios["named"].ratio,
        "ratio_to_dense_routed": ratios["routed"].ratio,
        **{f"milliseconds_{kind}": 1e3 * times.p50 for kind, times in found.latency.items()},
    }
