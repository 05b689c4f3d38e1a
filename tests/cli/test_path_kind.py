"""What paths are told to be, and what a command says of those that it cannot take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_clip
from click.testing import CliRunner

from mingle_edge.cli import main
from mingle_edge.cli.path_kind import PathKind, kind_of


@pytest.fixture
def there(task_file, image_model, image_bundle, tmp_path, monkeypatch) -> Path:
    """A folder with one of each, which is the current one."""
    shutil.copytree(task_file.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(image_model.path, tmp_path / "merged")
    shutil.copytree(image_bundle, tmp_path / "bundle")
    tiny_clip.write_images(tmp_path / "photos", count=2, seed=0)
    (tmp_path / "report.json").write_text('{\n "format": "mingle-edge profile",\n "format_version": 1\n}\n')
    (tmp_path / "other.json").write_text('{"format": "another"}')
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("TASKS.toml", PathKind.TASK_FILE),
        ("merged", PathKind.MERGED_MODEL),
        ("bundle", PathKind.BUNDLE),
        ("report.json", PathKind.PROFILE),
        ("photos", PathKind.IMAGE_FOLDER),
        ("photos/000.png", PathKind.IMAGE),
        ("other.json", None),
        ("empty", None),
        ("gone.toml", None),
        ("backbone.safetensors", None),
    ],
)
def test_paths_are_told_apart(there: Path, name: str, kind: PathKind | None) -> None:
    assert kind_of(there / name) is kind


SWAPPED = "the arguments are swapped; run: mingle-edge "


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate TASKS.toml merged", f"{SWAPPED}evaluate merged TASKS.toml"),
        (
            "evaluate bundle TASKS.toml",
            "bundle is a bundle, and evaluate needs a merged model there; name the merged",
        ),
        ("evaluate photos TASKS.toml", "photos is a folder of images, and evaluate needs a merged model there; name a merged"),
        ("evaluate merged bundle", "bundle is a bundle, and evaluate needs a task file there; name a task file"),
        ("check merged", "merged is a merged model, and check needs a task file there; name the task file that it was"),
        ("merge merged -o new", "merged is a merged model, and merge needs a task file there; name the task file that it was"),
        ("merge TASKS.toml --into bundle", "bundle is a bundle, and merge --into needs a merged model there; name the merged"),
        (
            "export bundle -o new",
            "bundle is a bundle, and export needs a merged model there; name the merged model",
        ),
        ("export TASKS.toml -o new", "and export needs a merged model there; merge it first: mingle-edge merge TASKS.toml -o"),
        ("export merged -o new --images merged", "merged is a merged model, and export --images needs a task file there; "),
        ("head merged -o new", "merged is a merged model, and head needs a task file there; name the task file that it was"),
        ("compare merged -o new", "merged is a merged model, and compare needs a task file there; name the task file that"),
    ],
)
def test_a_command_names_what_it_was_given_and_what_it_needs(there: Path, command: str, message: str) -> None:
    before = sorted(there.iterdir())
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 3
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert message in result.stderr
    assert sorted(there.iterdir()) == before


def test_names_are_quoted_for_a_shell(there: Path) -> None:
    (there / "merged").rename(there / "my model")
    result = CliRunner().invoke(main, ["evaluate", "TASKS.toml", "my model"])
    assert result.stderr.endswith("run: mingle-edge evaluate 'my model' TASKS.toml\n")
