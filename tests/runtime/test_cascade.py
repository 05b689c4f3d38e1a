"""The router's stages: what they decide, against numpy; that each runs for images in doubt alone, and nothing runs twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tiny_bundle import DIM, SPEC, TASKS, Weights, flat, images, rewrite
from tiny_cascade import DOUBTS, GROUPS, JUDGE, STAGES, Decided, names, pictures, stage_outputs, write_cascade_bundle

from mingle_edge_runtime import BundleError, EdgeError, EdgeModel, UnknownTaskError
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import Session
from mingle_edge_runtime.profile import profile

WEIGHTS = Weights()
PICTURES = pictures(120)
PIXELS = preprocess(PICTURES, SPEC)
SETTLED = {**dict.fromkeys(STAGES, 1.0)}
"""Bounds of doubt that no image exceeds"""
EVERY = dict.fromkeys(STAGES, -1.0)
"""and that every image exceeds"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bundles by their options."""
    root = tmp_path_factory.mktemp("cascades")

    def write(stages=STAGES, judged=True, top_k=1):
        path = root / f"{len(stages)}{judged}{top_k}"
        if not path.exists():
            write_cascade_bundle(path, WEIGHTS, top_k, stages=stages, judge=JUDGE if judged else None)
        return path

    return write


@pytest.fixture
def runs(monkeypatch):
    """Images run by graph, from now on."""
    counts: Counter[str] = Counter()
    run = Session.run

    def counted(self, inputs, *rest):
        counts[self.path.name] += len(next(iter(inputs.values())))
        return run(self, inputs, *rest)

    monkeypatch.setattr(Session, "run", counted)
    return counts


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("stages", [STAGES[:1], STAGES[:2], STAGES])
def test_stages_and_choices_are_those_of_numpy(folder, stages, judged: bool) -> None:
    decided = [Decided(WEIGHTS, x[None], stages=stages, judge=JUDGE if judged else None) for x in PIXELS]
    sure = [d.margin > 1e-4 for d in decided]
    assert sum(sure) > 100
    assert {d.stage for d in decided} == {*stages, *(["experts"] if judged else [])}
    assert len({d.task for d in decided}) == 4
    with EdgeModel.open(folder(stages, judged), threads=1) as model:
        routes, embeds = model.route(PICTURES), model.embed(PICTURES)
        for d, route, embed in zip(decided, routes, embeds, strict=True):
            if d.margin > 1e-4:
                assert (route.stage, route.tasks, route.runner_up) == (d.stage, *names(d.task), TASKS[d.runner_up])
                assert route.claimed is (d.task is not None)
                group = next((name for name, tasks in GROUPS.items() if route.tasks and route.tasks[0] in tasks), None)
                assert route.group == group
                np.testing.assert_allclose(route.posterior, d.posterior, atol=1e-5)
                np.testing.assert_allclose(route.confidence, d.confidence, atol=1e-4)
                np.testing.assert_allclose(embed, d.embed, atol=1e-5)


def test_each_stage_looks_at_images_in_doubt_alone_and_nothing_runs_twice(folder, runs) -> None:
    decided = [Decided(WEIGHTS, x[None]) for x in PIXELS]
    stages = Counter(d.stage for d in decided)
    with EdgeModel.open(folder(), threads=1) as model:
        for batch in np.split(PICTURES, [1, 3, 10, 42, 74, 106]):  # at most 32 are a batch
            model.embed(batch)
    assert runs["router_pixels.onnx"] == 120
    assert runs["router_blocks.onnx"] == 120 - stages["pixels"]
    assert runs["router_embedding.onnx"] == 120 - stages["pixels"] - stages["blocks"]
    plain = runs["router_embedding.onnx"]  # each of which needs the plain backbone
    answered = sum(d.task is not None for d in decided if d.stage != "experts")
    assert runs["tower.onnx"] == plain + answered + 2 * stages["experts"]


