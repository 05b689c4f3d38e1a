"""Heads as trainings write them: their logits are those of the library that wrote them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tiny_merged import ARCHITECTURE
from torch import Tensor, nn

from mingle_edge.checkpoints.head_file import read_head
from mingle_edge.clip.head import Head
from mingle_edge.core.errors import CheckpointError, TaskFileError

CLASSES = ("cat", "dog", "owl")
DIM = 5
TOWER = replace(ARCHITECTURE, output_dim=DIM)
IMAGE_CLASSIFIER = replace(TOWER, normalized=False)
EMBEDS = nn.functional.normalize(torch.randn(7, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
UNIT_ROWS = nn.functional.normalize(torch.randn(3, DIM, generator=torch.Generator().manual_seed(1)), dim=1)


def linear(bias: bool = True) -> nn.Linear:
    """A linear layer whose rows have different lengths, none of them 1."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layer = nn.Linear(DIM, len(CLASSES), bias=bias).requires_grad_(False)
    layer.weight *= torch.tensor([0.5, 3.0, 20.0])[:, None]
    return layer


def write(path: Path, tensors: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(array) for name, array in tensors.items()})
    else:
        torch.save(tensors, path)
    return path


def read(path: Path, tower: Any = TOWER, scale: float = 100.0) -> Head:
    return read_head(path, CLASSES, tower, scale)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".npz"])
@pytest.mark.parametrize("prefix", ["", "classifier.", "fc.", "head.", "module.linear.", "model.classification_head."])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tower", [TOWER, IMAGE_CLASSIFIER], ids=["unit", "any length"])
def test_a_linear_layer_is_what_it_was_trained_to(tmp_path: Path, suffix: str, prefix: str, bias: bool, tower: Any) -> None:
    layer = linear(bias)
    head = read(write(tmp_path / f"head{suffix}", {prefix + n: t for n, t in layer.state_dict().items()}), tower)
    torch.testing.assert_close(head.logits(EMBEDS), layer(EMBEDS), rtol=0, atol=1e-6)
    assert (head.logit_scale, len(head)) == (1.0, 3)


