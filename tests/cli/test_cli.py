"""The command line: help that fits 80 columns, exit codes and messages of everything a user can get wrong."""

import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from mingle_edge.cli import COMMANDS, main


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_is_readable_in_80_columns(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert max(map(len, result.output.splitlines())) <= 80
    for line in result.output.splitlines():
        if option := re.match(r"  (?:-\w, )?--[\w-]+(?: [A-Z\[\]a-z|.]+)?(.*)", line):
            assert not option[1].endswith("...")


def test_merge_evaluate_inspect_in_a_user_s_order(task_file, tmp_path):
    merged = tmp_path / "merged"
    result = run("merge", task_file, "-o", merged)
    assert result.exit_code == 0, result.output
    assert "3 tasks, scope image: task0, task1, task2" in result.output
    result = run("evaluate", merged, task_file, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert re.search(r"^ +ACC +\d+\.\d +\d+\.\d +\d+\.\d$", result.output, re.MULTILINE)
    table = [line for line in result.stdout.splitlines() if line.startswith("  ")]  # what follows it are sentences
    assert len(table) == 6
    assert max(map(len, table)) <= 80
    stages = re.search(r"^routed by (.+)$", result.stdout, re.MULTILINE)[1]
    assert sum(map(float, re.findall(r" (\d+\.\d)%", stages))) == pytest.approx(100, abs=0.2)
    assert re.search(r"^images of a task left out: .*AUROC [01]\.\d{3}$", result.stdout, re.MULTILINE)
    assert '"bwt"' in (tmp_path / "report.json").read_text()
    result = run("inspect", merged)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("task0", "task1", "task2"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("merge", "nowhere.toml", "-o", "m"), 3, r"nowhere\.toml"),
        (("merge", "{file}"), 2, "give -o FOLDER"),
        (("merge", "{file}", "-o", "a", "--into", "b"), 2, "different folders"),
        (("merge", "{file}", "--into", "{tmp}"), 3, "not a merged model"),
        (("merge", "{file}", "-o", "/proc/merged"), 3, "/proc/merged"),
        (("merge", "{file}", "-o", "{tmp}/m", "--device", "cuda"), 7, "no CUDA device"),
        (("evaluate", "{tmp}", "{file}"), 3, "not a merged model"),
        (("inspect", "{tmp}"), 3, "holds neither bundle.json nor mingle.json; give a bundle or a merged model"),
        (("export", "{tmp}", "-o", "{tmp}/b"), 3, "not a merged model"),
        (("run", "{tmp}", "x.png"), 3, "bundle.json does not exist: name a folder that `mingle-edge export` wrote"),
        (("verify", "{tmp}"), 3, "bundle.json does not exist: name a folder that `mingle-edge export` wrote"),
        (("profile", "{tmp}"), 3, "bundle.json does not exist: name a folder that `mingle-edge export` wrote"),
        (("merg", "x"), 2, "No such command 'merg'"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(task_file, tmp_path, monkeypatch, arguments, code, message):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(*(argument.format(file=task_file, tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code, result.output
    lines = [line for line in result.output.splitlines() if line.lower().startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in result.output


def not_a_number(folder):
    state = load_file(folder / "task1.safetensors")
    state["visual.proj"][0, 0] = np.nan
    save_file(state, folder / "task1.safetensors")


def broken_image(folder):
    image = next((folder / "seeds" / "task1").glob("*.png"))
    image.write_bytes(image.read_bytes()[:60])


def wrong_value(folder):
    file = folder / "TASKS.toml"
    file.write_text(file.read_text().replace("rank = 8", "rank = 0"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_a_number, r"visual\.proj"),
        (broken_image, r"seeds/task1/\d+\.png"),
        (wrong_value, "rank must be at least 1, not 0"),
    ],
)
def test_bad_input_of_a_merge_costs_nothing(task_file, image_model, tmp_path, damage, message):
    """Merging into a finished model: what was merged stays as it was."""
    shutil.copytree(task_file.parent, tmp_path / "tasks")
    shutil.copytree(image_model.path, tmp_path / "merged")
    damage(tmp_path / "tasks")
    result = run("merge", tmp_path / "tasks" / "TASKS.toml", "--into", tmp_path / "merged")
    assert result.exit_code == 3, result.output
    assert re.search(message, result.output)
    assert "Traceback" not in result.output
    now = {p.relative_to(tmp_path / "merged"): p.read_bytes() for p in (tmp_path / "merged").rglob("*") if p.is_file()}
    assert now == {p.relative_to(image_model.path): p.read_bytes() for p in image_model.path.rglob("*") if p.is_file()}


def test_export_verify_run_profile_in_a_user_s_order(image_model, task_file, tmp_path):
    bundle = tmp_path / "bundle"
    for arguments, expected in (
        (("export", image_model.path, "-o", bundle), "cosine at least"),
        (("inspect", bundle), "task2"),
        (("verify", bundle), "outputs: all as recorded"),
        (("run", bundle, *sorted((task_file.parent / "seeds" / "task0").glob("*.png"))[:2], "--json"), "probabilit"),
        (("profile", bundle, "--runs", "2", "--against", "dense", "--json", tmp_path / "p.json"), "p50"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
        assert re.search(expected, result.output), (arguments, result.output)
    result = run("run", bundle, "--task", "tusk1", next((task_file.parent / "seeds").rglob("*.png")))
    assert result.exit_code == 3
    assert "task0, task1, task2" in result.output
    result = run("export", image_model.path, "-o", bundle)
    assert result.exit_code == 3
    assert "new or empty" in result.output
