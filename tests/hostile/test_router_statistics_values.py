"""Merged models whose stored numbers have the right shapes and cannot be calculated with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_merged import write_merged

from mingle_edge.core.errors import MergedModelError
from mingle_edge.merging.merged_model import MergedModel


@pytest.fixture
def merged(tmp_path) -> Path:
    """A merged model to damage, of a fixed depth."""
    return write_merged(tmp_path / "merged").path


def put(path: Path, name: str, value: float) -> None:
    """Store `value` in all of a tensor."""
    tensors = load_file(path)
    save_file(tensors | {name: np.full_like(tensors[name], value)}, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("file", "name", "read"),
    [
        ("router.safetensors", "task1/factor", MergedModel.router),
        ("router.safetensors", "task1/mean", MergedModel.router),
        ("backbone.safetensors", "ln_post.bias", MergedModel.backbone),
        ("experts/task1.safetensors", "projection.A", lambda model: model.expert("task1")),
        ("heads/task1.safetensors", "weight", lambda model: model.head("task1")),
    ],
)
def test_values_that_are_not_finite(merged, file: str, name: str, value: float, read: Callable[[MergedModel], object]) -> None:
    put(merged / file, name, value)
    with pytest.raises(MergedModelError, match=f"{file}: {name.removeprefix('task1/')} holds values that are not finite"):
        read(MergedModel.open(merged))


@pytest.mark.parametrize("blocks", [3, "auto"])
@pytest.mark.parametrize("name", ["factor", "mean"])
@pytest.mark.parametrize("factor", [1e30, 3e37])
def test_values_whose_squares_are_too_large(tmp_path, blocks: int | str, name: str, factor: float) -> None:
    path = write_merged(tmp_path / "merged", router_blocks=3).path
    index = json.loads((path / "mingle.json").read_text())
    index["settings"]["router_blocks"] = blocks
    (path / "mingle.json").write_text(json.dumps(index))
    tensors = load_file(path / "router.safetensors")
    tensors[f"task1/{name}"] *= np.float32(factor)
    save_file(tensors, path / "router.safetensors")
    try:
        router = MergedModel.open(path).router()
    except MergedModelError as error:
        assert "no router can be computed from these statistics" in str(error)  # noqa: PT017
    else:
        for array in (router.weight, router.bias, router.directions, router.confidence_bound):
            assert np.isfinite(array).all()
