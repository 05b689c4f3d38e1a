"""What layers read and what 8 bits change of it, against the tower's own functions and ONNX Runtime's integer operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge.clip.vision_tower import embed_images, plain_linear
from mingle_edge.data.images import load_images
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export.check.calibration import input_peaks, integer_noise, own_embeddings
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_runtime.bundle.index import LARGEST_CODE


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three noisy pictures of each of two tasks."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = {}
    for task in ("task0", "task1"):
        paths[task] = [folder / f"{task}-{i}.png" for i in range(3)]
        for path in paths[task]:
            Image.fromarray(random.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(params=["image", "layer"])
def tower(request, tmp_path):
    """A tower of random numbers."""
    return GatedTower(write_merged(tmp_path / "merged", tasks=2, scope=request.param))


def recorded(tower, images):
    """Layer -> its inputs `[n, N, d]` on the plain backbone, through the tower's pure functions."""
    inputs: dict[str, list[torch.Tensor]] = {}
    plain = plain_linear(tower.backbone)

    def linear(layer, x):
        inputs.setdefault(layer, []).append(x)
        return plain(layer, x)

    for paths in images.values():
        embed_images(load_images(paths, ARCHITECTURE), tower.backbone, ARCHITECTURE, linear)
    return {layer: torch.cat(parts).numpy() for layer, parts in inputs.items()}


def test_peaks_are_those_of_the_plain_backbone_and_of_experts(tower, images):
    peaks, plain = input_peaks(tower, images), recorded(tower, images)
    assert set(peaks) == set(ARCHITECTURE.linear_layers())
    for layer, x in plain.items():
        largest = np.abs(x).max((0, 1))
        assert (peaks[layer] >= largest * (1 - 1e-6)).all()
    # Before the first expert acts there is nothing but the images; after it inputs differ.
    np.testing.assert_allclose(peaks["patch_embedding"], np.abs(plain["patch_embedding"]).max((0, 1)), rtol=1e-6)
    assert (peaks["projection"] > np.abs(plain["projection"]).max((0, 1)) * 1.001).any()


def test_noise_is_that_of_onnxruntimes_integer_operators(tmp_path):
    tower = GatedTower(write_merged(tmp_path / "merged", tasks=1))
    path = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    layer = "blocks.0.fc1"
    seen: list[torch.Tensor] = []
    with tower.observed(lambda name, x: seen.append(x) if name == layer else None):
        for task in ("task0", None):
            tower.embed(load_images([path], ARCHITECTURE), task)
    weight = tower.backbone[f"{layer}.weight"].numpy().T
    scale = np.abs(weight).max(0) / np.float32(LARGEST_CODE)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    one (float[n, d] x) => (float[n, m] y, float scale) {
        codes, scale, zero = DynamicQuantizeLinear(x)
        product = MatMulInteger(codes, w, zero)
        y = Cast<to = 1>(product)
    }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), "w"))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    squares = []
    for x in seen:
        rows = x[0].numpy()
        y, x_scale = session.run(["y", "scale"], {"x": rows})
        exact = rows.astype(np.float64) @ weight
        squares.append(np.square(y * x_scale * scale - exact).sum() / np.square(exact).sum())
    noise = integer_noise(tower, {"task0": [path]}, {}, LARGEST_CODE)[layer]
    assert noise == pytest.approx(np.sqrt(np.mean(squares)), rel=0.02)


def test_smoothing_takes_the_noise_of_outlying_channels(tmp_path, images):
    tower = GatedTower(write_merged(tmp_path / "merged", tasks=2))
    for norm, readers in (("blocks.1.ln_1", ["q", "k", "v"]), ("blocks.1.ln_2", ["fc1"])):
        tower.backbone[f"{norm}.weight"][:3] *= 100  # and what reads these channels makes up for it
        tower.backbone[f"{norm}.bias"][:3] *= 100
        for reader in readers:
            tower.backbone[f"blocks.1.{reader}.weight"][:, :3] /= 100
    tasks = {"task0": images["task0"]}
    backbone = {name: tensor.numpy() for name, tensor in tower.backbone.items()}
    smoothing = Smoothing.from_peaks(ARCHITECTURE, backbone, input_peaks(tower, tasks))
    before, after = (integer_noise(tower, tasks, scales, LARGEST_CODE) for scales in ({}, smoothing.layers))
    for layer in ("q", "k", "v", "fc1"):
        assert after[f"blocks.1.{layer}"] < before[f"blocks.1.{layer}"] / 3
    assert after["blocks.1.fc2"] == before["blocks.1.fc2"]


def test_own_embeddings_are_under_the_task_s_expert_alone(tower, images):
    embeds = own_embeddings(tower, images)
    for t, (task, paths) in enumerate(images.items()):
        x = load_images(paths, ARCHITECTURE)
        mask = torch.eye(2)[t]
        expected = tower.embed(x, task) if tower.merged.scope == "image" else tower.embed_layers(x, 1, mask)[0]
        np.testing.assert_allclose(embeds[task], expected, atol=1e-6)
