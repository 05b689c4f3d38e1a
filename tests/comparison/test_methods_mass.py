"""MASS against explicit projection matrices, loops over images, and towers merged in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import polar
from tiny_compared import TinyComparison, one_by_one

from mingle_edge.clip.vision_tower import embed_images, plain_linear
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.errors import TaskFileError
from mingle_edge.evaluation.answers import predict_among

# At this temperature and threshold images of the tiny tasks take one or two tasks of three.
SPREAD = {"depth": 0.4, "temperature": 4.0, "threshold": 0.3}


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file)


@pytest.fixture(scope="module")
def naive(tiny):
    return Naive(tiny)


class Naive:
    """The method in numpy, on the tiny tasks."""

    def __init__(self, tiny):
        self.tiny = tiny
        self.decomposed = {}

    def components(self, task, key, count):
        if (task, key) not in self.decomposed:
            matrix = (self.tiny.tasks[task].finetuned[key] - self.tiny.backbone[key]).double().numpy()
            self.decomposed[task, key] = np.linalg.svd(matrix, full_matrices=False)
        U, s, Vh = self.decomposed[task, key]
        return U[:, :count], s[:count], Vh[:count]

    def tower(self, members, tasks):
        """The backbone with these tasks' components, of so many tasks in all."""
        tower = {}
        for key, plain in self.tiny.backbone.items():
            if plain.ndim == 2 and key != "patch_embedding.weight":
                parts = [self.components(task, key, min(plain.shape) // tasks) for task in members]
                U, _ = polar(np.concatenate([U for U, _, _ in parts], axis=1))
                V, _ = polar(np.concatenate([Vh.T for _, _, Vh in parts], axis=1))
                vector = U @ np.diag(np.concatenate([s for _, s, _ in parts])) @ V.T
            else:
                own = [(self.tiny.tasks[task].finetuned[key] - plain).double().numpy() for task in members]
                vector = np.mean(own, axis=0)
            tower[key] = plain + torch.from_numpy(vector).float()
        return tower

    def residuals(self, images, block, tasks):
        """What each task's projection matrix leaves of what enters the block's MLP at the class token, `[n, T]`."""
        tower, seen = self.tower(range(tasks), tasks), {}
        plain = plain_linear(tower)
        embed_images(images, tower, self.tiny.architecture, lambda layer, x: plain(layer, seen.setdefault(layer, x)))
        x = seen[f"blocks.{block}.fc1"][:, 0].double().numpy()
        lengths = []
        for task in range(tasks):
            key = f"blocks.{block}.fc1.weight"
            _, _, Vh = self.components(task, key, min(self.tiny.backbone[key].shape) // tasks)
            projection = Vh.T @ Vh
            lengths.append(np.linalg.norm(x @ (np.eye(len(projection)) - projection), axis=1))
        return np.array(lengths).T

    def route(self, images, block, tasks, temperature, threshold, most):
        """Of each image the tasks that take part and the likeliest, by a loop over images."""
        routes = []
        for row in self.residuals(images, block, tasks):
            standard = -(row - row.mean()) / (row.std(ddof=1) + 1e-6)
            shares = np.exp(standard / temperature) / np.exp(standard / temperature).sum()
            order = sorted(range(tasks), key=lambda task: -shares[task])
            members = [task for task in order if shares[task] > threshold][:most] or order[:1]
            routes.append((tuple(sorted(members)), order[0]))
        return routes

    def embeds(self, image, members, tasks):
        return F.normalize(embed_images(image[None], self.tower(members, tasks), self.tiny.architecture), dim=-1)[0]


def test_images_run_on_the_tasks_whose_projections_leave_least(tiny, naive):
    method, seen = tiny.merged("mass", **SPREAD), set()
    for batch in tiny.batches.values():
        answer = method.answer(batch)
        routes = naive.route(batch.images, 1, 3, 4.0, 0.3, 3)
        seen |= {members for members, _ in routes}
        assert answer.routed.tolist() == [likeliest for _, likeliest in routes]
        for image, (members, _), embeds in zip(batch.images, routes, answer.embeds, strict=True):
            torch.testing.assert_close(embeds, naive.embeds(image, members, 3), rtol=0, atol=1e-5)
    assert {len(members) for members in seen} == {1, 2}


def test_residuals_are_those_of_explicit_projections(tiny, naive):
    method, batch = tiny.merged("mass", **SPREAD), tiny.batches["task1"]
    residuals = method.residuals(method.features(batch.images))
    np.testing.assert_allclose(residuals, naive.residuals(batch.images, 1, 3), rtol=1e-4)


@pytest.mark.parametrize(("depth", "block"), [(0.0, 0), (0.4, 1), (0.75, 2)])
def test_the_depth_is_a_share_of_the_blocks(tiny, naive, depth, block):
    method, batch = tiny.merged("mass", depth=depth), tiny.batches["task0"]
    residuals = method.residuals(method.features(batch.images))
    np.testing.assert_allclose(residuals, naive.residuals(batch.images, block, 3), rtol=1e-4)


def test_published_depths_are_the_authors_blocks():
    depth = SPECS["mass"].published(8)["depth"]
    assert int(depth * 12) == 9


@pytest.mark.parametrize(("changes", "sizes"), [({"threshold": 1.0}, {1}), ({"most": 2}, {1, 2}), ({"threshold": 0.0}, {3})])
def test_threshold_and_most_bound_the_tasks_that_take_part(tiny, changes, sizes):
    method = tiny.merged("mass", **SPREAD | changes)
    shares = torch.cat([method.shares(batch.images) for batch in tiny.batches.values()])
    chosen = method.chosen(shares)
    assert set(chosen.sum(1).tolist()) == sizes
    for row, of_image in zip(chosen, shares, strict=True):
        assert of_image[row].min() >= of_image[~row].max() if len(of_image[~row]) else True
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)))


