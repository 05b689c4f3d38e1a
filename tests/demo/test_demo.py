"""The whole line on real input: one run of `mingle-edge demo`, and what its report and files must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from mingle_edge.cli import main
from mingle_edge.demo import tiny_clip
from mingle_edge.demo.tasks import TASKS as DEMO_TASKS
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_runtime import EdgeModel

METHODS = ["pretrained", "individual", "average", "layer_pooled", "layer_dense", "layer_top1", "image_top1"]
TASKS = ["digits", "textures", "signs", "satellite"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, Result]:
    """The folder and what the command printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(main, ["demo", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="module")
def report(demo) -> dict[str, Any]:
    """report.json."""
    read: dict[str, Any] = json.loads((demo[0] / "report.json").read_text())
    return read


def acc(report: dict[str, Any], method: str, protocol: str) -> float:
    """ACC in percent."""
    figure: float = report["accuracy"][method][protocol]["acc"]
    return figure


def test_the_report_is_complete(report) -> None:
    assert list(report["accuracy"]) == METHODS
    for by_protocol in report["accuracy"].values():
        assert list(by_protocol) == ["P1", "P2", "P3"]
        assert all(0 <= figures["acc"] <= 100 and -100 <= figures["bwt"] <= 100 for figures in by_protocol.values())
    assert all(count >= 100 for count in report["test_images"].values())
    stages = ["render", "pretrain", "fine-tune", "merge", "evaluate", "export", "verify", "classify", "profile"]
    assert list(report["seconds"]) == stages
    assert all(figure > 0 for figure in report["cost"].values())


def test_routing_beats_weight_averaging(report) -> None:
    assert acc(report, "image_top1", "P1") >= acc(report, "average", "P1") + 10


def test_a_named_task_is_as_good_as_its_own_model(report) -> None:
    assert acc(report, "image_top1", "P2") >= acc(report, "individual", "P2") - 1


def test_the_tasks_are_worth_merging(report) -> None:
    """Fine-tuning teaches what the backbone does not know, and one set of weights cannot hold it all."""
    by_task = report["accuracy_by_task"]
    for task in TASKS:
        assert by_task["individual"]["P1"][task] > by_task["pretrained"]["P1"][task] + 10
    assert acc(report, "individual", "P1") > 85
    assert acc(report, "pretrained", "P1") < 60
    assert acc(report, "average", "P1") < acc(report, "individual", "P1") - 20


def test_baselines_are_what_their_towers_answer(demo, report) -> None:
    """Against open_clip: the pretrained model, a task's own model, and the mean of all four models' vision towers."""
    models = demo[0] / "models"
    pretrained = load_file(models / "backbone.safetensors")
    own = {
        task: {n: t for n, t in load_file(models / f"{task}.safetensors").items() if n.startswith("visual.")} for task in TASKS
    }
    average = {name: torch.stack([own[task][name] for task in TASKS]).mean(0) for name in own["digits"]}
    for task in DEMO_TASKS:
        files = sorted((demo[0] / "images" / task.name / "test").glob("*/*.png"))
        images = np.stack([np.asarray(Image.open(path)) for path in files])
        labels = torch.tensor([task.classes.index(path.parent.name) for path in files])
        for method, vision in (("pretrained", {}), ("individual", own[task.name]), ("average", average)):
            model = tiny_clip.new_model(0)
            model.load_state_dict({**pretrained, **vision})
            head = tiny_clip.text_embeddings(model, task.prompts)
            answers = (model.encode_image(tiny_clip.to_pixels(images)) @ head.T).argmax(1)
            accuracy = 100 * (answers == labels).double().mean().item()
            for protocol in ("P1", "P2"):
                reported = report["accuracy_by_task"][method][protocol][task.name]
                assert reported == pytest.approx(accuracy, abs=0.5)  # at most one image at a tie


def test_a_named_task_forgets_nothing(report) -> None:
    for method in ("layer_pooled", "layer_dense", "layer_top1", "image_top1"):
        assert report["accuracy"][method]["P2"]["bwt"] == 0


def test_export_and_runtime_compute_what_the_merged_model_computes(report) -> None:
    assert report["parity"]["cosine"] >= 0.99999
    assert report["parity"]["max_abs"] <= 1e-4
    assert min(report["verified"].values()) >= 0.9999
    for protocol, by_task in report["runtime"].items():
        for task, accuracy in by_task.items():
            expected = report["accuracy_by_task"]["image_top1"][protocol][task]
            assert accuracy == pytest.approx(expected, abs=0.5)  # at most one image at a tie


def test_tasks_were_merged_one_by_one(demo) -> None:
    for scope in ("image", "layer"):
        merged = MergedModel.open(demo[0] / scope)
        assert merged.task_names == TASKS
        assert merged.scope == scope
        assert sorted(path.name[2:] for path in (demo[0] / f"{scope}-steps").iterdir()) == sorted(f"{t}.toml" for t in TASKS)


def test_both_bundles_answer(demo) -> None:
    path = next((demo[0] / "images" / "signs" / "test" / "stop").glob("*.png"))
    for scope in ("image", "layer"):
        with EdgeModel.open(demo[0] / f"{scope}-bundle") as model:
            assert model.tasks == tuple(TASKS)
            assert np.allclose(np.linalg.norm(model.embed(path), axis=1), 1, atol=1e-5)


def test_the_table_fits_a_terminal(demo, report) -> None:
    lines = demo[1].stdout.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 80
    image = next(line for line in lines if line.startswith("image, top-1"))
    assert f"{acc(report, 'image_top1', 'P1'):.1f}" in image


def test_the_contact_sheet_is_a_picture(demo) -> None:
    with Image.open(demo[0] / "contact-sheet.png") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 1000