def test_an_image_is_answered_alike_with_any_batch_mates_budget_and_history(folder) -> None:
    with EdgeModel.open(folder(), threads=1) as model, EdgeModel.open(folder(), threads=1) as other:
        other.set_expert_budget(max(task.expert_bytes for task in other.bundle.index.tasks))
        together, shuffled = model.classify(PICTURES), other.classify(PICTURES[::-1])[::-1]
        for i in range(0, 120, 7):
            (alone,) = model.classify(PICTURES[i])
            (again,) = other.classify(PICTURES[i])
            assert alone == again
            for prediction in (together[i], shuffled[i]):
                assert (prediction.route.stage, prediction.route.tasks) == (alone.route.stage, alone.route.tasks)
                assert prediction.labels == alone.labels
                np.testing.assert_allclose(prediction.probabilities, alone.probabilities, atol=1e-5)


def test_later_stages_are_opened_with_the_first_image_that_needs_them(tmp_path, monkeypatch) -> None:
    opened: list[str] = []
    begin = Session.__init__
    monkeypatch.setattr(
        Session, "__init__", lambda self, graph, *a, **k: opened.append(graph.path.name) or begin(self, graph, *a, **k)
    )
    bundle = write_cascade_bundle(tmp_path / "settled", WEIGHTS, doubts=SETTLED)
    with EdgeModel.open(bundle, threads=1) as model:
        assert opened == ["tower.onnx"]
        model.embed(images(0, 1, 2))
        assert opened == ["tower.onnx", "router_pixels.onnx"]
        assert model.stats().misses == 3
        model.embed(images(3))  # black: below the first stage's bound
        assert opened[2:] == ["router_blocks.onnx", "router_embedding.onnx"]
    opened.clear()
    with EdgeModel.open(bundle, threads=1) as model:
        model.prepare_routing()
        assert sorted(opened) == sorted(["tower.onnx", *(f"router_{name}.onnx" for name in STAGES)])
        model.warm_up()
        assert model.stats().misses == 0


