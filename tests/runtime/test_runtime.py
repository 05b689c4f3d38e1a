"""EdgeModel against the same small tower in numpy, in both scopes, and what must not influence a result."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import KINDS, SIDE, SPEC, TASKS, Weights, flat, images

from mingle_edge_runtime import BudgetError, EdgeError, EdgeModel, Prediction, UnknownTaskError
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.memory import mapped_bytes
from mingle_edge_runtime.ort.session import Session

WEIGHTS = Weights()
COLORS = (0, 2, 3, 1, 1, 0, 3, 2)  # 3, black, belongs to no task
IMAGES = images(*COLORS, seed=1)
X = flat(preprocess(IMAGES, SPEC))


@pytest.mark.parametrize("k", [1, 2])
def test_image_scope_runs_what_it_routed(bundles, k: int) -> None:
    with EdgeModel.open(bundles["image", k]) as model:
        embeds, routes = model.embed(IMAGES), model.route(IMAGES)
    assert embeds.dtype == np.float32
    for i, (color, route) in enumerate(zip(COLORS, routes, strict=True)):
        assert route.tasks[:1] == (() if color == 3 else (TASKS[color],))
        assert len(route.tasks) == (0 if color == 3 else k)
        assert sum(route.weights) == pytest.approx(0 if color == 3 else 1)
        assert sum(route.posterior) == pytest.approx(1)
        assert (route.confidence >= 0) == (color != 3)
        expected = WEIGHTS.image_scope(X[i : i + 1], [TASKS.index(task) for task in route.tasks], route.weights)
        np.testing.assert_allclose(embeds[i], expected[0], atol=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_layer_scope_reports_what_the_graph_routed(bundles, k: int) -> None:
    expected, chosen = WEIGHTS.layer_scope(X, k)
    with EdgeModel.open(bundles["layer", k]) as model:
        np.testing.assert_allclose(model.embed(IMAGES), expected, atol=2e-6)
        for route, layers in zip(model.route(IMAGES), chosen, strict=True):
            assert [layer.tasks for layer in route.layers] == [tuple(TASKS[t] for t in row) for row in layers]
            assert [layer.layer for layer in route.layers] == ["blocks.0.q", "blocks.1.q"]
            assert dict(zip(route.tasks, route.weights, strict=True)) == {
                TASKS[t]: pytest.approx((layers == t).mean()) for t in np.unique(layers)
            }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", range(3))
def test_a_named_task_uses_its_expert_alone(bundles, kind, task: int) -> None:
    scope = kind[0]
    expected = WEIGHTS.image_scope(X, [task], [1.0]) if scope == "image" else WEIGHTS.layer_scope(X, 1, task)[0]
    with EdgeModel.open(bundles[kind]) as model:
        np.testing.assert_allclose(model.embed(IMAGES, task=TASKS[task]), expected, atol=1e-6)
        assert {route.tasks for route in [p.route for p in model.classify(IMAGES, task=TASKS[task])]} == {(TASKS[task],)}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_compete_as_the_application_asks(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        embeds, routes = model.embed(IMAGES), model.route(IMAGES)
        named, headed = model.classify(IMAGES, task="green", top=4), model.classify(IMAGES, head="green", top=99)
        free = model.classify(IMAGES, top=12)
        green = model.embed(IMAGES, task="green")
        labels = [label for task in TASKS for label in model.labels(task)]

    def check(prediction: Prediction, labels: list[str], probabilities: np.ndarray) -> None:
        by_label = dict(zip(labels, probabilities / probabilities.sum(), strict=True))
        assert dict(zip(prediction.labels, prediction.probabilities, strict=True)) == pytest.approx(by_label, rel=1e-4)

    for i, route in enumerate(routes):
        check(named[i], labels[4:8], WEIGHTS.labels(green[i : i + 1])[0, 4:8])
        check(headed[i], labels[4:8], WEIGHTS.labels(embeds[i : i + 1])[0, 4:8])
        posterior = np.array([route.posterior]) if route.posterior and route.tasks else None
        check(free[i], labels, WEIGHTS.labels(embeds[i : i + 1], posterior)[0])
        assert list(free[i].probabilities) == sorted(free[i].probabilities, reverse=True)
        assert [label.split()[0] for label in free[i].labels] == list(free[i].tasks)
        assert free[i].route.tasks == route.tasks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nothing", [[], np.empty((0, 12, 9, 3), np.uint8), iter(())])
def test_no_images_give_empty_results(bundles, kind, nothing) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        for task in (None, "red"):
            assert model.embed(nothing, task).shape == (0, 16)
            assert model.classify(nothing, task) == []
        assert model.route(nothing) == []
        assert model.scope.embed(np.empty((0, 3, SIDE, SIDE), np.float32))[0].shape == (0, 16)
        assert model.scope.embed(np.empty((0, 3, SIDE, SIDE), np.float32), "red")[0].shape == (0, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch_mates(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        together = model.embed(IMAGES)
        for order in (np.arange(8), np.arange(8)[::-1], np.array([3, 1, 7])):
            np.testing.assert_allclose(model.embed(IMAGES[order]), together[order], atol=1e-6)
        alone = np.concatenate([model.embed(image) for image in IMAGES])
        many = model.embed(np.tile(IMAGES, (5, 1, 1, 1)))  # more than one run takes
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(many, np.tile(together, (5, 1)), atol=1e-6)


def test_a_batch_of_mixed_routes_runs_once_per_route(bundles, monkeypatch) -> None:
    sizes: list[int] = []
    original = Session.run

    def run(self: Session, inputs, *arguments, **options):
        if self.path.name == "tower.onnx":
            sizes.append(len(inputs["pixel_values"]))
        return original(self, inputs, *arguments, **options)

    monkeypatch.setattr(Session, "run", run)
    with EdgeModel.open(bundles["image", 1]) as model:
        model.embed(IMAGES)
    assert sorted(sizes) == sorted(COLORS.count(color) for color in range(4))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_budget_nor_history_changes_a_bit(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], threads=1) as model:
        sizes = [task.expert_bytes for task in model.bundle.index.tasks]
        fresh = [model.embed(image) for image in IMAGES]
    with EdgeModel.open(bundles[kind], expert_budget=kind[1] * max(sizes), threads=1) as model:
        history = [7, 0, 3, 3, 5, 1, 6, 2, 4, 0, 7, 1]
        for i in history:
            model.embed(IMAGES, task=TASKS[i % 3])
            np.testing.assert_array_equal(model.embed(IMAGES[i]), fresh[i])
        assert model.stats().evictions > 0


def test_opening_reads_no_expert_and_a_run_only_the_routed_ones(bundles) -> None:
    for kind, piece in ((("image", 1), 1), (("layer", 1), 2)):  # an expert is counted whole, or layer by layer
        with EdgeModel.open(bundles[kind]) as model:
            size = model.bundle.index.tasks[0].expert_bytes
            assert model.stats().bytes_loaded == 0
            model.embed(IMAGES[0], task="blue")
            assert (model.stats().bytes_loaded, model.stats().misses) == (size, piece)
            model.embed(IMAGES, task="blue")
            assert (model.stats().bytes_loaded, model.stats().hits) == (size, piece)
            model.route(IMAGES)
            assert kind[0] == "layer" or model.stats().bytes_loaded == size


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the files a process has mapped")
def test_the_system_sees_no_expert_read_before_it_is_used(image_bundle, layer_bundle) -> None:
    def experts(bundle: Path) -> dict[str, int]:
        """Bytes in memory of every file of experts that is mapped."""
        return {name: size for name, size in mapped_bytes(bundle).items() if "expert" in name}

    with EdgeModel.open(image_bundle) as model:
        model.route(IMAGES)
        assert experts(image_bundle) == {}
        model.embed(IMAGES[0])
        assert list(experts(image_bundle)) == ["experts/red.onnx_adapter"]
        model.embed(IMAGES[1])
        assert sorted(experts(image_bundle)) == ["experts/blue.onnx_adapter", "experts/red.onnx_adapter"]
    with EdgeModel.open(layer_bundle) as model:
        assert experts(layer_bundle) == {"experts.bin": 0}
        model.embed(IMAGES[0])
        assert experts(layer_bundle)["experts.bin"] > 0
    assert experts(image_bundle) == experts(layer_bundle) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_prefetched_and_pinned_experts_are_not_waited_for(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        model.prefetch("red")
        model.pin(["green"])
        loaded = model.stats().bytes_loaded
        model.embed(IMAGES, task="red")
        model.embed(IMAGES, task="green")
        assert (model.stats().misses, model.stats().bytes_loaded) == (0, loaded)
        assert model.stats().pinned_bytes == model.bundle.index.tasks[1].expert_bytes


def test_unknown_tasks_are_named_with_those_there_are(bundles) -> None:
    with EdgeModel.open(bundles["image", 1]) as model:
        for call in (
            lambda: model.embed(IMAGES, task="rde"),
            lambda: model.classify([], task="rde"),
            lambda: model.prefetch(["red", "rde"]),
            lambda: model.pin("rde"),
        ):
            with pytest.raises(UnknownTaskError, match="task 'rde' is not in the bundle; it has red, green, blue"):
                call()
        for call in (lambda: model.classify(IMAGES, head="rde"), lambda: model.labels("rde")):
            with pytest.raises(UnknownTaskError, match="head 'rde' is not in the bundle; it has red, green, blue"):
                call()
        assert model.labels("red") == ("red 0", "red 1", "red 2", "red 3")
        with pytest.raises(EdgeError, match="top is 0, must be a whole number and at least 1"):
            model.classify(IMAGES, top=0)


def test_a_closed_model_says_so(bundles) -> None:
    model = EdgeModel.open(bundles["image", 1])
    model.close()
    model.close()
    for call in (lambda: model.embed(IMAGES), lambda: model.stats(), lambda: model.pin("red")):
        with pytest.raises(EdgeError, match="is closed: open it again"):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_under_one_run_is_refused_with_the_minimum(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        least = kind[1] * model.bundle.index.tasks[0].expert_bytes
    with pytest.raises(BudgetError, match=f"an expert budget of {least - 1} bytes is too small: .* needs {least}"):
        EdgeModel.open(bundles[kind], expert_budget=least - 1)
    with (
        EdgeModel.open(bundles[kind], expert_budget=least) as model,
        pytest.raises(BudgetError, match="pinning red beside the others needs"),
    ):
        model.pin("red")


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_may_change_while_threads_run_and_changes_no_bit(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], threads=1) as model:
        least = kind[1] * model.bundle.index.tasks[0].expert_bytes
        expected = [model.embed(image) for image in IMAGES]
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                for budget in (least, None, 2 * least):
                    model.set_expert_budget(budget)
                with pytest.raises(BudgetError, match=f"needs {least}"):
                    model.set_expert_budget(least - 1)

        def work(start: int) -> None:
            for step in range(30):
                i = (start * 3 + step) % 8
                np.testing.assert_array_equal(model.embed(IMAGES[i]), expected[i])

        with ThreadPoolExecutor(4) as pool:
            changing = pool.submit(change)
            list(pool.map(work, range(3)))
            stop.set()
            changing.result()
        assert model.stats().budget == 2 * least
        model.set_expert_budget(least)
        assert model.stats().resident_bytes <= least
