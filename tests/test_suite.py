"""The offline suite: its images, its recipes, and its models made through the same code with everything small."""

from __future__ import annotations

import hashlib
import importlib
import runpy
import shutil
import sys
import tomllib
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.demo.tiny_clip import Training
from mingle_edge.image_folder import labelled_images
from mingle_edge.task_file import read_task_file

FOLDER = Path(__file__).parents[1] / "examples/suite"
sys.path.insert(0, str(FOLDER))
accuracy, contact_sheet, recipe, splits, suite, task_files = (
    importlib.import_module(name) for name in ("accuracy", "contact_sheet", "recipe", "splits", "suite", "task_files")
)
SIMILAR, TASKS, GROUPS = (getattr(importlib.import_module("tasks"), name) for name in ("SIMILAR", "TASKS", "GROUPS"))
Scale = importlib.import_module("scale").Scale

SHORT = Training("short", 10, 1e-3)
SMALL = Scale(test=10, tune=10, seeds=5, train=4, captioned=126, text=SHORT, pretraining=SHORT, fine_tuning=SHORT)
BY_NAME = {task.name: task for task in TASKS}
MADE = ("digits", "cards")


class Immediately(Executor):
    """Runs each job when it is submitted, here."""

    def submit(self, job, /, *arguments, **options):
        future: Future = Future()
        future.set_result(job(*arguments, **options))
        return future


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small suite of two tasks and one pretraining seed; captions are of all tasks."""
    output = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "TASKS", [BY_NAME[name] for name in MADE])
        make(output)
    return output


def make(output: Path, scale=SMALL) -> list[str]:
    """Make a suite; the names of its jobs in the order they ended."""
    jobs: list[str] = []
    run = Immediately()

    def report(stage: str, done: int, total: int, detail: str = "") -> None:
        jobs.append(detail)

    suite.make_suite(output, [7], torch.device("cpu"), run, run, report, data_seed=2, scale=scale)
    return jobs


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
        count = len(task.classes)
        assert Scale().per_class("test", count) * count >= 500
        assert Scale().per_class("tune", count) * count >= 200
        assert Scale().per_class("seeds", count) == 10
        assert 200 <= Scale().per_class("train", count) <= 300
    assert [Scale().per_class(part, 10) for part in ("test", "tune")] == [50, 20]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_parts_are_balanced_disjoint_and_reproducible(task) -> None:
    count, seen = len(task.classes), set()
    for part in splits.PARTS:
        split = splits.make_part(task, part, 5, SMALL)
        each = SMALL.per_class(part, count)
        assert np.bincount(split.labels, minlength=count).tolist() == [each] * count
        found = {hashlib.sha256(image.tobytes()).digest() for image in split.images}
        assert len(found) == len(split.images)
        assert not found & seen
        seen |= found
    again, other = (splits.make_part(task, "train", seed, SMALL) for seed in (5, 6))
    assert (again.images == split.images).all()
    assert (other.images != split.images).any()


def test_no_scan_is_in_two_parts(monkeypatch) -> None:
    scans = {}

    def record(rng, scan):
        scans.setdefault(part, set()).add(scan.tobytes())
        return np.zeros((32, 32, 3))

    monkeypatch.setattr(splits, "draw_handwritten", record)
    for part in splits.PARTS:
        splits.make_part(BY_NAME["digits"], part, 1, Scale())
    sizes = {part: len(found) for part, found in scans.items()}
    assert len(set.union(*scans.values())) == sum(sizes.values()) == 1797
    assert [sizes[part] for part in ("test", "tune", "seeds")] == [500, 200, 100]


def test_written_images_are_those_of_the_parts(made) -> None:
    task = BY_NAME["cards"]
    for part in ("test", "tune", "seeds"):
        pairs = labelled_images(f"{part}/<class>/*.png", made / "images/cards", task.classes)
        split = splits.make_part(task, part, 2, SMALL)
        stored = {(np.asarray(Image.open(path)).tobytes(), label) for path, label in pairs}
        assert stored == {(image.tobytes(), label) for image, label in zip(split.images, split.labels.tolist(), strict=True)}
    assert (splits.read_training(made / "images/cards").images == splits.make_part(task, "train", 2, SMALL).images).all()


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


def test_task_files_name_what_is_there(made) -> None:
    for count in GROUPS:
        path = made / f"seed-7/{count}.toml"
        document = tomllib.loads(path.read_text())
        assert [table["name"] for table in document["task"]] == [task.name for task in TASKS[:count]]
        assert document["settings"] == {"rank": 32}
        for table in document["task"]:
            assert table["seeds_per_class"] == 5
            if table["name"] in MADE:
                assert (path.parent / table["weights"]).is_file()
                for key, each in (("test", 10), ("tune", 10), ("seeds", 5 * len(table["classes"]))):
                    found = labelled_images(table[key], path.parent, table["classes"])
                    assert len(found) >= each


def test_task_files_are_read(made, monkeypatch) -> None:
    monkeypatch.setattr(task_files, "TASKS", tuple(BY_NAME[name] for name in MADE))
    folder = made / "seed-7"
    kept = {count: (folder / f"{count}.toml").read_text() for count in GROUPS}
    task_files.write_task_files(folder)
    read = read_task_file(folder / "8.toml")
    for count, text in kept.items():
        (folder / f"{count}.toml").write_text(text)
    assert [(task.name, tuple(task.classes), task.seeds_per_class) for task in read.tasks] == [
        (name, BY_NAME[name].classes, 5) for name in MADE
    ]
    assert [task.templates for task in read.tasks] == [[BY_NAME[name].template] for name in MADE]


def test_what_is_made_is_kept_and_what_is_not_is_made_alike(made, monkeypatch) -> None:
    monkeypatch.setattr(suite, "TASKS", [BY_NAME[name] for name in MADE])
    before = contents(made)
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.suffix in (".safetensors", ".png", ".npz")}
    jobs = make(made)
    assert sorted(jobs) == ["images/cards", "images/digits", "seed-7/cards", "seed-7/digits", "seed-7/pretrained"]
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


def test_another_recipe_makes_only_what_depends_on_it(made, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(suite, "TASKS", [BY_NAME[name] for name in MADE])
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
        hashes.append(recipe.recipe(importlib.import_module(f"suite_recipe_{number}")))
    assert hashes[0] == hashes[1] != hashes[2]
    assert recipe.recipe(1, "a") != recipe.recipe(1, "b")


def test_accuracy_and_sheet_of_what_is_made(made, monkeypatch, tmp_path) -> None:
    for module in (accuracy, contact_sheet):
        monkeypatch.setattr(module, "TASKS", [BY_NAME[name] for name in MADE])
    found = accuracy.measure(made / "seed-7", made / "images", "tune")
    assert list(found) == list(MADE)
    task = BY_NAME["cards"]
    model = accuracy.load_model(made / "seed-7/backbone.safetensors")
    split = splits.make_part(task, "tune", 2, SMALL)
    head = accuracy.tiny_clip.text_embeddings(model, accuracy.prompts(task))
    right = 0
    for image, label in zip(split.images, split.labels, strict=True):
        embedding = model.encode_image(accuracy.tiny_clip.to_pixels(image[None]))[0]
        right += int((head @ embedding).argmax()) == label
    assert found["cards"].pretrained == pytest.approx(100 * right / len(split.labels))
    assert len(accuracy.table({7: found, 8: found})) == 2 + 2 * len(GROUPS) + 3 + len(MADE)
    contact_sheet.write_contact_sheet(tmp_path / "sheet.png", made / "images")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 10 * 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--pretraining-seeds", "0"], "--pretraining-seeds is 0"), (["--device", "tpu"], "device 'tpu' is not one of")],
)
def test_the_command_refuses_what_it_cannot_do(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["suite", "-o", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER), run_name="__main__")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_job_that_fails_gives_up_what_waits(monkeypatch, tmp_path) -> None:
    waiting, failed = Future(), Future()
    monkeypatch.setattr(Immediately, "submit", lambda self, job, *arguments: waiting if job is suite.write_backbone else failed)
    failed.set_exception(OSError("no space left"))
    with pytest.raises(OSError, match="no space left"):
        make(tmp_path)
    assert waiting.cancelled()