def test_with_several_experts_a_route_there_is_no_judge(folder) -> None:
    with EdgeModel.open(folder(top_k=2), threads=1) as model:
        routes = model.route(PICTURES)
        embeds = model.embed(PICTURES)
    assert {route.stage for route in routes} == {*STAGES}
    for route, embed, x in zip(routes, embeds, PIXELS, strict=True):
        losses = stage_outputs(WEIGHTS, x[None])[STAGES.index(route.stage)]["losses"][0]
        if route.tasks:
            assert set(route.tasks) == {TASKS[t] for t in np.argsort(losses[:3])[:2]}
            posterior = route.posterior_by_task()
            np.testing.assert_allclose(
                route.weights, [posterior[t] / sum(posterior[u] for u in route.tasks) for t in route.tasks]
            )
        mixture = [TASKS.index(task) for task in route.tasks]
        np.testing.assert_allclose(embed, WEIGHTS.image_scope(flat(x[None]), mixture, list(route.weights))[0], atol=1e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_in_a_group_only_its_tasks_compete(folder, group: str) -> None:
    mask = np.array([name in GROUPS[group] for name in TASKS], float)
    decided = [Decided(WEIGHTS, x[None], mask=mask) for x in PIXELS]
    with EdgeModel.open(folder(), threads=1) as model:
        routes, embeds = model.route(PICTURES, group=group), model.embed(PICTURES, group=group)
        assert [p.route for p in model.classify(PICTURES, group=group)] == routes
        np.testing.assert_array_equal(model.classify_pixels(PIXELS[:32], group=group)[1], embeds[:32])
    assert sum(d.margin > 1e-4 for d in decided) > 100
    for d, route, embed in zip(decided, routes, embeds, strict=True):
        assert sum(route.posterior) == pytest.approx(1, abs=1e-5)
        assert {task for task, p in route.posterior_by_task().items() if p} <= {*GROUPS[group]}
        if d.margin > 1e-4:
            assert (route.stage, route.tasks) == (d.stage, *names(d.task))
            np.testing.assert_allclose(embed, d.embed, atol=1e-5)


def test_an_unknown_group_is_an_error_that_names_those_there_are(folder, image_bundle, layer_bundle) -> None:
    with EdgeModel.open(folder()) as model:
        for call in (model.route, model.embed, model.classify):
            with pytest.raises(UnknownTaskError, match=r"group 'hot' is not in the bundle; it has warm, cold"):
                call(PICTURES[:1], group="hot")
        with pytest.raises(EdgeError, match=r"task 'red' and group 'warm' are both given: .* leave out the group"):
            model.embed(PICTURES[:1], "red", group="warm")
    for bundle in (image_bundle, layer_bundle):
        with (
            EdgeModel.open(bundle) as model,
            pytest.raises(UnknownTaskError, match=r"'warm' is not .*its tasks have no groups"),
        ):
            model.route(PICTURES[:1], group="warm")


def test_a_stream_that_reuses_routes_runs_no_expert_twice(folder, runs) -> None:
    with EdgeModel.open(folder(), threads=1) as model:
        stream = model.stream(reuse=True, threshold=0.0)
        expected = model.embed(PICTURES[:20])
        before = runs["tower.onnx"]
        embeds = np.stack([stream.embed(picture) for picture in PICTURES[:20]])
        np.testing.assert_allclose(embeds, expected, atol=1e-5)
        assert runs["tower.onnx"] == 2 * before
        assert stream.stats().reused == 0


def test_verify_tells_which_stage_differs(folder, tmp_path) -> None:
    verification = verify(folder())
    verification.check()
    parts = {f"router {name}, {stage}" for stage in STAGES for name in ("posterior", "losses", "confidence")}
    assert parts < set(verification.differences)
    other = write_cascade_bundle(tmp_path / "other", Weights(seed=1))
    for name in ("golden.npz", "bundle.json"):
        (other / name).write_bytes((folder() / name).read_bytes())
    for file in other.rglob("*"):
        if file.is_file() and not file.name.startswith("router") and file.name != "golden.npz":
            file.write_bytes((folder() / file.relative_to(other)).read_bytes())
    verify(other).check()  # the routers do not hang on the weights
    rewrite(other, lambda record: record["router"]["stages"].reverse())
    with pytest.raises(BundleError, match=r"router.stages are embedding, blocks, pixels, must be pixels, then"):
        verify(other)


def test_a_profile_tells_what_share_of_images_needs_each_stage(folder) -> None:
    decided = Counter(Decided(WEIGHTS, x[None]).stage for x in PIXELS[:60])
    report = profile(folder(), PICTURES[:60], runs=1, against=(), batch_sizes=(1,), threads=1)
    assert [stage.stage for stage in report.router] == list(STAGES)
    left = 60
    for stage in report.router:
        assert stage.reached == pytest.approx(left / 60)
        assert stage.settled == pytest.approx(decided[stage.stage] / 60)
        left -= decided[stage.stage]
    assert left == decided["experts"] > 0
    assert report.router_seconds == pytest.approx(sum(stage.seconds * stage.reached for stage in report.router))
    assert all(stage.seconds > 0 for stage in report.router)


def test_the_embedding_of_a_plain_image_is_the_one_that_the_router_read(folder, runs) -> None:
    with EdgeModel.open(folder(STAGES, judged=False), threads=1) as model:
        plain = [i for i, route in enumerate(model.route(PICTURES)) if route.stage == "embedding" and not route.tasks]
        runs.clear()
        embeds = model.embed(PICTURES[plain])
        assert runs["tower.onnx"] == len(plain) > 0
        np.testing.assert_allclose(embeds, WEIGHTS.image_scope(flat(PIXELS[plain]), [], []), atol=1e-5)
    assert embeds.shape == (len(plain), DIM)
    assert set(DOUBTS) == set(STAGES)
