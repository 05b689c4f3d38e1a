"""The router's stages as graphs against their arithmetic in numpy on PyTorch's features, for cascades of every shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.routing.cascade import Cascade, Judge, Stage
from mingle_edge.routing.router import fit_router, softmax
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.bundle.image_scope import STAGES
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.router import write_stage
from mingle_edge_export.tower.vision_tower import Backbone
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.images.preprocess import preprocess

NOISE = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3), dtype=np.uint8)
PIXELS = preprocess(np.concatenate([smooth_images(65, 32), NOISE]), ARCHITECTURE.preprocess)
TASKS = 3
SHAPES = [("pixels",), ("pixels", "blocks"), ("pixels", "embedding"), ("pixels", "blocks", "embedding")]
GROUPS = {"one": [0, 0, 0], "alone": [0, 1, 2], "two": [0, 1, 0]}
BLOCKS = 2


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return GatedTower(write_merged(tmp_path_factory.mktemp("cascade") / "merged", router_blocks=BLOCKS))


@pytest.fixture(scope="module")
def features(tower):
    """All that stages may read of the images `[n, F]`."""
    return tower.router_features(torch.from_numpy(PIXELS))


def columns(tower, name, shape):
    """Which of them a stage reads."""
    return tower.merged.layout.columns(BLOCKS if "blocks" in shape and name != "pixels" else None, name == "embedding")


def build(tower, features, shape, groups, judge=None):
    """A cascade whose tasks are random parts of the images, which are not easy to tell apart."""
    random = np.random.default_rng(4)
    of_task = [random.choice(len(features), 24, replace=False).reshape(6, 4) for _ in range(TASKS)]
    losses = np.pad(random.uniform(0.3, 0.9, (TASKS, TASKS)) * (1 - np.eye(TASKS)), ((0, 0), (0, 1)), constant_values=0.3)
    stages = []
    for name in shape:
        of_stage = features[:, columns(tower, name, shape)]
        router = fit_router([RouterStatistics.from_features(of_stage[images].astype(np.float32)) for images in of_task])
        scores, nearness = router.scores(of_stage)
        router = replace(router, temperature=float(np.abs(scores).std()) / 2, trust=(1 / float(nearness.std()), 0.7))
        _, confidence = router.posterior(of_stage)
        cascade = Cascade((), losses, np.array(groups))
        doubt = float(np.median(cascade.expected(router.posterior(of_stage)[0]).min(axis=1)))
        router = replace(router, confidence_bound=float(np.quantile(confidence, 0.2)))
        stages.append(Stage(name, BLOCKS if name == "blocks" else 0, router, doubt))
    return Cascade(tuple(stages), losses, np.array(groups), judge)


def sessions(folder, tower, cascade):
    """Every stage as a graph, opened."""
    with (folder / "backbone.bin").open("wb") as shared, (folder / "router.bin").open("wb") as own:
        backbone = Backbone(ARCHITECTURE, tower.merged.backbone(), WeightFile(shared, "backbone.bin"))
        weights = WeightFile(own, "router.bin")
        for number, stage in enumerate(cascade.stages):
            write_stage(folder / STAGES[stage.name], cascade, number, backbone, "fp32", weights)
    return [ort.InferenceSession(folder / STAGES[s.name], providers=["CPUExecutionProvider"]) for s in cascade.stages]


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("shape", SHAPES, ids="-".join)
def test_every_stage_computes_what_its_router_does(tmp_path, tower, features, shape, groups):
    cascade = build(tower, features, shape, groups)
    plain = tower.embed(torch.from_numpy(PIXELS)).numpy()
    opened = sessions(tmp_path, tower, cascade)
    for count in (1, 2, 7):
        given = {"pixel_values": PIXELS[:count], "image_embeds": plain[:count]}
        for stage, session in zip(cascade.stages, opened, strict=True):
            of_stage = features[:count, columns(tower, stage.name, shape)]
            read = {item.name: given[item.name] for item in session.get_inputs()}
            outputs = dict(zip([item.name for item in session.get_outputs()], session.run(None, read), strict=True))
            posterior, confidence = stage.router.posterior(of_stage)
            np.testing.assert_allclose(outputs["posterior"], posterior, atol=1e-4)
            np.testing.assert_allclose(outputs["confidence"], confidence, rtol=1e-4, atol=1e-3)
            expected = cascade.expected(posterior)
            leads = np.ptp(np.sort(posterior @ np.eye(TASKS)[groups], axis=1)[:, -2:], axis=1) > 1e-3
            alone = len(set(groups)) == 1
            np.testing.assert_allclose(outputs["losses"][leads | alone], expected[leads | alone], atol=1e-4)
            assert ("features" in outputs) == (stage is not cascade.stages[-1])
            if "features" in outputs:
                np.testing.assert_allclose(outputs["features"], of_stage, atol=2e-4)
                given["previous_features"] = outputs["features"]


def test_tasks_that_do_not_compete_have_no_share(tmp_path, tower, features):
    cascade = build(tower, features, ("pixels",), GROUPS["one"])
    (session,) = sessions(tmp_path, tower, cascade)
    router = cascade.stages[0].router
    scores, nearness = router.scores(features[:, :620])
    for mask in np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], np.float32):
        names = ["posterior", "losses", "confidence"]
        posterior, losses, confidence = session.run(names, {"pixel_values": PIXELS, "task_mask": mask})
        expected = np.zeros_like(scores)
        expected[:, mask > 0] = softmax(scores[:, mask > 0] / router.temperature)
        np.testing.assert_allclose(posterior, expected, atol=1e-4)
        assert (posterior[:, mask == 0] == 0).all()
        np.testing.assert_allclose(losses, cascade.expected(expected), atol=1e-4)
        np.testing.assert_allclose(confidence, router.confidence(expected, nearness), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]], ids="-".join)
def test_a_bundle_decides_as_the_merged_model(tmp_path, monkeypatch, tower, features, shape, top_k):
    merged = tower.merged
    logits = np.array([[30.0, 31.0, 30.0], [6.0, 5.0, 8.0]])
    judge = Judge(*logits, trust=0.5, unsure=0.0, bound=-1.5)
    cascade = build(tower, features, shape, GROUPS["two"], judge)
    monkeypatch.setattr(type(merged), "cascade", lambda self: cascade)
    other = GatedTower(merged)
    decisions = other.route(torch.from_numpy(PIXELS), cascade if top_k == 1 else cascade.without_judge())
    export_bundle(merged.path, tmp_path / "bundle", ExportOptions(top_k))
    with EdgeModel.open(tmp_path / "bundle", threads=1, verify=True) as model:
        routes = model.scope.route(PIXELS)
        assert (model.bundle.index.router.judge is None) == (top_k == 2)
    stages = [*shape, "experts"]
    assert set(decisions.stage) == set(range(len(shape) + (top_k == 1)))
    assert len(set(decisions.choice)) >= 3
    for number, route in enumerate(routes):
        assert route.stage == stages[decisions.stage[number]]
        choice = decisions.choice[number]
        order = np.argsort(decisions.expected[number, :TASKS], kind="stable")
        chosen = [] if choice == TASKS else [choice] if top_k == 1 else order[:top_k]
        assert route.tasks == tuple(f"task{t}" for t in chosen)
        np.testing.assert_allclose(route.posterior, decisions.posterior[number], atol=1e-4)
        np.testing.assert_allclose(route.confidence, decisions.confidence[number], rtol=1e-4, atol=1e-3)
        if top_k == 1 or not route.tasks:
            np.testing.assert_allclose(route.expected_loss, decisions.expected[number, choice], atol=1e-4)


def test_groups_of_a_merged_model_are_those_of_its_bundle(tmp_path):
    merged = write_merged(tmp_path / "merged", groups=("scans", None, "scans"))
    with EdgeModel.open(export_bundle(merged.path, tmp_path / "bundle").path, threads=1) as model:
        assert model.bundle.index.router.groups == {"scans": ("task0", "task2")}
        routes = model.scope.routed.route(PIXELS, group="scans")
    assert {task for route in routes for task in route.tasks} <= {"task0", "task2"}
    assert all(route.posterior[1] == 0 for route in routes)
    assert {route.group for route in routes if route.tasks} <= {"scans"}
