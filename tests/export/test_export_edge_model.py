"""From end to end: a merged model exported and served by `EdgeModel` answers as in PyTorch, in all three protocols."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image
from tiny_merged import write_merged

from mingle_edge.clip.head import Head
from mingle_edge.evaluation.answers import predict_among, predict_within
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_runtime import EdgeModel

NOISE = np.random.default_rng(0).integers(0, 256, (4, 50, 37, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in (*smooth_images(6, 41), *NOISE)]  # not of the size the tower wants


@pytest.fixture(params=["image_model", "layer_model", "image", "layer"])
def merged(request, tmp_path):
    """Real merges, and models of random numbers, which mix more."""
    if request.param.endswith("_model"):
        return request.getfixturevalue(request.param)
    return write_merged(tmp_path / "merged", scope=request.param)


@pytest.mark.parametrize("top_k", [1, 2])
def test_edge_model_answers_as_the_merged_model(merged, task_file, tmp_path, top_k):
    pictures = [*PICTURES, *map(Image.open, sorted((task_file.parent / "seeds").glob("*/000.png")))]
    tower, heads = GatedTower(merged), [Head.of(merged.head(task)) for task in merged.task_names]
    spec = merged.architecture.preprocess
    transform = image_transform(spec.image_size, is_train=False, mean=spec.mean, std=spec.std)
    x = torch.stack([transform(picture) for picture in pictures])
    posterior = claimed = None
    with EdgeModel.open(export_bundle(merged.path, tmp_path / "bundle", ExportOptions(top_k)).path, threads=1) as model:
        routes = model.route(pictures)
        if merged.scope == "layer":
            embeds, tasks, weights = tower.embed_layers(x, top_k)
            named = [tower.embed_layers(x, 1, mask)[0] for mask in torch.eye(len(heads))]
            for n, route in enumerate(routes):
                assert [layer.tasks for layer in route.layers] == [tuple(f"task{t}" for t in row) for row in tasks[n].tolist()]
                np.testing.assert_allclose([layer.weights for layer in route.layers], weights[n], atol=1e-4)
        else:
            decisions = tower.route(x, None if top_k == 1 else tower.cascade.without_judge())
            posterior, claimed = torch.from_numpy(decisions.posterior), torch.from_numpy(decisions.choice < len(heads))
            chosen = [tasks_of(decisions, n, top_k) for n in range(len(x))]
            embeds = torch.cat([routed(tower, x[n : n + 1], posterior[n], tasks) for n, tasks in enumerate(chosen)])
            named = [tower.embed(x, task) for task in model.tasks]
            np.testing.assert_allclose([route.posterior for route in routes], posterior, atol=1e-3)
            np.testing.assert_allclose([route.confidence for route in routes], decisions.confidence, rtol=1e-3)
            assert [route.tasks for route in routes] == [tuple(model.tasks[t] for t in tasks) for tasks in chosen]
        np.testing.assert_allclose(model.embed(pictures), embeds, atol=1e-4)
        owners, numbers = (part.tolist() for part in predict_among(embeds, heads, posterior, claimed))
        expected = [(model.tasks[t], model.labels(model.tasks[t])[i]) for t, i in zip(owners, numbers, strict=True)]
        assert [(prediction.tasks[0], prediction.labels[0]) for prediction in model.classify(pictures)] == expected
        for task, head, alone in zip(model.tasks, heads, named, strict=True):
            np.testing.assert_allclose(model.embed(pictures, task), alone, atol=1e-4)
            for options, computed in (({"head": task}, embeds), ({"task": task}, alone)):
                labels = [prediction.labels[0] for prediction in model.classify(pictures, **options)]
                assert labels == [model.labels(task)[i] for i in predict_within(computed, head)]


def tasks_of(decisions, n, top_k):
    """The tasks whose experts answer an image: none on the plain backbone, else those that are expected to lose least."""
    *experts, _ = decisions.expected[n]
    if decisions.choice[n] == len(experts):
        return []
    return [decisions.choice[n]] if top_k == 1 else np.argsort(experts, kind="stable")[:top_k].tolist()


def routed(tower, x, posterior, tasks):
    """One image under the experts of these tasks, weighted by their probabilities."""
    if not len(tasks):
        return tower.embed(x)
    best = posterior[tasks]
    return tower.embed_mixture(x, [tower.merged.task_names[t] for t in tasks], (best / best.sum()).tolist())
