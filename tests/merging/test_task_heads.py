"""Where a task's head comes from: its file, the classifier of its checkpoint, its own text tower, or the backbone's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from safetensors.torch import load_file, save_file
from tiny_clip import EMBED_DIM, tiny_model, write_hugging_face, write_images, write_task_file
from torch import Tensor, nn

from mingle_edge.core.errors import CheckpointError, MingleError, TaskFileError
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel

TASK = "task0"
CLASSES = ["circle 0", "square 0", "star 0"]


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    return write_task_file(tmp_path, tasks=1, rank=4)


def merged(task_file: Path) -> MergedModel:
    return merge(task_file, task_file.parent / "merged", device="cpu")


def origin(model: MergedModel) -> str:
    found: str = model.task(TASK).record["head"]
    return found


def add(task_file: Path, tensors: dict[str, Tensor]) -> None:
    """Add tensors to the file of the task's vision tower."""
    path = task_file.parent / f"{TASK}.safetensors"
    save_file(load_file(path) | {name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def change(task_file: Path, old: str, new: str) -> None:
    text = task_file.read_text()
    assert old in text
    task_file.write_text(text.replace(old, new))


def whole_model(seed: int, scale: float) -> dict[str, Tensor]:
    """All of a tiny CLIP model but its vision tower."""
    state = {name: tensor for name, tensor in tiny_model(seed).state_dict().items() if not name.startswith("visual.")}
    return state | {"logit_scale": torch.tensor(math.log(scale))}


def zero_shot(seed: int) -> Tensor:
    """Class embeddings as open_clip's own model gives them."""
    tokens = SimpleTokenizer(context_length=16)([f"a photo of a {name}." for name in CLASSES])
    with torch.no_grad():
        return F.normalize(tiny_model(seed).encode_text(tokens), dim=1)


def test_a_vision_tower_alone_is_compared_with_text_of_the_backbone(task_file: Path) -> None:
    model = merged(task_file)
    head = model.head(TASK)
    torch.testing.assert_close(torch.tensor(head.weight), zero_shot(0), rtol=0, atol=1e-6)
    assert (head.bias, origin(model)) == (None, "text tower of the backbone")
    assert head.logit_scale == model.logit_scale == pytest.approx(1 / 0.07)


def test_a_whole_model_is_compared_with_text_of_its_own(task_file: Path) -> None:
    add(task_file, whole_model(seed=1, scale=30))
    model = merged(task_file)
    head = model.head(TASK)
    torch.testing.assert_close(torch.tensor(head.weight), zero_shot(1), rtol=0, atol=1e-6)
    assert not np.allclose(head.weight, zero_shot(0).numpy(), atol=0.1)
    assert head.logit_scale == pytest.approx(30)
    assert (origin(model), model.logit_scale) == ("text tower of the task", pytest.approx(1 / 0.07))


def test_a_text_tower_that_was_not_trained_gives_the_backbone_s_head(task_file: Path) -> None:
    plain = merged(task_file).head(TASK)
    add(task_file, whole_model(seed=0, scale=1 / 0.07))
    model = merge(task_file, task_file.parent / "whole", device="cpu")
    np.testing.assert_array_equal(model.head(TASK).weight, plain.weight)
    assert model.head(TASK).logit_scale == pytest.approx(plain.logit_scale)


def test_a_logit_scale_beside_a_vision_tower_is_the_task_s(task_file: Path) -> None:
    add(task_file, {"logit_scale": torch.tensor(math.log(20))})
    model = merged(task_file)
    assert (model.head(TASK).logit_scale, origin(model)) == (pytest.approx(20), "text tower of the backbone")


def test_class_embeddings_in_a_file_take_the_logit_scale_of_their_model(task_file: Path) -> None:
    rows = torch.randn(3, EMBED_DIM, generator=torch.Generator().manual_seed(0))
    save_file({"embeddings": rows}, task_file.parent / "head.safetensors")
    change(task_file, "classes =", 'head = "head.safetensors"\nclasses =')
    add(task_file, whole_model(seed=1, scale=30))
    model = merged(task_file)
    torch.testing.assert_close(torch.tensor(model.head(TASK).weight), F.normalize(rows, dim=1))
    assert (model.head(TASK).logit_scale, origin(model), model.task(TASK).templates) == (pytest.approx(30), "file", [])


def classifier(classes: int = 3, dim: int = EMBED_DIM) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(dim, classes).requires_grad_(False)


def named(layer: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in layer.state_dict().items()}


@pytest.mark.parametrize("prefix", ["classifier", "head", "fc", "classification_head", "classifier.1"])
def test_a_classifier_beside_the_tower_is_the_head(task_file: Path, prefix: str) -> None:
    layer = classifier()
    add(task_file, named(layer, prefix) | whole_model(seed=1, scale=30))
    model = merged(task_file)
    head = model.head(TASK)
    np.testing.assert_array_equal(head.weight, layer.weight.numpy())
    np.testing.assert_array_equal(head.bias, layer.bias.numpy())
    assert (head.logit_scale, origin(model), model.task(TASK).templates) == (1, "classifier of the checkpoint", [])


def test_a_file_comes_before_the_classifier(task_file: Path) -> None:
    add(task_file, named(nn.Sequential(nn.Linear(EMBED_DIM, 8), nn.Linear(8, 3)), "classifier"))
    save_file(dict(classifier().state_dict()), task_file.parent / "head.safetensors")
    change(task_file, "classes =", 'head = "head.safetensors"\nclasses =')
    assert origin(merged(task_file)) == "file"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (named(classifier(classes=4), "fc"), r"fc.weight' is \[4, 32\], 4 classes, but the task has 3"),
        (named(classifier(dim=48), "head"), r"head.weight' is \[3, 48\], for embeddings of 48, but the tower's have 32"),
        (
            named(nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 3)), "head"),
            "more than one linear layer .'head.0' and 'head.1'.; give",
        ),
        (
            named(nn.BatchNorm1d(3), "classifier"),
            "more than one linear layer .'classifier.running_mean'.; give the task a head",
        ),
        (named(classifier(), "fc") | named(classifier(), "head"), "'fc' and 'head'.; give the task a head"),
    ],
)
def test_classifiers_that_are_no_head(task_file: Path, tensors: dict[str, Tensor], message: str) -> None:
    tensors = {name: tensor.float() for name, tensor in tensors.items() if tensor.ndim}
    add(task_file, tensors)
    with pytest.raises(CheckpointError, match=message):
        merged(task_file)


