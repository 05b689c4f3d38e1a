"""Several task files that belong together: what they hold, and what keeps them from belonging together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_clip import write_task_file

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.task_files import check_same_settings, read_task_files, same_backbone


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two tasks in one file, the third in another, in another folder."""
    whole = write_task_file(tmp_path / "tasks", tasks=3, rank=8)
    head, *tasks = whole.read_text().split("[[task]]")
    first, more = tmp_path / "tasks/FIRST.toml", tmp_path / "later/MORE.toml"
    first.write_text("[[task]]".join([head, *tasks[:2]]))
    more.parent.mkdir()
    third = "[[task]]".join([head, tasks[2]]).replace('"seeds/', '"../tasks/seeds/').replace('"test/', '"../tasks/test/')
    for name in ("model.json", "backbone.safetensors", "task2.safetensors"):
        third = third.replace(f'"{name}"', f'"../tasks/{name}"')
    more.write_text(third)
    return first, more


def test_one_file_or_several_in_their_order(files: tuple[Path, Path]) -> None:
    for one in (files[0], str(files[0]), [files[0]]):
        assert [task.name for file in read_task_files(one) for task in file.tasks] == ["task0", "task1"]
    read = read_task_files([files[1], str(files[0])])
    assert [(file.path, [task.name for task in file.tasks]) for file in read] == [
        (files[1], ["task2"]),
        (files[0], ["task0", "task1"]),
    ]


def test_no_file_is_refused() -> None:
    with pytest.raises(TaskFileError, match="no task file is given; name at least one"):
        read_task_files([])


def test_a_file_given_twice_is_refused_under_any_name(files: tuple[Path, Path]) -> None:
    other = files[0].parent / "../tasks" / files[0].name
    with pytest.raises(TaskFileError, match=r"FIRST\.toml is given twice; name each task file once"):
        read_task_files([files[0], other])


@pytest.mark.parametrize(("name", "said"), [("task1", ""), ("TASK1", ", which calls it 'task1'")])
def test_a_task_in_two_files_is_refused(files: tuple[Path, Path], name: str, said: str) -> None:
    files[1].write_text(files[1].read_text().replace('name = "task2"', f'name = "{name}"'))
    with pytest.raises(TaskFileError) as caught:
        read_task_files(files)
    assert str(caught.value) == f"{files[1]} holds task {name!r}, and so does {files[0]}{said}; keep it in one of the files"


def test_settings_must_be_equal_however_they_are_written(files: tuple[Path, Path]) -> None:
    text = files[1].read_text()
    files[1].write_text(text.replace("rank = 8", "rank = 8\nseed = 0"))  # the default
    check_same_settings(read_task_files(files))
    files[1].write_text(text.replace("rank = 8", "rank = 16"))
    with pytest.raises(TaskFileError, match=r"MORE\.toml has other settings than .*FIRST\.toml \(there and here: rank: 8, 16"):
        check_same_settings(read_task_files(files))


def test_a_backbone_is_the_same_by_its_place(files: tuple[Path, Path]) -> None:
    assert same_backbone(*read_task_files(files))
    files[1].write_text(files[1].read_text().replace('"../tasks/backbone.safetensors"', '"../tasks/task0.safetensors"'))
    assert not same_backbone(*read_task_files(files))
