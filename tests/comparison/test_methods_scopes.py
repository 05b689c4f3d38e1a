"""What holds for the methods of both scopes alike: before any task, beside batch mates, and on a workbench that others used."""

from __future__ import annotations

import pytest
import torch
from tiny_compared import TinyComparison, one_by_one

from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.comparison.registry import SPECS

IMAGE, LAYER = "image_scope:ImageScope", "mingle:LayerScope"
METHODS = [name for name, spec in SPECS.items() if spec.implementation in (IMAGE, LAYER)]
KEEPING = [name for name in METHODS if name.startswith("image") or name in ("mingle-routed", "mingle", "mingle-per-image")]


@pytest.fixture(scope="module")
def comparisons(task_file, layer_task_file):
    """Tasks of each scope by the implementation of its methods."""
    return {IMAGE: TinyComparison(task_file, rank=8), LAYER: TinyComparison(layer_task_file, rank=8, steps=1)}


@pytest.fixture
def tiny(comparisons, name):
    return comparisons[SPECS[name].implementation]


@pytest.fixture(scope="module")
def crowded(comparisons):
    """Workbenches on which methods have been, in two orders and with two ranks."""
    workbenches = {scope: tiny.workbench() for scope, tiny in comparisons.items()}
    for name in ("mingle-routed", "image", "image-weighted", "image-low-rank-only"):
        tiny, workbench = comparisons[SPECS[name].implementation], workbenches[SPECS[name].implementation]
        tiny.history(tiny.built(name, workbench, rank=4), [2, 0, 1])
        tiny.history(tiny.built(name, workbench), [0, 2, 1])
    return workbenches


@pytest.mark.parametrize("name", METHODS)
def test_before_any_task_it_is_the_plain_backbone(tiny, name):
    method, batch = tiny.built(name), tiny.batches["task0"]
    answer = method.answer(batch)
    plain = torch.nn.functional.normalize(embed_images(batch.images, tiny.backbone, tiny.architecture), dim=-1)
    torch.testing.assert_close(answer.embeds, plain)
    assert answer.posterior is None
    assert method.stored_bytes() == method.active_bytes() == 4 * sum(tensor.numel() for tensor in tiny.backbone.values())
    assert method.bytes_per_task() == 0


@pytest.mark.parametrize("name", METHODS)
def test_only_pooled_gates_depend_on_batch_mates(tiny, name):
    """Alone on a second workbench, so that nothing is found kept."""
    together, alone, batch = tiny.merged(name), tiny.merged(name), tiny.batches["task1"]
    answer, singles = together.answer(batch), [alone.answer(image) for image in one_by_one(batch)]
    named = torch.cat([alone.answer_named(image, "task1") for image in one_by_one(batch)])
    pooled = SPECS[name].published(3).get("pooling") == "batch" and name != "static-experts"
    for in_batch, by_itself in (
        (answer.embeds, torch.cat([a.embeds for a in singles])),
        (together.answer_named(batch, "task1"), named),
    ):
        difference = (in_batch - by_itself).abs().max()
        assert difference > 1e-4 if pooled else difference < 2e-6
    if answer.routed is not None:
        torch.testing.assert_close(answer.posterior, torch.cat([a.posterior for a in singles]), rtol=0, atol=1e-4)
        assert answer.routed.equal(torch.cat([a.routed for a in singles]))


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_kept_on_the_workbench_changes_no_result(tiny, crowded, name):
    then, fresh = tiny.built(name, crowded[SPECS[name].implementation]), tiny.built(name)
    for t in (1, 2, 0):
        then.add(tiny.tasks[t])
        fresh.add(tiny.tasks[t])
        for batch in tiny.batches.values():
            kept, computed = then.answer(batch), fresh.answer(batch)
            torch.testing.assert_close(kept.embeds, computed.embeds, rtol=0, atol=2e-6)
            torch.testing.assert_close(kept.posterior, computed.posterior, rtol=0, atol=1e-4)
