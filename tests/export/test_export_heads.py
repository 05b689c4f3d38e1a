"""From a fine-tuned model with a head of its own to a bundle: probabilities are those of the libraries it was trained in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import EMBED_DIM, WIDTH, tiny_config, tiny_model, write_task_file
from torch import Tensor, nn

from mingle_edge.merging.merge import merge
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.images.preprocess import preprocess

CLASSES = 3


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layer = nn.Linear(EMBED_DIM, CLASSES).requires_grad_(False)
    layer.weight *= torch.tensor([1.0, 5.0, 30.0])[:, None]
    layer.bias += torch.tensor([0.0, 2.0, -1.0])
    return layer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks: a linear layer in a file, a classifier beside the tower, and a whole model with a logit scale of its own."""
    base = tmp_path_factory.mktemp("heads")
    path = write_task_file(base, tasks=3, rank=4 * WIDTH)
    save_file(linear().state_dict(), base / "head.safetensors")
    path.write_text(path.read_text().replace('weights = "task0', 'head = "head.safetensors"\nweights = "task0'))
    for task, added in {
        "task1": {f"fc.{name}": -tensor for name, tensor in linear().state_dict().items()},
        "task2": {n: t for n, t in tiny_model(7).state_dict().items() if not n.startswith("visual.")}
        | {"logit_scale": torch.tensor(math.log(12.0))},
    }.items():
        save_file(load_file(base / f"{task}.safetensors") | added, base / f"{task}.safetensors")
    merge(path, base / "merged", device="cpu")
    return base


def expected(folder: Path, task: str, pixels: Tensor) -> Tensor:
    """Probabilities `[n, classes]` that the fine-tuned model gives in PyTorch, through open_clip."""
    model = open_clip.CLIP(**tiny_config()).eval().requires_grad_(False)
    state = load_file(folder / f"{task}.safetensors")
    model.load_state_dict(tiny_model(0).state_dict() | {n: t for n, t in state.items() if not n.startswith("fc.")})
    embeds = F.normalize(model.encode_image(pixels), dim=1)
    if task == "task2":
        tokens = open_clip.SimpleTokenizer(context_length=16)(
            [f"a photo of a {name} 2." for name in ("circle", "square", "star")]
        )
        return (model.logit_scale.exp() * embeds @ F.normalize(model.encode_text(tokens), dim=1).T).softmax(1)
    sign = -1 if task == "task1" else 1
    return (sign * linear()(embeds)).softmax(1)


@pytest.mark.parametrize("fold", [None, "task0"])
def test_probabilities_are_those_of_the_trained_models(folder: Path, tmp_path: Path, fold: str | None) -> None:
    export_bundle(folder / "merged", tmp_path / "bundle", ExportOptions(fold=fold))
    images = [Image.open(path) for path in sorted((folder / "test").rglob("*.png"))]
    with EdgeModel.open(tmp_path / "bundle", verify=True) as model:
        assert (model.tasks == ("task0",)) == (fold is not None)
        pixels = torch.from_numpy(preprocess(images, model.bundle.index.preprocess))
        for task in model.tasks:
            found = model.classify(images, task=task, top=CLASSES)
            order = [[prediction.labels.index(label) for label in model.labels(task)] for prediction in found]
            probabilities = [[p.probabilities[i] for i in row] for p, row in zip(found, order, strict=True)]
            np.testing.assert_allclose(probabilities, expected(folder, task, pixels), rtol=0, atol=1e-5)


def test_a_head_of_every_form_is_in_the_bundle(folder: Path, tmp_path: Path) -> None:
    export_bundle(folder / "merged", tmp_path / "bundle", ExportOptions())
    with EdgeModel.open(tmp_path / "bundle") as model:
        tasks = {task.name: task for task in model.bundle.index.tasks}
    assert {name: task.bias for name, task in tasks.items()} == {
        "task0": "biases/task0.npy", "task1": "biases/task1.npy", "task2": None
    }  # fmt: skip
    assert [task.logit_scale for task in tasks.values()] == [1, 1, pytest.approx(12)]
    np.testing.assert_array_equal(np.load(tmp_path / "bundle/heads/task0.npy"), linear().weight.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "bundle/biases/task1.npy"), -linear().bias.numpy())
