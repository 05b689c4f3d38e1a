"""The offline suite: its images, its recipes, and its models made through the same code with everything small."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.data.image_folder import labeled_images
from mingle_edge.data.task_file import read_task_file
from mingle_edge.demo import canvas, captions, outlines, splits, tiny_clip
from mingle_edge.demo.baselines import evaluate_baseline
from mingle_edge.demo.tiny_clip import Training
from mingle_edge.evaluation.evaluate import EvaluationReport
from research.suite import suite
from research.suite.__main__ import main, table
from research.suite.images import read_training
from research.suite.models import fine_tuned_recipe
from research.suite.pictures import cards, shapes
from research.suite.recipe import recipe
from research.suite.rendered import Rendered
from research.suite.scale import Scale
from research.suite.tasks import GROUPS, SIMILAR, TASKS

SHORT = Training("short", 10, 1e-3)
SMALL = Scale(test=10, tune=10, seeds=5, train=4, captioned=126, text=SHORT, pretraining=SHORT, fine_tuning=SHORT)
PARTS = ("test", "tune", "seeds", "train")
RENDERED = Rendered()
BY_NAME = {task.name: task for task in TASKS}
MADE = ("digits", "cards")
BLANK = np.zeros((32, 32, 3))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small suite of two tasks and one pretraining seed; captions are of all tasks."""
    output = tmp_path_factory.mktemp("suite")
    make(output)
    return output


def make(output: Path, scale=SMALL) -> list[str]:
    """Make a suite of two tasks; the names of its parts in the order they ended."""
    parts: list[str] = []

    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        if done:
            parts.append(f"{stage} {detail}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "TASKS", [BY_NAME[name] for name in MADE])
        suite.make_suite(output, [7], torch.device("cpu"), report, processes=1, data_seed=2, scale=scale)
    return parts


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by its path within the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_groups_and_pairs_are_of_the_tasks() -> None:
    assert GROUPS == (8, 14, 20)
    assert len(BY_NAME) == len(TASKS) == GROUPS[-1]
    assert all(4 <= len(set(task.classes)) == len(task.classes) <= 10 for task in TASKS)
    assert len(SIMILAR) >= 4
    paired = [name for pair in SIMILAR for name in pair]
    assert set(paired) <= set(BY_NAME)
    assert len(set(paired)) == len(paired) == 2 * len(SIMILAR)


def test_every_task_has_enough_images() -> None:
    for task in TASKS:
        count, per_class = len(task.classes), Scale().per_class(len(task.classes))
        assert per_class["test"] * count >= 500
        assert per_class["tune"] * count >= 200
        assert per_class["seeds"] == 10
        assert per_class["train"] == 300


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_are_balanced_disjoint_and_reproducible(task) -> None:
    """So are the demo's, whose tasks are the first four, but for the random numbers they draw."""
    count, seen = len(task.classes), set()
    for part in PARTS:
        split = RENDERED.split(task, part, 5, SMALL)
        each = SMALL.per_class(count)[part]
        assert split.images.shape == (each * count, 32, 32, 3)
        assert np.bincount(split.labels, minlength=count).tolist() == [each] * count
        hashes = {hashlib.sha256(image.tobytes()).digest() for image in split.images}
        assert len(hashes) == len(split.images)
        assert not hashes & seen
        seen |= hashes
    again, other = (RENDERED.split(task, "train", seed, SMALL) for seed in (5, 6))
    demo = splits.make_split(task, "train", 5, SMALL.per_class(count))
    assert (again.images == split.images).all()
    assert (again.labels == split.labels).all()
    assert (other.images != split.images).any()
    assert not seen & {hashlib.sha256(image.tobytes()).digest() for image in demo.images}


@pytest.mark.parametrize("per_class", [splits.DEMO, Scale().per_class(10)], ids=["demo", "suite"])
def test_no_scan_is_in_two_splits(per_class, monkeypatch) -> None:
    scans = {split: set() for split in per_class}
    for split, drawn in scans.items():
        monkeypatch.setattr(splits, "draw_handwritten", lambda rng, scan, drawn=drawn: drawn.add(scan.tobytes()) or BLANK)
        splits.make_split(BY_NAME["digits"], split, 1, per_class)
    assert len(set.union(*scans.values())) == sum(map(len, scans.values())) == 1797
    assert all(len(drawn) == 10 * per_class[split] for split, drawn in scans.items() if split != "train")


def test_written_images_are_those_of_the_parts(made) -> None:
    task = BY_NAME["cards"]
    for part in ("test", "tune", "seeds"):
        pairs = labeled_images(f"{part}/<class>/*.png", made / "images/cards", task.classes)
        split = RENDERED.split(task, part, 2, SMALL)
        stored = {(np.asarray(Image.open(path)).tobytes(), label) for path, label in pairs}
        assert stored == {(image.tobytes(), label) for image, label in zip(split.images, split.labels.tolist(), strict=True)}
    assert (read_training(made / "images/cards").images == RENDERED.split(task, "train", 2, SMALL).images).all()


def test_models_are_the_architecture_and_differ(made) -> None:
    folder = made / "seed-7"
    architecture = read_architecture("backbone.json", base=folder)
    towers = []
    for name in ("backbone", *MADE):
        checkpoint = open_checkpoint(f"{name}.safetensors", base=folder, architecture=architecture)
        check_checkpoint(checkpoint, architecture, backbone=name == "backbone")
        towers.append(dict(checkpoint.tensors()))
    assert all((towers[0][name] != towers[1][name]).any() for name in towers[0])
    assert all((towers[1][name] != towers[2][name]).any() for name in towers[0])


def test_a_task_file_holds_the_tasks_of_its_group(tmp_path) -> None:
    suite.write_group_files(tmp_path, RENDERED)
    for count in GROUPS:
        document = tomllib.loads((tmp_path / f"{count}.toml").read_text())
        assert [entry["name"] for entry in document["task"]] == [task.name for task in TASKS[:count]]
        assert document["settings"] == {"rank": 32}


def test_task_files_name_what_is_there(made) -> None:
    read = read_task_file(made / "seed-7/8.toml")
    assert [task.name for task in read.tasks] == list(MADE)
    for task in read.tasks:
        assert (tuple(task.classes), task.templates) == (BY_NAME[task.name].classes, [BY_NAME[task.name].template])
        assert task.seeds_per_class == 5
        per_class = SMALL.per_class(len(task.classes))
        for part, source in (("test", task.test), ("tune", task.tune), ("seeds", task.seeds)):
            pairs = labeled_images(source.files, made / "seed-7", task.classes)
            assert len(pairs) == per_class[part] * len(task.classes)


def test_what_is_made_is_kept_and_what_is_not_is_made_alike(made) -> None:
    before = contents(made)
    kinds = ("*/*.safetensors", "images/**/*.png", "images/**/*.npz")
    times = {path: path.stat().st_mtime_ns for kind in kinds for path in made.glob(kind)}
    parts = ["render digits", "render cards", "pretrain seed-7", "fine-tune seed-7/digits", "fine-tune seed-7/cards"]
    assert make(made) == parts
    assert {path: path.stat().st_mtime_ns for path in times} == times

    lost = made / "seed-7/digits.safetensors"
    lost.unlink()
    (made / "images/cards.recipe").unlink()
    (made / "images/cards.partial").mkdir()  # left by a kill
    make(made)
    assert contents(made) == before
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == {
        lost,
        *(path for path in times if path.is_relative_to(made / "images/cards")),
    }


def test_another_recipe_makes_only_what_depends_on_it(made, tmp_path) -> None:
    output = shutil.copytree(made, tmp_path / "suite")
    make(output, replace(SMALL, fine_tuning=Training("short", 11, 1e-3)))
    before, after = contents(made), contents(output)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"seed-7/{name}.safetensors{end}" for name in MADE for end in ("", ".recipe")}


