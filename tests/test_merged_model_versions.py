"""Merged models of earlier format versions: read, evaluated, exported and added to as what they are."""

import json
import shutil

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mingle_edge.gated_tower import GatedTower
from mingle_edge.merge import merge
from mingle_edge.merged_model import MergedModel
from mingle_edge.router import discriminants
from mingle_edge.router_statistics import MOMENTS
from mingle_edge.vision_tower import router_features
from mingle_edge_export import export_bundle


def test_format_version_1_keeps_its_depth_and_takes_more_tasks(image_model, task_file, tmp_path):
    """Version 1 had no coordinates and always a number of blocks; 3 is what was stored here."""
    old = tmp_path / "old"
    shutil.copytree(image_model.path, old)
    record = json.loads((old / "mingle.json").read_text())
    record["settings"]["router_blocks"] = 3
    record["tasks"] = record["tasks"][:2]
    (old / "mingle.json").write_text(json.dumps(record | {"format_version": 1}))
    rows = load_file(old / "router.safetensors")
    rows = {n: v for n, v in rows.items() if not n.startswith("task2/") and not n.endswith("/coordinates")}
    save_file(rows, old / "router.safetensors")
    model = MergedModel.open(old)
    assert model.router_depth == 3
    expected = discriminants([image_model.router_statistics(name) for name in ("task0", "task1")])
    np.testing.assert_array_equal(model.router().weight, expected.weight)

    file = task_file.with_name("version-1.toml")
    file.write_text(task_file.read_text().replace("[settings]", "[settings]\nrouter_blocks = 3"))
    grown = merge(file, old, into=True)
    assert grown.router_depth == 3
    assert json.loads((old / "mingle.json").read_text())["format_version"] == 3
    for name, value in rows.items():
        assert load_file(old / "router.safetensors")[name].tobytes() == value.tobytes()
    np.testing.assert_array_equal(
        grown.router_statistics("task2").coordinates, image_model.router_statistics("task2").coordinates
    )


def test_format_version_2_keeps_its_two_moments(image_model, task_file, tmp_path):
    """Version 2 had mean and deviation of each depth, and no roughness."""
    old = tmp_path / "old"
    shutil.copytree(image_model.path, old)
    record = json.loads((old / "mingle.json").read_text())
    record["tasks"] = record["tasks"][:2]
    (old / "mingle.json").write_text(json.dumps(record | {"format_version": 2}))
    width = image_model.architecture.width
    rows = {n: v for n, v in load_file(old / "router.safetensors").items() if not n.startswith("task2/")}
    for name, value in rows.items():
        if name.endswith(("/mean", "/factor")):
            by_depth = value.reshape(*value.shape[:-1], -1, MOMENTS, width)
            rows[name] = np.ascontiguousarray(by_depth[..., :2, :]).reshape(*value.shape[:-1], -1)
    save_file(rows, old / "router.safetensors")
    model = MergedModel.open(old)
    assert model.router_moments == 2
    assert len(model.router().weight) == 2 * (model.router_depth + 1) * width

    size = model.architecture.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    backbone = {name: torch.from_numpy(value) for name, value in model.backbone().items()}
    features = router_features(images, backbone, model.architecture, model.router_depth)
    two = features.unflatten(1, (-1, MOMENTS, width))[:, :, :2].flatten(1).double().numpy()
    expected, _ = model.router().posterior(two)
    posterior, _ = GatedTower(model).route(images)
    np.testing.assert_allclose(posterior.numpy(), expected, rtol=1e-6, atol=1e-9)
    export_bundle(old, tmp_path / "bundle")  # refuses a graph that does not compute what torch does

    grown = merge(task_file, old, into=True)
    assert grown.task_names == ["task0", "task1", "task2"]
    assert {len(grown.router_statistics(name).mean) for name in grown.task_names} == {len(rows["task0/mean"])}
