"""Gated linear layers as graphs against a plain computation in numpy, and the page bank they read."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.tower.page_bank import PAGE_VALUES, PageLayout, write_expert
from mingle_edge_export.tower.routed_experts import BLOCK_SCALES, LayerGates, RoutedExperts, expert_norm
from mingle_edge_export.tower.vision_tower import Backbone, Tokens

LAYERS = ["blocks.0.q", "blocks.0.v"]  # read the same input
WIDTH, TOKENS = ARCHITECTURE.width, ARCHITECTURE.tokens


class Layers:
    """Two gated layers with random experts of T tasks, whose ranks may differ, and their outputs in numpy."""

    def __init__(self, ranks: list[int], seed: int) -> None:
        random = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return random.standard_normal(shape).astype(np.float32) / np.float32(4)

        self.backbone = {f"{layer}.weight": normal(WIDTH, WIDTH) for layer in LAYERS}
        self.backbone |= {f"{layer}.bias": normal(WIDTH) for layer in LAYERS}
        self.experts = [
            {f"{layer}.A": normal(rank, WIDTH) for layer in LAYERS} | {f"{layer}.B": normal(WIDTH, rank) for layer in LAYERS}
            for rank in ranks
        ]
        self.gates = {
            layer: LayerGates(
                normal(WIDTH, len(ranks)),
                normal(len(ranks)),
                np.array([np.linalg.norm(e[f"{layer}.B"] @ e[f"{layer}.A"]) for e in self.experts], np.float32),
            )
            for layer in LAYERS
        }
        self.rank = max(ranks)

    def session(self, folder, top_k: int, precision: str = "fp32") -> ort.InferenceSession:
        """Both layers as one graph `x [batch, N, width]` -> `y0`, `y1`, `tasks`, `weights`."""
        layout = PageLayout.of(ARCHITECTURE, dict.fromkeys(LAYERS, self.rank), precision)
        with (
            (folder / "experts.bin").open("wb") as bank,
            (folder / "backbone.bin").open("wb") as file,
            (folder / "gates.bin").open("wb") as gate_file,
        ):
            scales = [write_expert(bank, layout, expert) for expert in self.experts]
            gates = self.gates
            if precision == "int8":
                rows = {layer: np.stack([task.rows[layer] for task in scales]) for layer in LAYERS}
                gates = {layer: dataclasses.replace(gate, row_scales=rows[layer]) for layer, gate in gates.items()}
            if precision == "int4":
                (folder / f"{BLOCK_SCALES}.bin").write_bytes(np.concatenate([task.blocks for task in scales]).tobytes())
            graph = Graph("layers")
            x = graph.input("x", ["batch", TOKENS, WIDTH])
            weights = WeightFile(file, "backbone.bin")
            blocks = f"{BLOCK_SCALES}.bin" if precision == "int4" else None
            layers = RoutedExperts(
                graph,
                Backbone(ARCHITECTURE, self.backbone, weights),
                layout,
                gates,
                WeightFile(gate_file, "gates.bin"),
                "experts.bin",
                top_k,
                block_scales=blocks,
            )
            rows = Tokens(graph.op("Reshape", x, graph.integers(-1, WIDTH)), TOKENS)
            for i, y in enumerate(layers.linear(LAYERS, rows)):
                by_image = graph.op("Reshape", y.value, graph.integers(-1, TOKENS, WIDTH))
                graph.output(f"y{i}", by_image, ["batch", TOKENS, WIDTH])
            tasks, values = layers.routes()
            graph.output("tasks", tasks, ["batch", 2, "k"], kind=7)
            graph.output("weights", values, ["batch", 2, "k"])
        graph.save(folder / "layers.onnx")
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        return ort.InferenceSession(folder / "layers.onnx", options, providers=["CPUExecutionProvider"])

    def reference(self, layer: str, x: np.ndarray, k: int, mask: np.ndarray) -> tuple[np.ndarray, list[set[int]]]:
        """`y [batch, N, width]`, and the chosen tasks of each image among those allowed."""
        gate = self.gates[layer]
        y = x @ self.backbone[f"{layer}.weight"].T.astype(np.float64) + self.backbone[f"{layer}.bias"]
        chosen = []
        for n in range(len(x)):
            values = x[n].mean(axis=0) @ gate.weight + gate.bias
            order = [int(t) for t in np.argsort(-np.abs(values) * gate.norms) if mask[t] > 0][:k]
            for t in order:
                A, B = self.experts[t][f"{layer}.A"], self.experts[t][f"{layer}.B"]
                y[n] += values[t] * (x[n] @ A.T @ B.T)
            chosen.append(set(order))
        return y, chosen


@given(
    ranks=st.lists(st.integers(1, 48), min_size=1, max_size=5),
    batch=st.integers(1, 3),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_routed_layers_compute_what_the_formula_says(tmp_path_factory, ranks, batch, seed, data):
    layers, count = Layers(ranks, seed), len(ranks)
    k = data.draw(st.integers(1, count), "k")
    mask = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count), "mask"), np.float32)
    session = layers.session(tmp_path_factory.mktemp("layers"), top_k=1)
    x = np.random.default_rng(seed + 1).standard_normal((batch, TOKENS, WIDTH)).astype(np.float32)
    *outputs, tasks, weights = session.run(None, {"x": x, "top_k": np.array([k]), "task_mask": mask})
    assert tasks.shape == weights.shape == (batch, 2, k)
    for i, layer in enumerate(LAYERS):
        expected, chosen = layers.reference(layer, x.astype(np.float64), k, mask)
        np.testing.assert_allclose(outputs[i], expected, atol=2e-4)
        for n in range(batch):
            used = {int(t) for t, w in zip(tasks[n, i], weights[n, i], strict=True) if mask[t] > 0}
            assert used == chosen[n]
        assert (weights[:, i][mask[tasks[:, i]] == 0] == 0).all()


@pytest.mark.parametrize(("precision", "error"), [("fp16", 2e-3), ("int8", 0.03), ("int4", 0.25)])
@given(ranks=st.lists(st.integers(1, 48), min_size=1, max_size=4), seed=st.integers(0, 999), data=st.data())
def test_what_an_expert_adds_keeps_its_precision(tmp_path_factory, precision, error, ranks, seed, data):
    """One image, as images with integer activations are run; the error is relative to what the experts add."""
    layers, count = Layers(ranks, seed), len(ranks)
    k = data.draw(st.integers(1, count), "k")
    session = layers.session(tmp_path_factory.mktemp("layers"), k, precision)
    x = np.random.default_rng(seed + 1).standard_normal((1, TOKENS, WIDTH)).astype(np.float32)
    outputs = session.run(["y0", "y1"], {"x": x})
    for output, layer in zip(outputs, LAYERS, strict=True):
        exact, _ = layers.reference(layer, x.astype(np.float64), k, np.ones(count))
        plain = x @ layers.backbone[f"{layer}.weight"].T.astype(np.float64) + layers.backbone[f"{layer}.bias"]
        added = np.linalg.norm(exact - plain)
        assert np.linalg.norm(output - exact) <= error * added + 1e-4
        assert np.linalg.norm(output - exact) < np.linalg.norm(output - plain)


def test_top_k_has_the_default_it_was_exported_with(tmp_path):
    session = Layers([3, 4, 5], 0).session(tmp_path, top_k=2)
    tasks = session.run(["tasks"], {"x": np.ones((1, TOKENS, WIDTH), np.float32)})[0]
    assert tasks.shape == (1, 2, 2)
    with pytest.raises(Exception, match="k"):  # ONNX Runtime's errors share no base class
        session.run(None, {"x": np.ones((1, TOKENS, WIDTH), np.float32), "top_k": np.array([4])})


@given(
    ranks=st.dictionaries(st.sampled_from(ARCHITECTURE.block_linears()), st.integers(1, 300), min_size=1),
    precision=st.sampled_from(["fp32", "fp16", "int8", "int4"]),
)
def test_layers_own_consecutive_pages_in_order_of_depth(ranks, precision):
    layout = PageLayout.of(ARCHITECTURE, ranks, precision)
    page, page_bytes = PAGE_VALUES[precision], layout.page_elements * layout.dtype.itemsize
    assert page_bytes % 4096 == 0
    assert [slot.layer for slot in layout.slots] == [layer for layer in ARCHITECTURE.block_linears() if layer in ranks]
    end = 0
    for slot in layout.slots:
        d_out, d_in = ARCHITECTURE.linear_shape(slot.layer)
        assert slot.first_page == end
        assert slot.pages_of_A * page >= slot.rank * d_in > (slot.pages_of_A - 1) * page
        assert slot.pages_of_B * page >= slot.rank * d_out > (slot.pages_of_B - 1) * page
        end += slot.pages
    assert layout.bytes_per_task == page_bytes * end


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_an_expert_of_smaller_rank_is_written_as_one_filled_up_with_zeros(tmp_path, precision):
    merged = write_merged(tmp_path / "merged", scope="layer", rank=3)
    layers = merged.architecture.block_linears()
    layout = PageLayout.of(ARCHITECTURE, dict.fromkeys(layers, 90), precision)  # A and B take several pages
    expert = merged.expert("task0")
    padded = {
        name: np.pad(value, ((0, 87), (0, 0)) if name.endswith(".A") else ((0, 0), (0, 87))) for name, value in expert.items()
    }
    banks = [io.BytesIO(), io.BytesIO()]
    for bank, values in zip(banks, (expert, padded), strict=True):
        write_expert(bank, layout, values)
    assert banks[0].getvalue() == banks[1].getvalue()
    assert len(banks[0].getvalue()) == layout.bytes_per_task


@given(rank=st.integers(1, 20), seed=st.integers(0, 999))
def test_norm_of_a_product_without_the_product(rank, seed):
    random = np.random.default_rng(seed)
    A, B = random.standard_normal((rank, 30)).astype(np.float32), random.standard_normal((17, rank)).astype(np.float32)
    np.testing.assert_allclose(expert_norm(A, B), np.linalg.norm(B.astype(float) @ A), rtol=1e-6)