class ClassificationHead(nn.Linear):
    """The head of the task vectors repository (arXiv 2212.04089): class embeddings times CLIP's logit scale."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs / inputs.norm(dim=-1, keepdim=True))


def test_a_head_of_task_vectors(tmp_path: Path) -> None:
    module = ClassificationHead(DIM, len(CLASSES)).requires_grad_(False)
    module.weight.copy_(100 * UNIT_ROWS)
    module.bias.zero_()
    head = read(write(tmp_path / "head.pt", module.state_dict()), scale=1 / 0.07)
    torch.testing.assert_close(head.logits(EMBEDS), module(3 * EMBEDS))
    torch.save(module, tmp_path / "whole.pt")  # as that repository does
    torch.testing.assert_close(read(tmp_path / "whole.pt").logits(EMBEDS), module(3 * EMBEDS))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_classifier_of_scikit_learn(tmp_path: Path, classes: int, intercept: bool) -> None:
    names = np.array(CLASSES[:classes])
    labels = names[np.arange(60) % classes]
    images = np.random.default_rng(0).standard_normal((60, DIM)) + (np.arange(60) % classes)[:, None]
    fitted = LogisticRegression(C=10, fit_intercept=intercept).fit(images, labels)
    np.savez_compressed(tmp_path / "head.npz", coef_=fitted.coef_, intercept_=fitted.intercept_, classes_=fitted.classes_)
    head = read_head(tmp_path / "head.npz", CLASSES[:classes], IMAGE_CLASSIFIER, 100.0)
    probabilities = head.logits(torch.from_numpy(images)).softmax(1)
    np.testing.assert_allclose(probabilities.numpy(), fitted.predict_proba(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
@pytest.mark.parametrize(
    ("tensors", "scale"),
    [
        ({"embeddings": UNIT_ROWS * torch.tensor([[3.0], [0.1], [1e6]])}, 20.0),
        ({"embeddings": UNIT_ROWS, "logit_scale": torch.tensor(7.0)}, 7.0),
        ({"zeroshot_weights": 1.0009 * UNIT_ROWS}, 20.0),
    ],
)
def test_class_embeddings_are_zero_shot(tmp_path: Path, suffix: str, tensors: dict[str, Tensor], scale: float) -> None:
    head = read(write(tmp_path / f"head{suffix}", tensors), scale=20.0)
    cosines = nn.functional.cosine_similarity(EMBEDS[:, None], UNIT_ROWS[None], dim=-1)
    torch.testing.assert_close(head.logits(EMBEDS), scale * cosines)
    assert head.bias is None


@pytest.mark.parametrize(
    ("tensors", "tower"),
    [
        ({"weight": UNIT_ROWS}, IMAGE_CLASSIFIER),
        ({"weight": 1.002 * UNIT_ROWS}, TOWER),
        ({"weight": UNIT_ROWS, "bias": torch.zeros(3)}, TOWER),
    ],
)
def test_unit_rows_alone_are_no_trained_layer_where_embeddings_have_unit_length(
    tmp_path: Path, tensors: dict[str, Tensor], tower: Any
) -> None:
    head = read(write(tmp_path / "head.safetensors", tensors), tower)
    torch.testing.assert_close(head.logits(EMBEDS), EMBEDS @ tensors["weight"].T)


@pytest.mark.parametrize("name", ["logit_scale", "head.logit_scale"])
def test_a_layer_may_bring_its_scale(tmp_path: Path, name: str) -> None:
    layer = linear()
    state = {f"head.{n}": t for n, t in layer.state_dict().items()} | {name: torch.tensor([30.0])}
    head = read(write(tmp_path / "head.safetensors", state))
    torch.testing.assert_close(head.logits(EMBEDS), 30 * EMBEDS @ layer.weight.T + layer.bias)


ROWS = torch.arange(15.0).reshape(3, 5)
EQUAL = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [1, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds 0 tensors, 0 layers with a weight; a head is one linear layer: save weight"),
        ({"0.weight": ROWS, "2.weight": ROWS}, "holds 2 tensors, 2 layers with a weight"),
        ({"fc.weight": ROWS, "bn.bias": ROWS}, "holds 2 tensors, 'bn.bias' beside 'fc.weight'"),
        ({"embeddings": ROWS, "bias": ROWS[:, 0]}, "holds 'bias' beside embeddings"),
        ({"weight": ROWS.T.clone()}, r"'weight' is \[5, 3\], transposed: 3 classes and embeddings of 5 need \[3, 5\].*; save "),
        ({"weight": torch.ones(4, 5)}, r"is \[4, 5\], 4 classes, but the task has 3; name the classes of its rows"),
        ({"weight": torch.ones(3, 8)}, r"is \[3, 8\], for embeddings of 8, but the tower's have 5; use a head of this model"),
        ({"embeddings": torch.ones(6)}, r"is \[6\], but 3 classes and embeddings of 5 need \[3, 5\]"),
        ({"weight": ROWS, "bias": torch.ones(2)}, r"'bias' is \[2\], but 3 classes need \[3\]"),
        ({"embeddings": ROWS * torch.tensor([[1.0], [0.0], [1.0]])}, r"row 1 of 'embeddings' \(dog\) is zero"),
        ({"weight": torch.full((3, 5), math.inf)}, "NaN or infinite"),
        ({"weight": ROWS * 1e6}, r"a value of the head is 1.4e\+07, and none may be beyond 1e\+06"),
        ({"weight": torch.ones(3, 5, dtype=torch.int64)}, "not floating point"),
        ({"weight": EQUAL}, r"the classes 'cat' and 'owl' have the same weight and bias \(rows 0 and 2\)"),
        ({"weight": ROWS, "logit_scale": torch.tensor(0.0)}, "must be one number above 0, at most 1e.06, the factor itself"),
        ({"weight": ROWS, "logit_scale": torch.ones(2)}, "must be one number above 0"),
    ],
)
def test_refused(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(write(tmp_path / "head.safetensors", tensors))


def test_equal_rows_with_different_biases_are_different(tmp_path: Path) -> None:
    layer = {"weight": EQUAL, "bias": torch.arange(3.0)}
    torch.testing.assert_close(read(write(tmp_path / "head.pt", layer)).logits(EMBEDS), EMBEDS @ EQUAL.T + layer["bias"])


def test_class_embeddings_need_images_of_unit_length(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="embeddings are compared by their cosine, and this tower's have no unit length"):
        read(write(tmp_path / "head.safetensors", {"embeddings": ROWS}), IMAGE_CLASSIFIER)


def objects(path: Path) -> None:
    np.savez(path, coef_=ROWS.numpy(), classes_=np.array(CLASSES, dtype=object))


def other_classes(path: Path) -> None:
    np.savez(path, coef_=ROWS.numpy(), classes_=np.array(["cat", "owl", "dog"]))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("head.npy", lambda path: np.save(path, ROWS), "is a numpy array; save the weights"),
        ("head.safetensors", lambda path: path.write_bytes(b"\x08"), "is damaged or not a safetensors file"),
        ("head.npz", lambda path: path.write_bytes(b"\x08"), r"is damaged or no \.npz archive"),
        ("head.npz", objects, r"cannot be read without pickle: it holds pickled objects; .* names as classes_\.astype\(str\)"),
        ("head.npz", lambda path: None, "does not exist"),
        ("head.npz", other_classes, "classes_ says that row 1 of the head is 'owl', the task file's class 1 is 'dog'"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / name)
    with pytest.raises((CheckpointError, TaskFileError), match=message):
        read(tmp_path / name)
