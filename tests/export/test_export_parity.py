"""The export's gate: PyTorch and ONNX agree for every kind of merged model, and a graph that is wrong does not get out."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge_export import ParityError, export_bundle
from mingle_edge_export.bundle import image_scope
from mingle_edge_export.check.route_parity import RouteMismatchError, agreeing_routes
from mingle_edge_export.graph.builder import Graph, WeightFile
from mingle_edge_export.tower.expert_inputs import ExpertInputs
from mingle_edge_export.tower.routed_experts import RoutedExperts


@settings(max_examples=10)
@given(
    scope=st.sampled_from(["image", "layer"]),
    tasks=st.integers(1, 4),
    rank=st.integers(1, 60),  # up to more than the smaller sides of the layers
    layers=st.sampled_from(["attn+mlp", "qkv+fc1"]),
    activation=st.sampled_from(["quick_gelu", "gelu"]),
    mlp_width=st.sampled_from([32, 80]),  # with 32 ranks differ within a block
    depth=st.integers(1, 3),
    router_blocks=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_every_kind_of_model_passes(scope, tasks, rank, layers, activation, mlp_width, depth, router_blocks, seed):
    with tempfile.TemporaryDirectory() as folder:
        merged = write_merged(
            Path(folder) / "merged",
            scope="layer" if scope == "layer" else "image",
            tasks=tasks,
            rank=rank,
            layers=layers,
            architecture=dataclasses.replace(ARCHITECTURE, activation=activation, mlp_width=mlp_width, layers=depth),
            router_blocks=router_blocks,
            seed=seed,
        )
        parity = export_bundle(merged.path, Path(folder) / "bundle").parity
    assert parity.cosine >= 0.99999
    assert parity.max_abs <= 1e-4
    assert parity.posterior <= 1e-3
    assert parity.near_ties <= 2


def rewired(operator: str, replacement: str):
    """Graph.op with one operator in place of another."""

    def op(self, name, *inputs, **attributes):
        return right_op(self, replacement if name == operator else name, *inputs, **attributes)

    return op


def baked_batch(self, name, *inputs, **attributes):
    """The batch size is that of an example."""
    return self.integers(1) if name == "Shape" else right_op(self, name, *inputs, **attributes)


def doubled_expert(self, layers, x, tokens, outputs):
    added = right_experts(self, layers, x, tokens, outputs)
    if "blocks.1.fc2" not in layers:
        return added
    return [self.graph.op("Add", z, self.graph.op("Sub", z, y)) for z, y in zip(added, outputs, strict=True)]


def lost_factor(*arguments):
    values = right_values(*arguments)
    return values | {"projection.B": 0 * values["projection.B"]}


def another_vector(self, tensor):
    return right_location(self, "ln_post.weight" if tensor == "ln_pre.weight" else tensor)


def wrong_stage(path, cascade, number, *rest):
    stages = list(cascade.stages)
    router = stages[-1].router
    stages[-1] = dataclasses.replace(
        stages[-1], router=dataclasses.replace(router, bias=router.bias + np.array([0.0, 1e4, 0.0]))
    )
    right_stage(path, dataclasses.replace(cascade, stages=tuple(stages)), number, *rest)


def lost_groups(path, cascade, *rest):
    right_stage(path, dataclasses.replace(cascade, groups=np.zeros(3, np.int64)), *rest)


def class_token_alone(self, x, width):
    """What a gate reads in place of the mean over tokens."""
    by_image = self.graph.op("Reshape", x.value, self.graph.integers(-1, x.count, width))
    return self.graph.op("Slice", by_image, *(self.graph.integers(i) for i in (0, 1, 1)))


right_op, right_experts, right_location = Graph.op, ExpertInputs.add_experts, WeightFile.location
right_values, right_stage = image_scope.expert_values, image_scope.write_stage


@pytest.mark.parametrize(
    ("scope", "where", "name", "fault", "message"),
    [
        ("image", Graph, "op", rewired("Sigmoid", "Tanh"), r"dense tower, batch 1: cosine 0\.\d+ \(at least 0.99999\)"),
        ("image", Graph, "op", baked_batch, r"dense tower, batch 2: does not run \("),
        ("image", ExpertInputs, "add_experts", doubled_expert, "expert task0, batch 1: cosine"),
        ("image", image_scope, "expert_values", lost_factor, "expert task0, batch 1: cosine"),
        ("image", WeightFile, "location", another_vector, "mixture of two, batch 1: cosine"),
        ("image", image_scope, "write_stage", wrong_stage, r"router, \w+, batch \d: probabilities or expected losses differ"),
        ("image", image_scope, "write_stage", lost_groups, "router, pixels, batch 1: probabilities or expected losses differ"),
        ("layer", Graph, "op", rewired("Abs", "Identity"), "top 1, batch 1: image 0 takes other experts in gated layer"),
        ("layer", RoutedExperts, "token_mean", class_token_alone, "top 1, batch 1: image 0 takes other experts"),
    ],
)
def test_a_wrong_graph_is_not_exported(tmp_path, monkeypatch, scope, where, name, fault, message):
    merged = write_merged(tmp_path / "merged", scope=scope, groups=("one", "two", "one"))
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(ParityError, match=f"^the graphs do not compute what PyTorch does: {message}"):
        export_bundle(merged.path, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def routes(gates, k):
    """Tasks and gate values `[n, layers, k]` by largest `|gate|`."""
    tasks = np.argsort(-np.abs(gates), axis=2)[:, :, :k]
    return tasks, np.take_along_axis(gates, tasks, axis=2)


@given(k=st.integers(1, 5), seed=st.integers(0, 999))
def test_rounding_is_no_other_route(k, seed):
    random = np.random.default_rng(seed)
    gates = random.standard_normal((4, 6, 5)).astype(np.float32)
    rounded = gates + np.float32(1e-6) * random.standard_normal(gates.shape).astype(np.float32)
    agree = agreeing_routes(routes(gates, k), routes(rounded, k), np.ones((6, 5), np.float32))
    margins = np.diff(np.sort(np.abs(gates), axis=2)[:, :, ::-1], axis=2)[:, :, k - 1 : k]
    assert agree[(np.abs(margins) > 1e-4).all(axis=(1, 2))].all()


def test_equal_contributions_may_be_exchanged_and_unequal_ones_not():
    norms = np.array([[1, 2], [1, 1]], np.float32)
    tasks, gates = np.array([[[0], [0]], [[1], [1]]]), np.array([[[2], [1]], [[3], [1]]], np.float32)
    assert agreeing_routes((tasks, gates), (tasks, gates), norms).tolist() == [True, True]
    other_tasks, other_gates = tasks.copy(), gates.copy()
    other_tasks[0, 0, 0], other_gates[0, 0, 0] = 1, -1  # contributes 2, as the other did
    other_tasks[0, 1, 0], other_gates[0, 1, 0] = 1, 9  # follows from it
    assert agreeing_routes((tasks, gates), (other_tasks, other_gates), norms).tolist() == [False, True]
    other_gates[0, 0, 0] = 0.9
    with pytest.raises(RouteMismatchError, match="image 0 takes other experts in gated layer 0"):
        agreeing_routes((tasks, gates), (other_tasks, other_gates), norms)
    with pytest.raises(RouteMismatchError, match=r"gate values of image 1, gated layer 1 differ by 5\.0e-01"):
        agreeing_routes((tasks, gates), (tasks, gates * np.array([[[1], [1]], [[1], [0.5]]], np.float32)), norms)
