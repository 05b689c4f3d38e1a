"""`mingle.json` from elsewhere: every member changed to everything. It is a `MergedModelError`, or the model that it says."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from no_waiting import no_waiting
from other_user import bound_by_modes, open_folder
from tiny_merged import write_merged

from mingle_edge.core.errors import MergedModelError, MingleError
from mingle_edge.merging.merged_model import MergedModel, TaskRecord, TaskTensors, commit_task
from mingle_edge_export import export_bundle

VALUES = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "image",
        "layer",
        "auto",
        "task1",
        "TASK1",
        "../../evil",
        "/tmp/evil",
        "a/b",
        "con\0",
        "x" * 200,
        "\ud800",
        "0" * 64,
    ),
    *([], [[]], ["a", "a"], [1], {}, {"a": {}}, [0.5, 0.5, 0.5]),
]
DEEP: Any = 0.0
for _ in range(400):
    DEEP = [DEEP]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> MergedModel:
    """A merged model of two tasks."""
    return write_merged(tmp_path_factory.mktemp("model") / "merged", tasks=2)


@pytest.fixture
def folder(tmp_path, model) -> Path:
    """A copy of it."""
    shutil.copytree(model.path, tmp_path / "m")
    return tmp_path / "m"


def members(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths of a JSON value and of everything in it."""
    yield ()
    for key, member in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from ((key, *rest) for rest in members(member))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a path; `...` removes it."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def says(given: Any, read: Any) -> bool:
    """Whether what was read is what was given, but for members that are unknown, or absent and have a default."""
    if isinstance(read, dict):
        return isinstance(given, dict) and all(key not in given or says(given[key], member) for key, member in read.items())
    if isinstance(read, list):
        return isinstance(given, list) and len(given) == len(read) and all(map(says, given, read))
    return given == read and isinstance(given, bool) == isinstance(read, bool)


def opens_as(index: Path, value: Any) -> bool:
    """Write an index; whether it opens, and then as what it says."""
    index.write_text(json.dumps(value))
    try:
        model = MergedModel.open(index.parent)
    except MergedModelError as error:
        if str(error).startswith(str(index)):
            return False
        raise
    assert says({**value, "format_version": 5}, json.loads(model.index().to_text())), value
    return True


def test_any_member_of_any_value(folder):
    index = folder / "mingle.json"
    record = json.loads(index.read_text())
    outcomes = [
        opens_as(index, changed(record, path, value))
        for path in members(record)
        for value in ([*VALUES, DEEP, ...] if path else [*VALUES, DEEP])
    ]
    assert outcomes.count(True) > 100
    assert outcomes.count(False) > 1000


def test_any_byte(folder):
    index, generator = folder / "mingle.json", random.Random(12)
    content, refused = index.read_bytes(), 0
    for _ in range(600):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        index.write_bytes(changed[: generator.choice([len(changed)] * 9 + [generator.randrange(len(changed))])])
        try:
            MergedModel.open(folder)
        except MergedModelError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "heads/a", "..", "a\0b", "a" * 65, "", "a\n"])
def test_a_task_is_no_path(folder, tmp_path, name):
    record = json.loads((folder / "mingle.json").read_text())
    record["tasks"][0]["name"] = name
    (folder / "mingle.json").write_text(json.dumps(record))
    with pytest.raises(MergedModelError, match=r"mingle\.json: tasks\[0\]\.name (is .*, must match|must hold no control)"):
        export_bundle(folder, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_an_index_that_is_no_plain_file(folder):
    index = folder / "mingle.json"
    index.unlink()
    os.mkfifo(index)
    with no_waiting(), pytest.raises(MergedModelError, match=r"mingle\.json is a named pipe, not a plain file"):
        MergedModel.open(folder)
    index.unlink()
    index.symlink_to("/dev/zero")
    with no_waiting(), pytest.raises(MergedModelError, match=r"mingle\.json is a device, not a plain file"):
        MergedModel.open(folder)
    index.unlink()
    with index.open("wb") as file:
        file.truncate(1 << 40)
    with no_waiting(), pytest.raises(MergedModelError, match=r"mingle\.json has 1099511627776 bytes, and at most"):
        MergedModel.open(folder)


def test_tensors_that_no_plain_file_holds(folder):
    opened = MergedModel.open(folder)
    path = folder / "experts/task0.safetensors"
    path.unlink()
    os.mkfifo(path)
    with no_waiting(), pytest.raises(MergedModelError, match=r"task0\.safetensors is a named pipe, not a plain file"):
        opened.expert("task0")


def test_what_may_not_be_read_is_neither_missing_nor_damaged(model):
    with open_folder() as folder:
        shutil.copytree(model.path, folder / "m")
        (folder / "m/heads/task0.safetensors").chmod(0)
        (folder / "m/experts").chmod(0)
        opened = MergedModel.open(folder / "m")
        with bound_by_modes():
            for read in (lambda: opened.head("task0"), lambda: opened.expert("task0")):
                with pytest.raises(MergedModelError, match=r"task0\.safetensors may not be read \(permission denied\)"):
                    read()
        (folder / "m/mingle.json").chmod(0)
        with bound_by_modes(), pytest.raises(MergedModelError, match=r"mingle\.json may not be read \(permission denied\)"):
            MergedModel.open(folder / "m")
        (folder / "m").chmod(0)
        with bound_by_modes(), pytest.raises(MergedModelError, match=r"mingle\.json may not be read \(permission denied\)"):
            MergedModel.open(folder / "m")


def test_figures_that_cannot_be_read_back_are_not_committed(folder):
    model = MergedModel.open(folder)
    record = TaskRecord("lost", ["a"], [], "random", "0" * 64, seeds=1, logit_scale=1.0, record={"losses": [1.0, float("nan")]})
    with pytest.raises(MingleError, match=r"tasks\[2\]\.record\.losses\[1\] is nan, must be finite"):
        commit_task(model, record, TaskTensors(expert=model.expert("task0"), head={"weight": model.head("task0").weight}))
    assert MergedModel.open(folder) == model
    assert not (folder / "experts/lost.safetensors").exists()