def test_templates_go_with_no_classifier(task_file: Path) -> None:
    add(task_file, named(classifier(), "classifier"))
    change(task_file, "classes =", 'templates = ["a {}"]\nclasses =')
    with pytest.raises(
        TaskFileError, match=r"task 'task0' has templates, but .* holds a classifier, which needs none; remove them"
    ):
        merged(task_file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of a fine-tuned model with a classifier and its class names, and a task file that names it."""
    write_hugging_face(tmp_path / "backbone", seed=0)
    write_hugging_face(tmp_path / "task", seed=1)
    weights = tmp_path / "task/model.safetensors"
    save_file(load_file(weights) | named(classifier(), "head"), weights, metadata={"format": "pt"})
    relabel(tmp_path / "task", {"0": "cat", "1": "dog", "2": "owl"})
    write_images(tmp_path / "seeds", count=6, seed=0)
    lines = ["[backbone]", 'model = "backbone"', "[settings]", "rank = 4", "[[task]]", f'name = "{TASK}"']
    (tmp_path / "TASKS.toml").write_text("\n".join([*lines, 'weights = "task"', 'seeds = "seeds"', ""]))
    return tmp_path


def relabel(folder: Path, labels: dict[str, Any] | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))


@pytest.mark.parametrize("given", [True, False])
def test_class_names_are_those_of_the_folder(folder: Path, given: bool) -> None:
    if given:
        with (folder / "TASKS.toml").open("a") as file:
            file.write('classes = ["cat", "dog", "owl"]\n')
    model = merged(folder / "TASKS.toml")
    assert (model.task(TASK).classes, origin(model)) == (["cat", "dog", "owl"], "classifier of the checkpoint")
    np.testing.assert_array_equal(model.head(TASK).weight, classifier().weight.numpy())


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (
            {"0": "cat", "1": "dog", "2": "owl"},
            ["cat", "owl", "dog"],
            "row 1 of the head is 'dog', the task file's class 1 is 'owl'",
        ),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, None, r"'task0' classes is missing, and .*task names none"),
        (None, None, "'task0' classes is missing"),
        ({"0": "cat", "2": "dog"}, None, "id2label.1 is None, but must be a name"),
        ({"0": "cat", "1": "cat", "2": "owl"}, None, "id2label.1 is 'cat', and so is id2label.0"),
        ({"0": "cat", "1": "dog"}, None, r"\[3, 32\], 3 classes, but the task has 2; name the classes of its rows"),
    ],
)
def test_class_names_that_do_not_fit(folder: Path, labels: Any, classes: list[str] | None, message: str) -> None:
    relabel(folder / "task", labels)
    if classes is not None:
        with (folder / "TASKS.toml").open("a") as file:
            file.write(f"classes = {json.dumps(classes)}\n")
    with pytest.raises(MingleError, match=message):
        merged(folder / "TASKS.toml")


def test_classes_that_nobody_named_are_those_of_the_task_file(folder: Path) -> None:
    relabel(folder / "task", {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    with (folder / "TASKS.toml").open("a") as file:
        file.write('classes = ["a", "b", "c"]\n')
    assert merged(folder / "TASKS.toml").task(TASK).classes == ["a", "b", "c"]
