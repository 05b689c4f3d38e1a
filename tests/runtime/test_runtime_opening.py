"""Opening a bundle: low memory, the router that waits until it is needed, providers and threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_bundle import KINDS, TASKS, images
from tiny_merged import write_merged

from mingle_edge_export import export_bundle
from mingle_edge_runtime import BudgetError, EdgeModel, ProviderError
from mingle_edge_runtime.bundle.graph import Graph
from mingle_edge_runtime.ort.memory import mapped_bytes
from mingle_edge_runtime.ort.session import Session
from mingle_edge_runtime.scopes import cascade, image_scope, layer_scope

IMAGES = images(0, 2, 3, 1, 1, 0, 3, 2, seed=1)  # 3, black, belongs to no task


@pytest.mark.parametrize("kind", KINDS)
def test_low_memory_changes_no_result_beyond_rounding_and_nothing_else_changes_its_results(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], threads=1) as model:
        usual = model.embed(IMAGES)
        least = kind[1] * model.bundle.index.tasks[0].expert_bytes
    with EdgeModel.open(bundles[kind], threads=1, low_memory=True) as model:
        fresh = [model.embed(image) for image in IMAGES]
        np.testing.assert_allclose(model.embed(IMAGES), usual, atol=1e-6)
    with EdgeModel.open(bundles[kind], expert_budget=least, threads=1, low_memory=True) as model:
        for i in (7, 0, 3, 5, 1, 6, 0):
            np.testing.assert_array_equal(model.embed(IMAGES[i]), fresh[i])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the files a process has mapped")
@pytest.mark.parametrize(("scope", "files"), [("image", ["backbone.bin", "router.bin"]), ("layer", ["backbone.bin"])])
def test_low_memory_leaves_the_weights_of_every_graph_mapped(tmp_path, scope: str, files: list[str]) -> None:
    bundle = export_bundle(write_merged(tmp_path / "merged", scope=scope).path, tmp_path / "bundle").path
    mapped = []
    for low_memory in (False, True):
        with EdgeModel.open(bundle, low_memory=low_memory) as model:
            model.embed(IMAGES)
            mapped.append(mapped_bytes(bundle))
    for name in files:  # what is not multiplied, as a bias, is mapped in any case
        assert mapped[1][name] > 2 * mapped[0][name]


def test_the_router_is_opened_once_by_the_first_who_needs_a_route(bundles, monkeypatch) -> None:
    opened: list[str] = []

    def record(graph: Graph, *arguments, **options) -> Session:
        opened.append(graph.path.name)
        return Session(graph, *arguments, **options)

    for module in (image_scope, cascade):
        monkeypatch.setattr(module, "Session", record)
    with EdgeModel.open(bundles["image", 1]) as model:
        model.embed(IMAGES, task="red")
        assert opened == ["tower.onnx"]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(model.embed, [IMAGES] * 4))
        assert opened == ["tower.onnx", "router.onnx"]
    with EdgeModel.open(bundles["image", 1]) as model:
        model.prepare_routing()
        model.route(IMAGES)
        assert opened == 2 * ["tower.onnx", "router.onnx"]
    with EdgeModel.open(bundles["layer", 1]) as model:
        model.prepare_routing()


def test_a_provider_that_copies_makes_all_layers_experts_resident_and_says_so(bundles, monkeypatch) -> None:
    with EdgeModel.open(bundles["layer", 2]) as model:
        expected = model.embed(IMAGES)
    monkeypatch.setattr(layer_scope, "CPU", "no provider")  # so that the one at hand counts as one that copies
    with EdgeModel.open(bundles["layer", 2]) as model:
        np.testing.assert_array_equal(model.embed(IMAGES), expected)
        model.prefetch(TASKS)
        model.pin(TASKS)
        size = sum(task.expert_bytes for task in model.bundle.index.tasks)
        assert model.stats().resident_bytes == size
        assert model.stats().notes == ("CPUExecutionProvider copied all experts to its device",)
        model.set_expert_budget(size)
        with pytest.raises(BudgetError, match=f"budget of {size - 1} bytes .* keeps all experts resident, needs {size}"):
            model.set_expert_budget(size - 1)
        assert model.stats().budget == size
    with pytest.raises(BudgetError, match=f"CPUExecutionProvider, which keeps all experts resident, needs {size}"):
        EdgeModel.open(bundles["layer", 2], expert_budget=size - 1)


def test_a_provider_that_does_not_start_is_named(bundles) -> None:
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ProviderError, match=r"CUDAExecutionProvider could not be started for dense.onnx: .* fell back to CPU"),
    ):
        Session(bundles["image", 1] / "dense.onnx", ["CUDAExecutionProvider"])


def test_providers_and_threads_are_checked(bundles) -> None:
    with pytest.raises(ProviderError, match=r"provider 'cuda' is not available; this ONNX Runtime has .*cpu; for NVIDIA"):
        EdgeModel.open(bundles["image", 1], providers=["cuda", "cpu"])
    with pytest.raises(ProviderError, match="threads is 0, must be at least 1"):
        EdgeModel.open(bundles["image", 1], threads=0)
    for providers in (["cpu"], ["CPUExecutionProvider"]):
        with EdgeModel.open(bundles["image", 1], providers=providers) as model:
            assert len(model.embed(IMAGES)) == 8
