"""The baselines compute what they claim to: against numpy, and by what they open and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import GOLDEN_IMAGES, SPEC, TASKS, Weights, flat

from mingle_edge_runtime import Bundle, EdgeError
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import CPU
from mingle_edge_runtime.profile import baselines
from mingle_edge_runtime.profile.baselines import BUILDERS, Setting, check_baselines
from mingle_edge_runtime.profile.interleaving import Requests

PIXELS = preprocess(GOLDEN_IMAGES, SPEC)


@pytest.fixture(scope="module")
def settings(bundles) -> dict[str, Setting]:
    """A setting for a bundle of each scope, whose requests change the task every second time."""
    requests = Requests(len(TASKS), 2)
    return {scope: Setting(Bundle.open(bundles[scope, 1]), requests, [CPU], 1) for scope in ("image", "layer")}


def dense_reference(scope: str) -> np.ndarray:
    """Embeddings of the tower without experts."""
    return Weights().image_scope(flat(PIXELS), [], []) if scope == "image" else Weights().layer_scope(flat(PIXELS), 0)[0]


def embeds(outputs: object) -> np.ndarray:
    """The embeddings of a run, whatever it returns beside them."""
    return outputs["image_embeds"] if isinstance(outputs, dict) else outputs[0]


@pytest.mark.parametrize("scope", ["image", "layer"])
@pytest.mark.parametrize("name", ["dense", "separate-models", "reload"])
def test_models_without_experts_are_the_plain_tower(settings, scope: str, name: str) -> None:
    run = BUILDERS[name](settings[scope])
    for request in range(7):
        np.testing.assert_allclose(embeds(run(PIXELS, request)), dense_reference(scope), rtol=1e-4, atol=1e-6)


def test_all_experts_are_the_equal_mixture(settings) -> None:
    reference = Weights().image_scope(flat(PIXELS), [0, 1, 2], [1 / 3] * 3)
    actual = embeds(BUILDERS["all-experts"](settings["image"])(PIXELS, 0))
    np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-6)


def test_all_experts_of_the_layer_scope_are_weighted_by_the_gates(settings) -> None:
    reference, _ = Weights().layer_scope(flat(PIXELS), len(TASKS))
    actual = embeds(BUILDERS["all-experts"](settings["layer"])(PIXELS, 0))
    np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-6)


def test_reload_opens_at_each_switch_and_separate_models_at_none(settings, monkeypatch) -> None:
    opened: list[Path] = []
    session = baselines.Session
    monkeypatch.setattr(
        baselines, "Session", lambda path, *more, **options: (opened.append(path), session(path, *more, **options))[1]
    )
    run = BUILDERS["reload"](settings["image"])
    counts = []
    for request in range(6):
        run(PIXELS, request)
        counts.append(len(opened))
    assert counts == [1, 1, 2, 2, 3, 3]
    opened.clear()
    run = BUILDERS["separate-models"](settings["image"])
    assert len(opened) == len(TASKS)
    for request in range(6):
        run(PIXELS, request)
    assert len(opened) == len(TASKS)


def test_separate_models_that_do_not_fit_are_refused(settings, monkeypatch) -> None:
    bundle = settings["image"].bundle
    monkeypatch.setattr(baselines, "available_memory", lambda: 3 * (bundle.root / "backbone.bin").stat().st_size)
    with pytest.raises(EdgeError, match=r"separate-models keeps 3 dense models in memory, about .* leave it out"):
        check_baselines(["dense", "separate-models"], bundle)
    check_baselines(["dense", "reload"], bundle)
    monkeypatch.setattr(baselines, "available_memory", lambda: None)
    check_baselines(["separate-models"], bundle)


def test_a_bundle_without_experts_has_none_to_compute(settings) -> None:
    bundle = settings["image"].bundle
    tasks = tuple(replace(task, expert=None) for task in bundle.index.tasks)
    folded = replace(bundle, index=replace(bundle.index, tasks=tasks))
    with pytest.raises(EdgeError, match="all-experts computes every expert, and image1 has none: leave it out"):
        check_baselines(["all-experts"], folded)
    check_baselines(["dense", "reload"], folded)


def test_experts_heads_and_golden_files_are_no_backbone(settings) -> None:
    for setting in settings.values():
        files = setting.bundle.root
        expected = sum((files / name).stat().st_size for name in ("backbone.bin", "dense.onnx", "tower.onnx"))
        router = files / "router.onnx"
        expected += router.stat().st_size if router.exists() else 0
        assert baselines.backbone_bytes(setting.bundle) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [(["dens"], "there is no baseline 'dens'; choose from dense, all-experts"), (["dense", "dense"], "given twice")],
)
def test_unknown_baselines_are_refused(settings, names, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        check_baselines(names, settings["image"].bundle)
