"""From end to end: a merged model exported and served by `EdgeModel` equals the merged model in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_merged import write_merged

from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.images.preprocess import preprocess

IMAGES = smooth_images(9, 37)  # not the size the tower wants


@pytest.fixture(params=["image_model", "layer_model", "random image", "random layer"])
def merged(request, tmp_path):
    """Real merges, and models of random numbers, which mix more."""
    if request.param.endswith("_model"):
        return request.getfixturevalue(request.param)
    options = {"random image": {}, "random layer": {"scope": "layer"}}
    return write_merged(tmp_path / "merged", **options[request.param])


@pytest.mark.parametrize("top_k", [1, 2])
def test_edge_model_equals_the_merged_model(merged, tmp_path, top_k):
    report = export_bundle(merged.path, tmp_path / "bundle", ExportOptions(top_k))
    tower = GatedTower(merged)
    with EdgeModel.open(report.path) as model:
        x = torch.from_numpy(preprocess(IMAGES, model.bundle.index.preprocess))
        actual, named = model.embed(IMAGES), {task: model.embed(IMAGES, task) for task in model.tasks}
        routes = model.route(IMAGES)
    if merged.scope == "layer":
        expected, tasks, weights = tower.embed_layers(x, top_k)
        masks = torch.eye(len(merged.tasks))
        alone = {task: tower.embed_layers(x, 1, mask)[0] for task, mask in zip(named, masks, strict=True)}
        for n, route in enumerate(routes):
            assert [layer.tasks for layer in route.layers] == [tuple(f"task{t}" for t in row) for row in tasks[n].tolist()]
            np.testing.assert_allclose([layer.weights for layer in route.layers], weights[n], atol=1e-4)
    else:
        expected = torch.cat([routed(tower, x[n : n + 1], top_k) for n in range(len(x))])
        alone = {task: tower.embed(x, task) for task in named}
        posterior, confidence = tower.route(x)
        np.testing.assert_allclose([route.posterior for route in routes], posterior, atol=1e-3)
        np.testing.assert_allclose([route.confidence for route in routes], confidence, rtol=1e-3)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    for task, embeds in named.items():
        np.testing.assert_allclose(embeds, alone[task], atol=1e-4)


def routed(tower, x, top_k):
    """One image under its most probable tasks, or under none where no task claims it."""
    posterior, confidence = tower.route(x)
    if confidence < tower.router.confidence_bound:
        return tower.embed(x)
    best, chosen = posterior[0].topk(top_k)
    names = [tower.merged.task_names[t] for t in chosen.tolist()]
    return tower.embed_mixture(x, names, (best / best.sum()).tolist())
