"""Merged models from elsewhere: any member of `mingle.json` changed to anything, tensors that nothing can be computed with.

Each is a `MergedModelError`, or the model that it says.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_merged import write_merged

from mingle_edge.core.errors import MergedModelError, MingleError
from mingle_edge.merging.merged_model import MergedModel, TaskRecord, TaskTensors, commit_task
from mingle_edge_export import export_bundle

VALUES = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "image", "layer", "auto", "task1", "TASK1", "../../evil", "/tmp/evil", "a/b", "con\0", "x" * 200, "\ud800"),
    *("0" * 64, [], [[]], ["a", "a"], [1], {}, {"a": {}}, [0.5, 0.5, 0.5]),
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


def write_index(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    """Write the index with another value at a path."""
    index = folder / "mingle.json"
    index.write_text(json.dumps(changed(json.loads(index.read_text()), path, value)))


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
    assert says({**value, "format_version": 6}, json.loads(model.index().to_text())), value
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


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "heads/a", "..", "a\0b", "a" * 65, "", "a\n"])
def test_a_task_is_no_path(folder, tmp_path, name):
    write_index(folder, ("tasks", 0, "name"), name)
    with pytest.raises(MergedModelError, match=r"mingle\.json: tasks\[0\]\.name (is .*, must match|must hold no control)"):
        export_bundle(folder, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_figures_that_cannot_be_read_back_are_not_committed(folder):
    model = MergedModel.open(folder)
    record = TaskRecord("lost", ["a"], [], "random", "0" * 64, seeds=1, logit_scale=1.0, record={"losses": [1.0, float("nan")]})
    with pytest.raises(MingleError, match=r"tasks\[2\]\.record\.losses\[1\] is nan, must be finite"):
        commit_task(model, record, TaskTensors(expert=model.expert("task0"), head={"weight": model.head("task0").weight}))
    assert MergedModel.open(folder) == model
    assert not (folder / "experts/lost.safetensors").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("file", "name", "read"),
    [
        ("router.safetensors", "task1/factor", MergedModel.cascade),
        ("router.safetensors", "task1/mean", MergedModel.cascade),
        ("backbone.safetensors", "ln_post.bias", MergedModel.backbone),
        ("experts/task1.safetensors", "projection.A", lambda model: model.expert("task1")),
        ("heads/task1.safetensors", "weight", lambda model: model.head("task1")),
    ],
)
def test_values_that_are_not_finite(folder, file: str, name: str, value: float, read: Callable[[MergedModel], object]) -> None:
    tensors = load_file(folder / file)
    save_file(tensors | {name: np.full_like(tensors[name], value)}, folder / file)
    with pytest.raises(MergedModelError, match=f"{file}: {name.removeprefix('task1/')} holds values that are not finite"):
        read(MergedModel.open(folder))


@pytest.mark.parametrize("blocks", [3, "auto"])
@pytest.mark.parametrize("name", ["factor", "mean"])
@pytest.mark.parametrize("factor", [1e30, 3e37])
def test_values_whose_squares_are_too_large(tmp_path, blocks: int | str, name: str, factor: float) -> None:
    path = write_merged(tmp_path / "merged", router_blocks=3).path
    write_index(path, ("settings", "router_blocks"), blocks)
    tensors = load_file(path / "router.safetensors")
    tensors[f"task1/{name}"] *= np.float32(factor)
    save_file(tensors, path / "router.safetensors")
    try:
        cascade = MergedModel.open(path).cascade()
    except MergedModelError as error:
        assert "no router can be computed from these statistics" in str(error)  # noqa: PT017
    else:
        for router in (stage.router for stage in cascade.stages):
            assert all(np.isfinite(array).all() for array in (router.weight, router.bias, router.directions, router.spread))
