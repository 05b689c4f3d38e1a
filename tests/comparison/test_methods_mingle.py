"""MINGLE as a compared method, against the paper's computation written a second time and against what is deployed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from official_mingle import OfficialMingle
from tiny_compared import TinyComparison

from mingle_edge.comparison.methods.mingle import chosen_linear
from mingle_edge.comparison.methods.towers import backbone_embeddings
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.image_set import ImageSet
from mingle_edge.evaluation.answers import predict_within
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge.experts.finetuned_task import FinetunedTask
from mingle_edge.gates.gating import ExpertStack, GatedExperts, GatedLinear
from mingle_edge.merging.merge import merge

NAMES = [name for name, spec in SPECS.items() if spec.implementation == "mingle:LayerScope"]
QUICK = {"rank": 8, "steps": 6, "learning_rate": 0.003}  # LAYER_SETTINGS of conftest


@pytest.fixture(scope="module")
def tiny(layer_task_file):
    return TinyComparison(layer_task_file, **QUICK)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("static-experts", {}),
        ("mingle", {"components": "adaptation"}),
        ("mingle", {"components": "frozen-gates"}),
        ("mingle", {"relaxation": 0.0}),
        ("mingle", {}),
        ("mingle-star", {}),
    ],
)
def test_official_semantics_equal_a_second_writing_of_the_papers_code(tiny, name, changes):
    few = {"batch_size": 4, "steps": 9, "learning_rate": 1e-3}  # batches of 4 and 2 of the six seeds
    method = tiny.built(name, **few, **changes)
    official = OfficialMingle(
        tiny.backbone,
        tiny.architecture,
        tiny.tasks[0].head.logit_scale,
        rank=QUICK["rank"],
        layers=("q", "k", "v", "fc1") if name == "mingle-star" else ("q", "k", "v", "out", "fc1", "fc2"),
        steps=few["steps"],
        lr=few["learning_rate"],
        batch=few["batch_size"],
        gamma=changes.get("relaxation", 1.0),
        parts=changes.get("components", "experts" if name == "static-experts" else "null-space"),
    )
    for t, task in enumerate(tiny.tasks):
        method.add(task)
        official.add(
            task.name,
            task.finetuned,
            task.head.weight,
            task.calibration_images.load(range(len(task.calibration_images)), tiny.architecture),
        )
        for of, merged in enumerate(tiny.tasks):
            batch = tiny.batches[merged.name]
            pairs = [(method.answer(batch).embeds, official.embed(batch.images))]
            if of <= t:
                pairs.append((method.answer_named(batch, merged.name), official.embed(batch.images, only=of)))
            for ours, theirs in pairs:
                torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-6)
                assert predict_within(ours, merged.head).equal(predict_within(theirs, merged.head))


@pytest.mark.parametrize(
    ("name", "top_k", "pooling"),
    [("mingle-exact", None, "image"), ("mingle-exact-top1", 1, "image"), ("mingle-exact-pooled", None, "batch")],
)
def test_accuracies_equal_those_of_the_model_merged_into_a_folder(tiny, layer_model, layer_task_file, name, top_k, pooling):
    report = evaluate(layer_model.path, layer_task_file, top_k=top_k, pooling=pooling, device="cpu")
    after_own, final, summary = tiny.history(tiny.built(name))
    assert (after_own, final) == (report.after_own, report.final)
    assert summary == {p: (report.acc(p), report.bwt(p)) for p in summary}


def test_gates_are_those_of_the_model_merged_into_a_folder_bit_for_bit(tiny, layer_model):
    method = tiny.merged("mingle-exact")
    for t, name in enumerate(layer_model.task_names):
        expert, gates = layer_model.expert(name), layer_model.gates(name)
        for layer, gated in method.state.experts.items():
            assert gated.experts.A[t].numpy().tobytes() == expert[f"{layer}.A"].tobytes()
            assert gated.experts.B[t].numpy().tobytes() == expert[f"{layer}.B"].tobytes()
            assert gated.gate_weight[t].numpy().tobytes() == gates[layer][0].tobytes()
            assert gated.gate_bias[t].numpy().tobytes() == gates[layer][1].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_add_up(tiny, name):
    method = tiny.merged(name, steps=1)
    backbone = 4 * sum(tensor.numel() for tensor in tiny.backbone.values())
    width, mlp, blocks = tiny.architecture.width, tiny.architecture.mlp_width, tiny.architecture.layers
    star = "star" in name
    sides = 3 * [(width, width)] + [(width, mlp)] + ([] if star else [(width, width), (mlp, width)])
    expert = 4 * blocks * sum(8 * (d_in + d_out) for d_in, d_out in sides)
    gates = 4 * blocks * sum(d_in + 1 for d_in, _ in sides)
    router = method.router.stored_bytes() if name == "mingle-routed" else 0
    assert method.stored_bytes() == backbone + 3 * (expert + gates) + router
    read = {"mingle-top1": (1, 3), "mingle-exact-top1": (1, 3), "mingle-routed": (1, 1)}.get(name, (3, 3))
    assert method.active_bytes() == backbone + read[0] * expert + read[1] * gates + router
    assert method.bytes_per_task() == expert + gates


def test_the_router_names_the_one_expert_whose_gates_are_used(tiny):
    method = tiny.merged("mingle-routed")
    for name, batch in tiny.batches.items():
        answer = method.answer(batch)
        assert answer.routed.tolist().count([task.name for task in tiny.tasks].index(name)) >= 5
        plain = backbone_embeddings(batch, method.workbench)
        for i, task in enumerate(answer.routed.tolist()):
            expected = method.answer_named(batch, tiny.tasks[task].name) if task >= 0 else plain
            torch.testing.assert_close(answer.embeds[i], expected[i], rtol=0, atol=2e-6)


def test_adapting_old_gates_changes_what_an_older_task_gets_and_nothing_else_does(tiny):
    batch = tiny.batches["task0"]
    for changes, moves in (({"components": "adaptation"}, True), ({"components": "frozen-gates"}, False), ({}, False)):
        method = tiny.built("mingle-per-image", **changes)
        method.add(tiny.tasks[0])
        before = method.answer_named(batch, "task0")
        method.add(tiny.tasks[1])
        assert (not method.answer_named(batch, "task0").equal(before)) == moves


def test_without_seeds_gates_stay_at_the_constant(tiny):
    bare = [FinetunedTask(task.name, task.finetuned, task.head, ImageSet([])) for task in tiny.tasks]
    unlearned, static = tiny.built("mingle"), tiny.built("static-experts")
    for without, task in zip(bare, tiny.tasks, strict=True):
        unlearned.add(without)
        static.add(task)
    batch = tiny.batches["task2"]
    torch.testing.assert_close(unlearned.answer(batch).embeds, static.answer(batch).embeds, rtol=0, atol=0)


@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9)),
    st.integers(1, 5),
)
def test_multiplying_only_the_chosen_experts_gives_the_same_layers(seed, shape, top_k):
    T, rank, d_in, d_out = shape
    g = torch.Generator().manual_seed(seed)
    stack = ExpertStack(torch.randn(T, rank, d_in, generator=g), torch.randn(T, d_out, rank, generator=g))
    gated = {"l": GatedExperts(stack, torch.randn(T, d_in, generator=g), torch.randn(T, generator=g))}
    parameters = {"l.weight": torch.randn(d_out, d_in, generator=g), "l.bias": torch.randn(d_out, generator=g)}
    x = torch.randn(5, 7, d_in, generator=g)
    expected = GatedLinear(parameters, gated, min(top_k, T))("l", x)
    y = chosen_linear(parameters, gated, min(top_k, T))("l", x)
    assert (y - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "task"}, "pooling must be one of 'image', 'batch', not 'task'"),
        ({"components": "gates"}, "components must be one of 'experts', 'adaptation'"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, or left out, not 0"),
        ({"constant": "big"}, "constant must be a number, not 'big'"),
        ({"learning_rats": 0.1}, "no setting 'learning_rats'; did you mean 'learning_rate'"),
        ({"routing": "router"}, "uses the one expert it names for each image, not pooling 'batch' and top_k None"),
    ],
)
def test_parameters_that_make_no_sense_are_named(tiny, changes, message):
    with pytest.raises(TaskFileError, match=message):
        tiny.built("mingle", **changes)


def test_official_settings_merge_as_the_command_does(tiny, tmp_path, layer_task_file):
    """The folder's tasks with `semantics = "official"`, whose gates pool over batches in adaptation as well."""
    lines = layer_task_file.read_text().replace("[settings]", '[settings]\nsemantics = "official"')
    file = layer_task_file.with_name("official.toml")
    file.write_text(lines)
    report = evaluate(merge(file, tmp_path / "m", device="cpu").path, file, pooling="batch", device="cpu")
    after_own, final, _ = tiny.history(tiny.built("mingle"))
    assert (after_own, final) == (report.after_own, report.final)
