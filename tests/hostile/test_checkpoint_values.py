"""Values that are finite and cannot be computed with, and what comes of them: never a merged task, never a figure."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mingle_edge.comparison.compare import ComparisonOptions, compare
from mingle_edge.core.errors import CheckpointError, MergedModelError
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel


def enlarge(path: Path) -> None:
    """Give the MLPs and what leads to them weights as large as any may be."""
    large = ("mlp.c_fc.weight", "mlp.c_proj.weight", "ln_2.weight")
    state = {name: 9e5 * tensor.sign() if name.endswith(large) else tensor for name, tensor in load_file(path).items()}
    save_file(state, path)


def test_a_backbone_that_overflows_is_found_before_its_router_is_learned(copied_tasks: Path, tmp_path: Path) -> None:
    """Each weight is within bounds; the products of a few layers are beyond float32."""
    for weights in copied_tasks.parent.glob("*.safetensors"):
        enlarge(weights)
    with pytest.raises(CheckpointError, match=r"the backbone's features of .*\.png or an image after it are not finite"):
        merge(copied_tasks, tmp_path / "merged", device="cpu")
    assert MergedModel.open(tmp_path / "merged").tasks == ()


def test_a_task_that_came_out_not_finite_is_not_committed(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mingle_edge.merging import task_merging

    complete = task_merging.complete_expert

    def diverged(*arguments):
        expert, explained_norm = complete(*arguments)
        unfactored = dict(expert.unfactored) | {"ln_post.bias": torch.full((48,), torch.nan)}
        return dataclasses.replace(expert, unfactored=unfactored), explained_norm

    monkeypatch.setattr(task_merging, "complete_expert", diverged)
    with pytest.raises(CheckpointError, match=r"task 'task0': ln_post\.bias is not finite after merging; lower learning_rate"):
        merge(task_file, tmp_path / "merged", device="cpu")
    assert MergedModel.open(tmp_path / "merged").tasks == ()


def test_embeddings_that_are_not_finite_are_no_accuracy(image_model: MergedModel, task_file: Path, tmp_path: Path) -> None:
    """The class of the largest of values that are no numbers would be one at random."""
    shutil.copytree(image_model.path, tmp_path / "merged")
    expert = tmp_path / "merged/experts/task1.safetensors"
    state = load_file(expert)
    state["ln_post.bias"][:] = 3e38  # which the projection makes infinite
    save_file(state, expert)
    with pytest.raises(MergedModelError, match=r"embeddings of 'task\d' are not finite"):
        evaluate(tmp_path / "merged", task_file, device="cpu")


def test_a_cell_whose_embeddings_are_not_finite_fails_by_name(task_file: Path, tmp_path: Path) -> None:
    results = compare(
        task_file, tmp_path / "r", ComparisonOptions("task-arithmetic(scaling=1e12)", orders=1, parallel=False, device="cpu")
    )
    (failed,) = results["failed"]
    assert re.search(r"embeddings of 'task\d' are not finite", failed["error"])
    assert set(results["accuracy"]) == {"pretrained", "individual"}
