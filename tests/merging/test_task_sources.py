"""Tasks of a merged model that grew by several task files: evaluated, exported and compared with all of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from mingle_edge.cli import main
from mingle_edge.comparison.material import Material
from mingle_edge.core.errors import TaskFileError
from mingle_edge.core.progress import silent
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.task_sources import find_sources
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.task_images import read_task_images


@pytest.fixture
def files(task_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The shared task file in two, in folders of their own."""
    head, *tasks = task_file.read_text().split("[[task]]")
    paths = (tmp_path / "first/TASKS.toml", tmp_path / "later/MORE.toml")
    for path, held in zip(paths, (tasks[:2], tasks[2:]), strict=True):
        shutil.copytree(task_file.parent, path.parent)
        (path.parent / "TASKS.toml").unlink()
        path.write_text("[[task]]".join([head, *held]))
    shutil.rmtree(paths[0].parent / "test/task2")  # what is of the other file is not looked for here
    shutil.rmtree(paths[1].parent / "test/task0")
    return paths


def test_each_task_is_found_in_its_file(image_model: MergedModel, files: tuple[Path, Path]) -> None:
    found = find_sources(image_model, files[::-1])
    assert {name: source.file for name, source in found.items()} == {
        "task0": files[0],
        "task1": files[0],
        "task2": files[1],
    }
    assert list(found) == image_model.task_names


def test_two_files_measure_what_one_does(image_model: MergedModel, task_file: Path, files: tuple[Path, Path]) -> None:
    assert evaluate(image_model.path, files, device="cpu").to_json() == evaluate(image_model.path, task_file).to_json()


def test_an_export_reads_the_images_of_all_files(image_model: MergedModel, files: tuple[Path, Path], tmp_path: Path) -> None:
    images = read_task_images(files, image_model)
    folders = {name: {path.parents[2] for path in tests.paths} for name, tests in images.tests.items()}
    assert folders == {name: {files[name == "task2"].parent / "test"} for name in image_model.task_names}
    report = export_bundle(image_model.path, tmp_path / "bundle", ExportOptions(images=files))
    assert [task.task for task in report.accuracy] == image_model.task_names


def test_a_comparison_takes_all_tasks_and_one_backbone(files: tuple[Path, Path]) -> None:
    material = Material.open(files, seed=1, seeds_per_class=(), progress=silent)
    assert material.tasks == ["task0", "task1", "task2"]
    assert {path.parents[3] for path in material.parts["test"]["task2"].paths} == {files[1].parent}
    change_backbone(files[1])
    with pytest.raises(TaskFileError, match=r"MORE\.toml names another backbone than .*first/TASKS\.toml"):
        Material.open(files, seed=1, seeds_per_class=(), progress=silent)


def change_backbone(file: Path) -> None:
    path = file.parent / "backbone.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path)


def test_a_task_in_no_file_is_named_with_the_way_out(image_model: MergedModel, files: tuple[Path, Path]) -> None:
    path = image_model.path
    with pytest.raises(TaskFileError) as caught:
        find_sources(image_model, files[0])
    assert str(caught.value) == (
        f"{path} holds the task task2, which {files[0]} does not list; also name the file that it was merged from"
    )
    for asked in (find_sources, lambda model, file: read_task_images(file, model)):
        with pytest.raises(TaskFileError, match=r"holds the tasks task0, task1, which .* also name the file that they were"):
            asked(image_model, files[1])
    assert list(find_sources(image_model.select(["task2"]), files[1])) == ["task2"]


def test_backbones_are_compared_by_their_contents(image_model: MergedModel, files: tuple[Path, Path]) -> None:
    find_sources(image_model, files)  # two files with the same bytes
    change_backbone(files[1])
    with pytest.raises(TaskFileError, match=r"MORE\.toml names another backbone \(backbone\.safetensors, sha256 \w+\) than "):
        find_sources(image_model, files)


def test_a_model_that_grows_is_evaluated_and_exported_with_both_files(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, more = (str(file.relative_to(tmp_path)) for file in files)
    for command, said, then in (
        (f"merge {first} -o merged", "merged: 2 tasks, scope image: task0, task1; ", f"evaluate merged {first}"),
        (f"merge {more} --into merged", "merged: added task2 to task0, task1", f"evaluate merged EARLIER.toml {more} "),
        (f"merge {more} --into merged", f"merged: nothing to do, all tasks of {more} are in it already: task2", ""),
        (f"evaluate merged {first} {more}", "merged: 3 tasks, 18 test images, ", "export merged -o bundle"),
        (f"export merged -o bundle --images {first} --images {more}", "bundle: 15 files, ", "verify bundle "),
        (f"evaluate merged {first} {more}", "merged: 3 tasks, ", "export merged -o bundle-2"),
    ):
        before = {path: path.read_bytes() for path in Path("merged").rglob("*") if path.is_file()}
        result = CliRunner().invoke(main, command.split())
        assert result.exit_code == 0, result.output
        assert any(line.startswith(said) for line in result.stdout.splitlines()), result.stdout
        assert result.stderr.splitlines()[-1].startswith(f"next: mingle-edge {then}")
        assert "next: " not in result.stdout
        if command.startswith("export"):
            assert re.search(r"^ *mean +18  P2 ", result.stdout, re.MULTILINE)
        if "nothing to do" in said or not command.startswith("merge"):
            assert {path: path.read_bytes() for path in before} == before
