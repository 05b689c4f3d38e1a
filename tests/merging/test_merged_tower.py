"""The static peers as methods of a comparison: what answers when, what is stored, what is computed once for all orders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.comparison.batches import ImageRows, TestBatch
from mingle_edge.comparison.method import Kept, Workbench
from mingle_edge.comparison.methods import opcm
from mingle_edge.comparison.registry import REFERENCES
from mingle_edge.comparison.registry import SPECS as ALL_SPECS
from mingle_edge.data.image_set import ImageSet
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge_runtime.bundle.index import Preprocess

SPECS = [spec for spec in ALL_SPECS.values() if spec.name in REFERENCES or spec.implementation.startswith("static:")]
TINY = VisionArchitecture(Preprocess(16), 8, 12, 2, 2, 24, 6, "quick_gelu")


def tower(seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in TINY.parameter_shapes().items()}


def bench(**kept):
    return Workbench(tower(0), TINY, torch.device("cpu"), 0, Kept(**kept))


def task_named(name, seed):
    tuned = {n: value + tower(seed, 0.05)[n] for n, value in tower(0).items()}
    return FinetunedTask(name, tuned, Head(torch.eye(6)[:3], None, 100.0), ImageSet([]))


def batch_of(task, source="clean"):
    generator = torch.Generator().manual_seed(len(task))
    return TestBatch(torch.randn(5, 3, 16, 16, generator=generator), task, [3, 1, 4, 0, 2], source)


def embeds(parameters, batch):
    return F.normalize(embed_images(batch.images, parameters, TINY), dim=-1)


def build(name, workbench, *tasks):
    """The method with its published parameters, and with these tasks merged."""
    (spec,) = (spec for spec in SPECS if spec.name == name)
    method = spec.build(workbench, spec.published(8))
    for task in tasks:
        method.add(task)
    return method


def test_every_method_starts_as_the_pretrained_model_and_stores_what_it_says():
    size = 4 * sum(math.prod(shape) for shape in TINY.parameter_shapes().values())
    for spec in SPECS:
        workbench, batch = bench(), batch_of("one")
        method = spec.build(workbench, spec.published(8))
        torch.testing.assert_close(method.answer(batch).embeds, embeds(workbench.backbone, batch))
        assert method.stored_bytes() == method.active_bytes() == size
        method.add(task_named("one", 1))
        method.add(task_named("two", 2))
        answer = method.answer(batch)
        named = method.answer_named(batch, "one")
        assert named is None or torch.equal(named, answer.embeds)
        assert (named is None) == (spec.name != "individual")
        assert answer.posterior is None
        assert torch.isfinite(answer.embeds).all()
        assert method.active_bytes() == size
        assert method.stored_bytes() == (2 * size if spec.name == "individual" else size)
        changed = not torch.allclose(answer.embeds, embeds(workbench.backbone, batch), atol=1e-3)
        assert changed == (spec.name != "pretrained")


def test_a_merged_tower_answers_with_the_backbone_plus_what_its_rule_merged():
    workbench, batch = bench(), batch_of("three")
    tasks = [task_named(name, seed) for seed, name in enumerate(("one", "two", "three"), start=1)]
    differences = [{n: task.finetuned[n] - value for n, value in workbench.backbone.items()} for task in tasks]
    memory = None
    for count, difference in enumerate(differences, start=1):
        memory = opcm.merge(memory, difference, count, share=0.5)
    expected = embeds({n: value + memory.merged[n] for n, value in workbench.backbone.items()}, batch)
    torch.testing.assert_close(build("opcm", workbench, *tasks).answer(batch).embeds, expected)
    mean = {n: torch.stack([task.finetuned[n] for task in tasks]).mean(0) for n in workbench.backbone}
    torch.testing.assert_close(build("weight-averaging", workbench, *tasks).answer(batch).embeds, embeds(mean, batch))


def test_individual_answers_with_the_own_model_once_it_is_there():
    workbench, batch = bench(), batch_of("two")
    one, two = task_named("one", 1), task_named("two", 2)
    method = build("individual", workbench, one)
    torch.testing.assert_close(method.answer(batch).embeds, embeds(workbench.backbone, batch))
    torch.testing.assert_close(method.answer_named(batch, "one"), embeds(one.finetuned, batch))
    method.add(two)
    torch.testing.assert_close(method.answer(batch).embeds, embeds(two.finetuned, batch))


def test_what_no_order_changes_is_computed_once_for_all_orders():
    workbench, batch = bench(), batch_of("one")
    one = task_named("one", 1)
    expected = [build("individual", workbench, *tasks).answer(batch).embeds for tasks in ([], [one])]
    unusable = TestBatch(torch.full_like(batch.images, math.nan), batch.task, batch.numbers, batch.source)
    for tasks, known in zip(([], [one]), expected, strict=True):
        second = build("individual", workbench, *tasks)
        assert torch.equal(second.answer(unusable).embeds, known)
    assert torch.equal(build("pretrained", workbench).answer(unusable).embeds, expected[0])
    noisy = TestBatch(unusable.images, batch.task, batch.numbers, "noise")
    assert second.answer(noisy).embeds.isnan().all()  # another source is another batch


def test_kept_embeddings_stay_under_their_bound():
    workbench = bench(rows=ImageRows(budget=2 * 5 * TINY.output_dim * 4))
    method = build("pretrained", workbench)
    batches = [batch_of("one", source) for source in ("a", "b", "c", "d")]
    for batch in batches:
        torch.testing.assert_close(method.answer(batch).embeds, embeds(workbench.backbone, batch))
    unusable = [TestBatch(torch.full_like(b.images, math.nan), b.task, b.numbers, b.source) for b in batches]
    computed = [bool(method.answer(batch).embeds.isnan().all()) for batch in unusable]
    assert computed == [False, False, True, True]  # the first two sets are kept, for more there is no room


def test_published_scalings_are_the_papers():
    scaling = {spec.name: [spec.published(tasks).get("scaling") for tasks in (2, 8, 14, 20)] for spec in SPECS}
    assert scaling["task-arithmetic"] == scaling["ties"] == scaling["ties-published"] == [0.3, 0.3, 0.1, 0.1]
    assert scaling["magmax"] == [0.5] * 4
    assert scaling["consensus-published"] == [0.1] * 4
