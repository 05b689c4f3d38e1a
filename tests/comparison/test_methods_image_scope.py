"""The image scope as a compared method, against the model merged into a folder and the tower that is deployed."""

from types import SimpleNamespace

import pytest
import torch
from tiny_compared import TinyComparison

from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.comparison.batches import ImageRows, TestBatch
from mingle_edge.comparison.methods.image_router import Route
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.image_set import ImageSet
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge.experts import expert_size
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.routing.router import DIRECTIONS


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file, rank=8)


@pytest.mark.parametrize(("name", "top_k"), [("image", 1), ("image-weighted", 2)])
def test_accuracies_equal_those_of_the_model_merged_into_a_folder(tiny, name, top_k, task_file, image_model):
    report = evaluate(image_model.path, task_file, top_k=top_k, device="cpu")
    method = tiny.built(name)
    after_own, final, summary = tiny.history(method)
    assert (after_own, final) == (report.after_own, report.final)
    assert summary == {p: (report.acc(p), report.bwt(p)) for p in summary}
    for t, task in enumerate(tiny.tasks):
        answer = method.answer(tiny.batches[task.name])
        assert 100 * int((answer.routed == t).sum()) / len(answer.routed) == report.own_route[t]
        assert 100 * int((~answer.claimed).sum()) / len(answer.claimed) == report.unclaimed[t]


def test_adapted_experts_are_those_of_the_merge(task_file, tmp_path, monkeypatch):
    monkeypatch.setattr(expert_size, "LEAST_SEEDS", 5)
    adapted = task_file.with_name("ADAPTED.toml")
    adapted.write_text(task_file.read_text().replace("rank = 8", "rank = 2\nexpert_steps = 6"))
    model = merge(adapted, tmp_path / "merged", device="cpu")
    method = TinyComparison(task_file, rank=8).merged("image", rank=2, expert_steps=6)
    assert any(model.task(name).record["adapted_steps"] for name in model.task_names)
    for name in model.task_names:
        stored, (_, expert) = model.expert(name), method._experts[name]
        for layer, (B, A) in expert.factors.items():
            torch.testing.assert_close(torch.from_numpy(stored[f"{layer}.B"] @ stored[f"{layer}.A"]), B @ A)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_mixtures_are_those_of_the_deployed_tower_image_by_image(tiny, image_model, top_k):
    """Posteriors drawn, so that every kind of route occurs: mixed, all but alone, and claimed by no task."""
    method = tiny.merged("image", top_k=top_k)
    batch, tower = tiny.batches["task0"], GatedTower(image_model)
    posterior = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior[4] = torch.tensor([1e-12, 1 - 2e-12, 1e-12])
    posterior = posterior / posterior.sum(1, keepdim=True)
    claimed = torch.tensor([True, True, False, True, True, True])
    method.router = SimpleNamespace(route=lambda batch, largest_logits=None: Route(posterior, claimed))
    answer = method.answer(batch)
    for i, row in enumerate(posterior):
        weights, tasks = row.topk(top_k)
        names = [f"task{t}" for t in tasks.tolist()] if claimed[i] else []
        shares = (weights / weights.sum()).tolist() if claimed[i] else []
        expected = tower.embed_mixture(batch.images[i : i + 1], names, shares)[0]
        torch.testing.assert_close(answer.embeds[i], expected, rtol=0, atol=2e-6)
        assert answer.routed[i] == (tasks[0] if claimed[i] else -1)


def test_mixtures_do_not_depend_on_how_many_images_are_laid_out_at_once(tiny, monkeypatch):
    method, batch = tiny.merged("image-weighted", top_k=3), tiny.batches["task0"]
    route = Route(torch.full((6, 3), 1 / 3, dtype=torch.float64), torch.ones(6, dtype=torch.bool))
    method.router = SimpleNamespace(route=lambda batch, largest_logits=None: route)
    whole = method.answer(batch).embeds
    monkeypatch.setattr("mingle_edge.comparison.methods.image_scope.MIXED_BYTES", 1)
    torch.testing.assert_close(method.answer(batch).embeds, whole, rtol=0, atol=2e-6)