def test_a_recipe_counts_code_but_no_comments(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    hashes = []
    for number, code in enumerate(("x = 1\n", '"""Text."""\nx = 1  # one\n', "x = 2\n")):
        (tmp_path / f"suite_recipe_{number}.py").write_text(code)
        hashes.append(recipe(importlib.import_module(f"suite_recipe_{number}")))
    assert hashes[0] == hashes[1] != hashes[2]
    assert recipe(1, "a") != recipe(1, "b")


def test_existing_suites_stay_made() -> None:
    """Their recipes have no more in them than when they were made: no code but that which draws and trains."""
    scale, task = Scale(), BY_NAME["cards"]
    images = recipe("cards", task.classes, 11, scale.per_class(4), cards, canvas, outlines, shapes, splits)
    kinds = [(each.name, each.classes, each.subject) for each in TASKS]
    drawing = sorted({each.source for each in TASKS}, key=lambda module: module.__name__)
    lengths = (scale.captioned, scale.text, scale.pretraining)
    model = recipe(128, 0.3, 2, lengths, kinds, *drawing, canvas, outlines, shapes, captions, tiny_clip)
    assert RENDERED.images_recipe(task, 11, scale) == images
    assert RENDERED.backbone_recipe(2, scale) == model
    tuned = recipe(task.prompts, scale.fine_tuning, images, model, tiny_clip)
    assert fine_tuned_recipe(RENDERED, task, 2, 11, scale) == tuned


def test_accuracy_is_that_of_the_models_on_the_test_images(made) -> None:
    folder = made / "seed-7"
    report = evaluate_baseline(folder / "20.toml", "pretrained", seed=0)
    model = tiny_clip.new_model(0, 128)
    model.load_state_dict(load_file(folder / "backbone.safetensors"))
    for number, name in enumerate(MADE):
        split = RENDERED.split(BY_NAME[name], "test", 2, SMALL)
        head = tiny_clip.text_embeddings(model, BY_NAME[name].prompts)
        answers = (model.encode_image(tiny_clip.to_pixels(split.images)) @ head.T).argmax(1).numpy()
        assert report.final["P1"][number] == pytest.approx(100 * (answers == split.labels).mean())


def test_the_table_has_means_of_groups_and_of_seeds() -> None:
    def report(first: float) -> EvaluationReport:
        final = {"P1": [first + number for number in range(20)]}
        return EvaluationReport([task.name for task in TASKS], final, final, [10] * 20)

    lines = table({seed: {"pretrained": report(10 * seed), "individual": report(60)} for seed in (3, 4)}, RENDERED)
    assert lines[2:5] == ["| 3 | 8 | 33.5 | 63.5 |", "| 3 | 14 | 36.5 | 66.5 |", "| 3 | 20 | 39.5 | 69.5 |"]
    assert lines[-20:][1] == "| textures | 36.0 | 61.0 |"


def test_the_sheet_shows_the_first_seed_of_every_class(made) -> None:
    with Image.open(made / "suite.png") as sheet:
        pixels = np.asarray(sheet)
    first = np.asarray(Image.open(min((made / "images/cards/seeds/hearts").glob("*.png"))))
    large = first.repeat(3, axis=0).repeat(3, axis=1)
    left, bottom = 20 + 3, len(pixels) - 20 - 8 - 15 - 3
    assert (pixels[bottom - 96 : bottom, left : left + 96] == large).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretraining-seeds", "0"], "--pretraining-seeds is 0"),
        (["--device", "tpu"], "device 'tpu' is not one of"),
        (["--images", "real"], "--images real needs it"),
        (["--sources", "there"], "--sources DIR goes with --images real"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, message, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["-o", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
