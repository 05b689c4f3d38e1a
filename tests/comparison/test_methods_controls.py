"""Routers on the plain backbone's final embedding against scikit-learn and explicit covariances; the experts are `image`'s."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier
from tiny_compared import TinyComparison, one_by_one

from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.variations import turned_variations
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.routing.router import OWN_SHARE

CONTROLS = ("image-nearest", "image-final-rda")
every_control = pytest.mark.parametrize("name", CONTROLS)


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file, rank=8)


@pytest.fixture(scope="module")
def images(tiny):
    """Test images of all tasks, and images between those of two tasks, which are nobody's."""
    own = torch.cat([batch.images for batch in tiny.batches.values()])
    return torch.cat([own, (own + own.flip(0)) / 2])


def embeds(tiny, images, parameters=None):
    return F.normalize(embed_images(images, parameters or tiny.backbone, tiny.architecture), dim=-1)


def routes(tiny, method, images):
    batch = tiny.batches["task0"]
    return method.router.route(type(batch)(images, "task0", list(range(len(images))), "all"))


def test_the_nearest_seed_is_scikit_learns_nearest_neighbor(tiny, images):
    seeds = [task.calibration_images.load(range(len(task.calibration_images)), tiny.architecture) for task in tiny.tasks]
    labels = np.repeat(np.arange(len(seeds)), [len(of_task) for of_task in seeds])
    known = KNeighborsClassifier(n_neighbors=1).fit(embeds(tiny, torch.cat(seeds)).double().numpy(), labels)
    expected = known.predict(embeds(tiny, images).double().numpy())
    route = routes(tiny, tiny.merged("image-nearest"), images)
    assert len(set(expected)) == 3
    assert route.tasks.tolist() == expected.tolist()
    assert route.posterior.sum(1).tolist() == route.posterior.amax(1).tolist() == [1.0] * len(images)


def test_discriminants_are_those_of_explicit_covariances(tiny, images):
    """The thin factors keep 99.9% of each scatter, so scores are near and not equal."""
    features = []
    for task in tiny.tasks:
        generator, seeds = task_generator(0, task.name, "router"), task.calibration_images
        varied = [
            turned_variations(seeds.load([n], tiny.architecture), 16, tiny.architecture, generator) for n in range(len(seeds))
        ]
        features.append(embeds(tiny, torch.cat(varied).flatten(0, 1)).double().numpy())
    means = [rows.mean(0) for rows in features]
    # Each seed counts once, with all its variations.
    scatters = [(rows - mean).T @ (rows - mean) / 17 for rows, mean in zip(features, means, strict=True)]
    degrees = sum(len(rows) / 17 - 1 for rows in features)
    pooled = sum(scatters) / degrees
    scale = np.sqrt(np.diag(pooled) * (1 + 1e-6))
    correlation = pooled / np.outer(scale, scale)
    trace, square, size = np.trace(correlation), (correlation**2).sum(), len(scale)
    shrinkage = min(
        1.0, (square / size**2 + (trace / size) ** 2) / ((degrees + 1) * (square / size**2 - (trace / size) ** 2 / size))
    )
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(size)
    x = embeds(tiny, images).double().numpy()
    scores = []
    for mean, scatter in zip(means, scatters, strict=True):
        own = scatter / np.outer(scale, scale) / (len(features[0]) / 17 - 1)
        judged = shrunk + OWN_SHARE * (1 - shrinkage) * (own - correlation)
        offset = (x - mean) / scale
        scores.append(-0.5 * np.einsum("nf,fg,ng->n", offset, np.linalg.inv(judged), offset))
    scores = np.array(scores).T
    method = tiny.merged("image-final-rda")
    fitted, route = method.router._discriminants(), routes(tiny, method, images)
    given, _ = fitted.scores(x)
    np.testing.assert_allclose(given - given.max(1, keepdims=True), scores - scores.max(1, keepdims=True), rtol=0.01, atol=1e-3)
    np.testing.assert_allclose(route.posterior, softmax(scores / fitted.temperature, axis=1), rtol=0, atol=1e-3)


