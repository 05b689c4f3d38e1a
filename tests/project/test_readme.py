"""The commands of README's "Use it", copied from it and run one after the other on tiny models, as written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_clip
from click.testing import CliRunner
from PIL import Image

from mingle_edge.cli import main

README = Path(__file__).parents[2] / "README.md"
CLASSES = ("circle", "square")
FEWER = ["--orders", "1", "--methods", "ties,image", "--no-ray"]
"""Of what `compare` does, which takes minutes, and without starting Ray: all of it is proved elsewhere."""


MORE = """
[backbone]
model = "runs/backbone.json"
weights = "runs/backbone.safetensors"

[[task]]
name = "dtd"
weights = "later/dtd/"
seeds = "later/data/dtd/seeds"
classes = ["circle dtd", "square dtd"]
test = "later/data/dtd/test/<class>/*.png"
"""


def commands(section: str) -> list[list[str]]:
    """Return the commands of the blocks of shell in a section, in their order."""
    text = README.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [
        shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.startswith("mingle-edge")
    ]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Write folders as people have them, and the task file of a task that comes later; and go there."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    runs.mkdir()
    tiny_clip.write_config(runs / "backbone.json")
    tiny_clip.write_open_clip(runs / "backbone.safetensors")
    for number, task in enumerate(("eurosat", "gtsrb")):
        tiny_clip.write_task(runs / f"{task}.safetensors", runs / "backbone.safetensors", seed=number)
        write_task_images(tmp_path / "data" / task, task, number)
    (tmp_path / "later/dtd").mkdir(parents=True)  # a folder with one file of open_clip's in it
    tiny_clip.write_task(tmp_path / "later/dtd/epoch_10.safetensors", runs / "backbone.safetensors", seed=2)
    write_task_images(tmp_path / "later/data/dtd", "dtd", 2)
    (tmp_path / "MORE.toml").write_text(MORE)
    (tmp_path / "weather.txt").write_text("sunny\nrainy\n")
    for name in ("field.jpg", "sign.jpg"):
        Image.open(tmp_path / "data" / "eurosat" / "seeds" / "000.png").save(tmp_path / name)
    return tmp_path


def write_task_images(folder: Path, task: str, number: int) -> None:
    """Write seeds, and images by class in two parts."""
    tiny_clip.write_images(folder / "seeds", count=12, seed=number)
    for variant, name in enumerate(CLASSES):
        for part, offset in (("test", 1), ("tune", 11)):
            tiny_clip.write_images(folder / part / f"{name} {task}", count=3, seed=number, variant=offset + variant)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_commands_run_in_order_as_they_are_written(folders):
    lines = commands("Use it")
    assert [line[1] for line in lines[:6]] == ["init", "check", "merge", "evaluate", "compare", "export"]
    outputs = [line[line.index("-o") + 1] for line in lines if "-o" in line]
    assert len(set(outputs)) == len(outputs)
    for line in lines:
        arguments = [name for part in line[1:] for name in (sorted(map(str, Path().glob(part))) if "*" in part else [part])]
        if line[1] == "compare":
            arguments += FEWER
        if line[1] == "profile" and "--page" not in line and "--compare" not in line:
            arguments += ["--runs", "3"]
        if "--compare" in line:  # of two reports, such as those before and after a change
            for name in ("before.json", "after.json"):
                Path(name).write_text(Path("report.json").read_text())
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{shlex.join(line)}: {result.output} {result.exception!r}"
        if "--into" in line:
            assert "next: mingle-edge evaluate merged TASKS.toml MORE.toml" in result.stderr
        if "MORE.toml" in line and "evaluate" in line:
            assert "merged: 3 tasks, 18 test images" in result.stdout
    assert json.loads(Path("report.json").read_text())
    assert (folders / "bundle-small" / "bundle.json").exists()
    assert (folders / "CARD.md").read_text().startswith("---\n")