def test_corrupted_images_are_not_mistaken_for_clean_ones(tiny):
    method, batch = tiny.merged("image"), tiny.batches["task0"]
    clean = method.answer_named(batch, "task0")
    noisy = TestBatch(batch.images + 0.5 * torch.randn(batch.images.shape), batch.task, batch.numbers, "task0, noise")
    assert (method.answer_named(noisy, "task0") - clean).abs().max() > 1e-3


def test_the_low_rank_control_leaves_vectors_and_stem_out(tiny, image_model):
    method, batch = tiny.merged("image-low-rank-only"), tiny.batches["task2"]
    arrays = image_model.expert("task2")
    parameters = dict(tiny.backbone)
    for layer in tiny.architecture.block_linears():
        update = torch.from_numpy(arrays[f"{layer}.B"]) @ torch.from_numpy(arrays[f"{layer}.A"])
        parameters[f"{layer}.weight"] = parameters[f"{layer}.weight"] + update
    expected = torch.nn.functional.normalize(embed_images(batch.images, parameters, tiny.architecture), dim=-1)
    torch.testing.assert_close(method.answer_named(batch, "task2"), expected, rtol=0, atol=2e-6)
    assert (tiny.merged("image").answer_named(batch, "task2") - expected).abs().max() > 1e-3


def test_bytes_are_those_of_the_files(tiny, image_model):
    method = tiny.merged("image")
    backbone = sum(array.nbytes for array in image_model.backbone().values())
    experts = [sum(array.nbytes for array in image_model.expert(name).values()) for name in image_model.task_names]
    router = 0
    for stage in image_model.cascade().stages:
        features, T = stage.router.weight.shape
        directions = sum(min(DIRECTIONS, len(image_model.router_statistics(name).factor)) for name in image_model.task_names)
        router += 4 * (features * (T + 1 + directions) + 2 * directions + T + T * T + 1)
    assert method.stored_bytes() == backbone + sum(experts) + router
    assert method.active_bytes() == backbone + experts[0] + router
    assert method.bytes_per_task() == sum(experts) / 3
    assert tiny.merged("image-weighted").active_bytes() == backbone + sum(experts[:2]) + router


def test_a_task_without_seeds_is_named(tiny):
    task = tiny.tasks[0]
    with pytest.raises(TaskFileError, match="task 'task0' has no seed images, and the image router knows a task by nothing"):
        tiny.built("image").add(FinetunedTask(task.name, task.finetuned, task.head, ImageSet([])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router_blocks": 7}, "router_blocks is 7, and the tower has 3 blocks"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, not 0"),
        ({"layers": "all"}, "layers must be one of"),
    ],
)
def test_parameters_that_make_no_sense_are_named(tiny, changes, message):
    with pytest.raises(TaskFileError, match=message):
        tiny.built("image", **changes)


@pytest.mark.parametrize(("budget", "computed"), [(1 << 30, [0, 1, 2, 3, 4, 9]), (0, [1, 2, 0, 3, 2, 1, 0, 9, 4])])
def test_rows_are_computed_once_within_the_budget(budget, computed):
    rows, seen = ImageRows(budget), []

    def compute(images):
        seen.extend(images[:, 0, 0, 0].int().tolist())
        return torch.stack([images[:, 0, 0, 0], images[:, 0, 0, 0] ** 2], dim=1)

    def ask(*numbers, places=None):
        images = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1)
        of_images = rows.of("key", TestBatch(images, "t", list(numbers), "s"), compute, places)
        chosen = [numbers[p] for p in places] if places is not None else numbers
        assert of_images.tolist() == [[n, n * n] for n in chosen]

    ask(1, 2)
    ask(0, 3, 2, 1)
    ask(0, 9, 4, 7, places=[0, 1, 2])
    assert sorted(seen) == sorted(computed)