def test_images_unlike_all_seeds_are_refused_and_run_the_plain_backbone(tiny):
    method, batch = tiny.merged("image-final-rda"), tiny.batches["task0"]
    foreign = type(batch)(-2 * batch.images, "task0", batch.numbers, "foreign")
    assert method.answer(batch).claimed.any()
    answer = method.answer(foreign)
    refused = ~answer.claimed
    assert refused.any()
    assert (answer.routed[refused] == -1).all()
    torch.testing.assert_close(answer.embeds[refused], embeds(tiny, foreign.images)[refused], rtol=0, atol=2e-6)


@every_control
def test_experts_are_those_of_the_image_scope(tiny, name):
    method, image, batch = tiny.merged(name), tiny.merged("image"), tiny.batches["task1"]
    answer = method.answer(batch)
    for task in tiny.tasks:
        named, expected = (scope.answer_named(batch, task.name) for scope in (method, image))
        torch.testing.assert_close(named, expected, rtol=0, atol=2e-6)
    for place, task in enumerate(answer.routed.tolist()):
        expected = image.answer_named(batch, f"task{task}") if task >= 0 else embeds(tiny, batch.images)
        torch.testing.assert_close(answer.embeds[place], expected[place], rtol=0, atol=2e-6)
    assert method.bytes_per_task() == image.bytes_per_task()


def test_bytes_are_those_of_what_the_routers_keep(tiny):
    shared = tiny.merged("image").stored_bytes() - tiny.merged("image").router.stored_bytes()
    seeds = sum(len(task.calibration_images) for task in tiny.tasks)
    assert tiny.merged("image-nearest").stored_bytes() == shared + 4 * seeds * tiny.architecture.output_dim
    router = tiny.merged("image-final-rda").router
    features, T = router._discriminants().weight.shape
    own = router._discriminants().directions.shape[1]
    assert router.stored_bytes() == 4 * (features * (1 + T + own) + T + 2 * own + T * T + 1)


@every_control
def test_alone_images_go_where_they_go_in_a_batch(tiny, name):
    method, batch = tiny.merged(name), tiny.batches["task2"]
    alone = [tiny.merged(name).answer(image) for image in one_by_one(batch)]
    together = method.answer(batch)
    assert torch.cat([answer.routed for answer in alone]).equal(together.routed)
    torch.testing.assert_close(torch.cat([answer.embeds for answer in alone]), together.embeds, rtol=0, atol=2e-6)


@every_control
def test_what_other_methods_left_on_the_workbench_changes_no_route(tiny, name):
    workbench = tiny.workbench()
    for other in ("image", *CONTROLS):
        tiny.history(tiny.built(other, workbench), [2, 0, 1])
    then, fresh = tiny.merged(name, workbench), tiny.merged(name)
    for batch in tiny.batches.values():
        kept, computed = then.answer(batch), fresh.answer(batch)
        assert kept.routed.equal(computed.routed)
        torch.testing.assert_close(kept.embeds, computed.embeds, rtol=0, atol=2e-6)


@every_control
def test_one_task_is_its_expert(tiny, name):
    method, batch = tiny.merged(name, order=(0,)), tiny.batches["task0"]
    answer = method.answer(batch)
    assert answer.routed.tolist() == [0] * len(batch.images)
    torch.testing.assert_close(answer.embeds, tiny.merged("image").answer_named(batch, "task0"))


@every_control
def test_before_any_task_it_is_the_plain_backbone(tiny, name):
    method, batch = tiny.built(name), tiny.batches["task0"]
    torch.testing.assert_close(method.answer(batch).embeds, embeds(tiny, batch.images))
    assert method.stored_bytes() == 4 * sum(value.numel() for value in tiny.backbone.values())


@every_control
def test_a_task_without_seeds_is_named(tiny, name):
    task = tiny.tasks[0]
    with pytest.raises(TaskFileError, match="task 'task0' has no seed images"):
        tiny.built(name).add(FinetunedTask(task.name, task.finetuned, task.head, ImageSet([])))