def test_with_every_task_taking_part_it_is_tsv_merge(tiny):
    method, static, batch = tiny.merged("mass", threshold=0.0), tiny.merged("tsv-m"), tiny.batches["task2"]
    torch.testing.assert_close(method.answer(batch).embeds, static.answer(batch).embeds, rtol=0, atol=1e-6)


def test_the_head_is_the_chosen_tasks_with_the_largest_logit(tiny, naive):
    method = tiny.merged("mass", **SPREAD)
    heads, differ = [task.head for task in tiny.tasks], 0
    for batch in tiny.batches.values():
        answer = method.answer(batch)
        owners, labels = predict_among(answer.embeds, heads, answer.posterior, answer.claimed)
        for i, (members, likeliest) in enumerate(naive.route(batch.images, 1, 3, 4.0, 0.3, 3)):
            logits = {task: heads[task].logits(answer.embeds[i : i + 1])[0] for task in members}
            best = max(members, key=lambda task: float(logits[task].max()))
            assert (owners[i], labels[i]) == (best, int(logits[best].argmax()))
            differ += best != likeliest
    assert differ


def test_a_named_task_runs_on_its_own_components(tiny, naive):
    method, batch = tiny.merged("mass"), tiny.batches["task0"]
    expected = torch.stack([naive.embeds(image, (1,), 3) for image in batch.images])
    torch.testing.assert_close(method.answer_named(batch, "task1"), expected, rtol=0, atol=1e-5)


def test_one_task_is_its_fine_tuned_model(tiny):
    method, batch, task = tiny.merged("mass", order=(1,)), tiny.batches["task0"], tiny.tasks[1]
    own = F.normalize(embed_images(batch.images, task.finetuned, tiny.architecture), dim=-1)
    answer = method.answer(batch)
    torch.testing.assert_close(answer.embeds, own, rtol=0, atol=2e-6)
    torch.testing.assert_close(method.answer_named(batch, "task1"), own, rtol=0, atol=2e-6)
    assert answer.routed.tolist() == [0] * len(own)


def test_batch_mates_and_towers_made_before_change_nothing(tiny, monkeypatch):
    method, batch = tiny.merged("mass", **SPREAD), tiny.batches["task1"]
    together = method.answer(batch)
    monkeypatch.setattr("mingle_edge.comparison.methods.mass.KEPT_BYTES", 1)
    alone = [tiny.merged("mass", **SPREAD).answer(image) for image in one_by_one(batch)]
    torch.testing.assert_close(torch.cat([answer.embeds for answer in alone]), together.embeds, rtol=0, atol=2e-6)
    assert torch.cat([answer.routed for answer in alone]).equal(together.routed)


@pytest.mark.parametrize("tasks", [1, 3])
def test_bytes_are_those_of_every_factor_that_is_kept(tiny, tasks):
    size = 0
    for key, plain in tiny.backbone.items():
        rows, columns = plain.shape if plain.ndim == 2 else (0, 0)
        rank = min(rows, columns) // tasks
        size += rank * (rows + columns + 1) if plain.ndim == 2 and key != "patch_embedding.weight" else plain.numel()
    method = tiny.merged("mass", order=range(tasks))
    backbone = 4 * sum(plain.numel() for plain in tiny.backbone.values())
    assert method.bytes_per_task() == 4 * size
    assert method.stored_bytes() == method.active_bytes() == backbone + tasks * 4 * size


def test_before_any_task_it_is_the_plain_backbone(tiny):
    method, batch = tiny.built("mass"), tiny.batches["task0"]
    plain = F.normalize(embed_images(batch.images, tiny.backbone, tiny.architecture), dim=-1)
    torch.testing.assert_close(method.answer(batch).embeds, plain)
    assert method.bytes_per_task() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 1.0}, "mass: depth must be a number from 0 to below 1, not 1.0"),
        ({"temperature": 0.0}, "mass: temperature must be a number above 0, not 0.0"),
        ({"most": 0}, "mass: most must be a whole number of at least 1, not 0"),
    ],
)
def test_parameters_that_make_no_sense_are_named(tiny, changes, message):
    with pytest.raises(TaskFileError, match=message):
        tiny.built("mass", **changes)
