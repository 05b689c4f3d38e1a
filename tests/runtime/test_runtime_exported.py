"""EdgeModel on exported bundles against the merged model in PyTorch: embeddings, routes, and all three protocols."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image
from tiny_merged import write_merged

from mingle_edge.evaluation.answers import predict_among, predict_within
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_runtime import EdgeModel

TOLERANCE = 1e-4  # of embeddings of unit length, between PyTorch and ONNX Runtime
ROUNDING = 1e-5  # likewise, between batches of different size
KINDS = {"image": {}, "layer": {"scope": "layer"}}


def pictures() -> list[Image.Image]:
    """Images of several sizes, smooth like photographs or plain noise."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 50, 37, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in (*smooth_images(6, 41), *noise)]


@pytest.fixture(
    scope="module", params=[(kind, k) for kind in KINDS for k in (1, 2)], ids=lambda param: f"{param[0]}-{param[1]}"
)
def served(request, tmp_path_factory):
    """A merged model in PyTorch, its bundle opened, and the number of experts per route."""
    kind, top_k = request.param
    folder = tmp_path_factory.mktemp(kind)
    merged = write_merged(folder / "merged", **KINDS[kind])
    export_bundle(merged.path, folder / "bundle", ExportOptions(top_k))
    with EdgeModel.open(folder / "bundle", threads=1) as model:
        yield GatedTower(merged), model, top_k


def reference(tower: GatedTower, top_k: int):
    """Embeddings of `pictures()` under their own routes, and in the image scope posterior and whether it is trusted."""
    a = tower.architecture
    transform = image_transform(a.image_size, is_train=False, mean=a.preprocess.mean, std=a.preprocess.std)
    x = torch.stack([transform(picture) for picture in pictures()])
    if tower.merged.scope == "layer":
        return x, tower.embed_layers(x, top_k)[0], None, None
    posterior, confidence = tower.route(x)
    claimed = confidence >= tower.router.confidence_bound
    names, rows = np.array(tower.merged.task_names), []
    for i in range(len(x)):
        p, tasks = posterior[i].topk(top_k)
        if claimed[i]:
            rows.append(tower.embed_mixture(x[i : i + 1], names[tasks.numpy()].tolist(), (p / p.sum()).tolist()))
        else:
            rows.append(tower.embed(x[i : i + 1]))
    return x, torch.cat(rows), posterior, claimed


def test_the_runtime_computes_what_pytorch_computes(served) -> None:
    tower, model, top_k = served
    x, embeds, posterior, claimed = reference(tower, top_k)
    heads = [torch.from_numpy(tower.merged.head(task)) for task in model.tasks]
    np.testing.assert_allclose(model.embed(pictures()), embeds.numpy(), atol=TOLERANCE)
    if claimed is not None:
        assert 0 < claimed.sum() < len(claimed)
        assert [bool(route.tasks) for route in model.route(pictures())] == claimed.tolist()
    free = model.classify(pictures())
    owner, number = predict_among(embeds, heads, tower.merged.logit_scale, posterior, claimed)
    assert [prediction.tasks[0] for prediction in free] == [model.tasks[t] for t in owner]
    assert [prediction.labels[0] for prediction in free] == [
        model.labels(prediction.tasks[0])[i] for prediction, i in zip(free, number, strict=True)
    ]
    for t, (task, head) in enumerate(zip(model.tasks, heads, strict=True)):
        labels = [model.labels(task)[i] for i in predict_within(embeds, head)]
        assert [prediction.labels[0] for prediction in model.classify(pictures(), head=task)] == labels
        alone = tower.embed(x, task)
        if tower.merged.scope == "layer":
            alone = tower.embed_layers(x, 1, torch.eye(len(heads))[t])[0]
        np.testing.assert_allclose(model.embed(pictures(), task=task), alone.numpy(), atol=TOLERANCE)
        labels = [model.labels(task)[i] for i in predict_within(alone, head)]
        assert [prediction.labels[0] for prediction in model.classify(pictures(), task=task)] == labels


def test_budget_and_history_change_no_bit(served) -> None:
    _, model, top_k = served
    images = pictures()
    fresh = [model.embed(image) for image in images]
    sizes = [task.expert_bytes for task in model.bundle.index.tasks]
    with EdgeModel.open(model.bundle.root, expert_budget=top_k * max(sizes), threads=1) as tight:
        for i in (3, 9, 0, 0, 5, 2, 8, 1, 4, 7, 6, 3):
            tight.embed(images[i], task=tight.tasks[i % 3])
            np.testing.assert_array_equal(tight.embed(images[i]), fresh[i])
        assert tight.stats().evictions > 0


def test_batch_mates_change_nothing_but_rounding(served) -> None:
    _, model, _ = served
    images = pictures()
    together = model.embed(images)
    alone = np.concatenate([model.embed(image) for image in images])
    np.testing.assert_allclose(together, alone, atol=ROUNDING)
    np.testing.assert_allclose(model.embed(images[::-1])[::-1], alone, atol=ROUNDING)
