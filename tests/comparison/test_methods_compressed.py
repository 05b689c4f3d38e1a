"""Compressed models against second implementations in numpy, their bytes against the same numbers packed by numpy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_compared import TinyComparison, one_by_one

from mingle_edge.clip.vision_tower import embed_images, plain_linear
from mingle_edge.comparison.methods import bit_delta
from mingle_edge.comparison.methods.bit_packing import PackedCodes
from mingle_edge.comparison.methods.image_router import Route
from mingle_edge.comparison.methods.task_vector_quantization import QuantizedTensor
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.image_set import ImageSet
from mingle_edge.experts import expert_size
from mingle_edge.experts.finetuned_task import FinetunedTask

CPU = torch.device("cpu")
TOWERS = {
    "bit-delta": {"steps": 0},
    "tsv-compress": {"share": 0.25},
    "tall-masks": {"threshold": 0.4},
    "tvq": {"bits": 3},
    "rtvq": {"base_bits": 3, "bits": 2},
}
OTHERS = {
    "bit-delta": {"steps": 2},
    "tsv-compress": {"share": 0.5},
    "tall-masks": {"threshold": 0.6},
    "tvq": {"bits": 2},
    "rtvq": {"bits": 3},
    "smile": {"rank": 6},
}
every_tower = pytest.mark.parametrize("name", TOWERS)
every_method = pytest.mark.parametrize("name", [*TOWERS, "smile"])


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file)


@pytest.fixture(scope="module")
def vectors(tiny):
    """Task vectors in numpy, by task and parameter."""
    return {task.name: {n: (task.finetuned[n] - plain).numpy() for n, plain in tiny.backbone.items()} for task in tiny.tasks}


@pytest.fixture(scope="module")
def matrices(tiny):
    return [f"{layer}.weight" for layer in tiny.architecture.linear_layers()]


def merged(tiny, name, **options):
    return tiny.merged(name, **{**TOWERS.get(name, {"rank": 4, "gate_rank": 3}), **options})


def vector_of(tiny, method, task):
    """What the method's tower of a task adds to the backbone."""
    tower = method.tasks[task].tower(tiny.backbone)
    assert tower.keys() == tiny.backbone.keys()
    return {name: (tower[name] - plain).numpy() for name, plain in tiny.backbone.items()}


def assert_near(given, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(given[name], value, rtol=0, atol=3e-7, err_msg=name)


def embeds(tiny, parameters, images, linear=None):
    return F.normalize(embed_images(images, parameters, tiny.architecture, linear), dim=-1)


# ---- codes


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=3, max_side=9)), st.integers(1, 8))
def test_packed_codes_take_their_bits_and_come_back(numbers, bits):
    codes = torch.from_numpy(numbers >> (8 - bits))
    packed = PackedCodes.of(codes, bits)
    assert packed.nbytes == math.ceil(codes.numel() * bits / 8)
    assert torch.equal(packed.codes(CPU), codes)


floats = st.floats(-1e3, 1e3, width=32)


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=9), elements=floats), st.integers(1, 8))
def test_quantized_values_are_within_half_a_step_and_zero_stays_zero(values, bits):
    quantized = QuantizedTensor.of(torch.from_numpy(values), bits)
    back = quantized.values(CPU).numpy()
    span = float(values.max()) - float(values.min())
    largest = float(np.abs(values).max())
    assert np.abs(back - values).max() <= span / (2**bits - 1) / 2 + 1e-5 * largest
    assert len(np.unique(back)) <= 2**bits
    if values.min() <= 0 <= values.max():
        assert not back[values == 0].any()


# ---- towers


def test_bit_delta_is_the_mean_magnitude_with_each_sign(tiny, vectors, matrices):
    method = merged(tiny, "bit-delta")
    for task, vector in vectors.items():
        expected = {n: np.abs(D).mean() * np.where(D >= 0, 1, -1) if n in matrices else D for n, D in vector.items()}
        assert_near(vector_of(tiny, method, task), expected)


def test_bit_delta_learns_scales_that_bring_the_logits_nearer_and_nothing_else(tiny, matrices):
    start, learned = merged(tiny, "bit-delta"), merged(tiny, "bit-delta", steps=40, learning_rate=1e-3)
    for task in tiny.tasks:
        images = task.calibration_images.load(range(len(task.calibration_images)), tiny.architecture)
        wanted = task.head.logits(embeds(tiny, task.finetuned, images))
        before, after = (method.tasks[task.name].tower(tiny.backbone) for method in (start, learned))
        errors = [(task.head.logits(embeds(tiny, tower, images)) - wanted).square().mean() for tower in (before, after)]
        assert errors[1] < 0.9 * errors[0]
        for name, plain in tiny.backbone.items():
            if name in matrices:
                assert torch.equal(after[name] > plain, before[name] > plain)
                assert len((after[name] - plain).abs().round(decimals=5).unique()) == 1
            else:
                assert torch.equal(after[name], task.finetuned[name])


@pytest.mark.parametrize("share", [0.0, 0.03, 1 / 3, 1.0])
def test_tsv_keeps_a_share_of_the_singular_components(tiny, vectors, matrices, share):
    method = merged(tiny, "tsv-compress", share=share)
    for task, vector in vectors.items():
        expected = dict(vector)
        for name in matrices:
            U, singular, Vh = np.linalg.svd(vector[name].astype(np.float64), full_matrices=False)
            rank = int(share * len(singular))
            expected[name] = U[:, :rank] * singular[:rank] @ Vh[:rank]
        assert_near(vector_of(tiny, method, task), expected)


def test_tsv_shares_the_components_out_among_the_tasks():
    for tasks in (1, 8, 20):
        assert SPECS["tsv-compress"].published(tasks)["share"] * tasks == pytest.approx(1)


def test_a_mask_keeps_an_entry_of_the_sum_where_the_task_outweighs_the_others(tiny, vectors):
    method = merged(tiny, "tall-masks")
    for task, vector in vectors.items():
        expected = {}
        for name, own in vector.items():
            total = sum(other[name] for other in vectors.values())
            finetuned, everything = tiny.backbone[name].numpy() + own, tiny.backbone[name].numpy() + total
            mask = np.abs(finetuned - tiny.backbone[name].numpy()) > 0.4 * np.abs(everything - finetuned)
            # Entries on the threshold may fall on either side of it by rounding.
            near = np.abs(np.abs(own) - 0.4 * np.abs(total - own)) < 1e-6
            given = vector_of(tiny, method, task)[name]
            expected[name] = np.where(near, given, mask * total)
            assert near.mean() < 0.01
            assert 0.2 < mask.mean() <= 1
        assert_near(vector_of(tiny, method, task), expected)


def test_the_mask_of_a_single_task_keeps_its_whole_model(tiny, vectors):
    method = tiny.built("tall-masks")
    method.add(tiny.tasks[0])
    assert_near(vector_of(tiny, method, "task0"), vectors["task0"])


def numpy_quantized(values, bits):
    step = (float(values.max()) - float(values.min())) / (2**bits - 1)
    zero = np.round(-float(values.min()) / step)
    return step * (np.clip(np.round(values.astype(np.float64) / step) + zero, 0, 2**bits - 1) - zero), step


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tvq_rounds_every_parameter_to_the_grid_of_its_range(tiny, vectors, matrices, bits):
    method = merged(tiny, "tvq", bits=bits)
    for task, vector in vectors.items():
        given = vector_of(tiny, method, task)
        for name, values in vector.items():
            expected, step = numpy_quantized(values, bits)
            # A value between two points of the grid may go to either by rounding.
            assert (np.abs(given[name] - expected) > 1e-6).mean() < 0.001
            assert np.abs(given[name] - values).max() <= step / 2 + 1e-6
        codes = {n: tensor.packed.codes(CPU).unique() for n, tensor in method.tasks[task].own.items()}
        assert max(len(codes[name]) for name in matrices) == 2**bits


def test_rtvq_is_the_rounded_mean_and_what_each_task_differs_by(tiny, vectors):
    method = merged(tiny, "rtvq")
    for task, vector in vectors.items():
        given = vector_of(tiny, method, task)
        for name, values in vector.items():
            mean = np.mean([other[name] for other in vectors.values()], axis=0)
            base, _ = numpy_quantized(mean, 3)
            _, step = numpy_quantized(values - base, 2)
            shared = method.tasks[task].base[name].values(CPU).numpy()
            assert (np.abs(shared - base) > 1e-6).mean() < 0.02
            # Half a step of the task's own grid; twice the slack where the mean was rounded the other way.
            assert np.abs(given[name] - values).max() <= step / 2 + 1e-6 + np.abs(shared - base).max()


# ---- SMILE


def materialized(tiny, task, rank):
    """The backbone with a task's experts added to its weights, by a full decomposition."""
    parameters = dict(tiny.backbone)
    for layer in tiny.architecture.linear_layers()[1:]:
        difference = task.finetuned[f"{layer}.weight"] - tiny.backbone[f"{layer}.weight"]
        U, singular, Vh = torch.linalg.svd(difference, full_matrices=False)
        parameters[f"{layer}.weight"] = tiny.backbone[f"{layer}.weight"] + U[:, :rank] * singular[:rank] @ Vh[:rank]
        if f"{layer}.bias" in task.finetuned:
            parameters[f"{layer}.bias"] = task.finetuned[f"{layer}.bias"]
    return parameters


@pytest.mark.parametrize("rank", [4, 48])
def test_smile_with_the_task_named_equals_a_materialized_tower(tiny, rank):
    method = merged(tiny, "smile", rank=rank)
    for task in tiny.tasks:
        batch = tiny.batches[task.name]
        expected = embeds(tiny, materialized(tiny, task, rank), batch.images)
        torch.testing.assert_close(method.answer_named(batch, task.name), expected, rtol=0, atol=3e-6)


def test_each_token_of_smile_goes_to_the_longest_projection_token_by_token(tiny):
    """Layers of two towers beside each other, each token by itself and by full decompositions."""
    method, batch, gate_rank = merged(tiny, "smile"), tiny.batches["task1"], 3
    towers = [plain_linear(materialized(tiny, task, 4)) for task in tiny.tasks]
    plain, counted = plain_linear(tiny.backbone), torch.zeros(len(towers), dtype=torch.long)

    def linear(layer, x):
        if layer == "patch_embedding":
            return plain(layer, x)
        lengths = []
        for task in tiny.tasks:
            difference = task.finetuned[f"{layer}.weight"] - tiny.backbone[f"{layer}.weight"]
            _, _, Vh = torch.linalg.svd(difference, full_matrices=False)
            lengths.append((Vh[:gate_rank] @ x[..., None]).norm(dim=(-1, -2)))
        chosen = torch.stack(lengths).argmax(0)
        counted.add_(torch.bincount(chosen.flatten(), minlength=len(towers)))
        rows = [
            [towers[chosen[image, token]](layer, x[image, token]) for token in range(x.shape[1])] for image in range(len(x))
        ]
        return torch.stack([torch.stack(row) for row in rows])

    expected = embeds(tiny, tiny.backbone, batch.images, linear)
    torch.testing.assert_close(method.answer(batch).embeds, expected, rtol=0, atol=3e-6)
    assert (counted > 100).all()


def test_smile_of_one_task_needs_no_router(tiny):
    method, batch = tiny.built("smile", rank=4), tiny.batches["task0"]
    method.add(tiny.tasks[0])
    torch.testing.assert_close(method.answer(batch).embeds, method.answer_named(batch, "task0"), rtol=0, atol=1e-6)


# ---- bytes


def packed(codes, bits):
    """Bytes of codes that numpy packs."""
    return np.packbits(np.unpackbits(codes.astype(np.uint8).reshape(-1, 1), axis=1)[:, -bits:]).nbytes


def of_a_task(name, vector, matrices, architecture):
    """Bytes of a task, counted from its vector."""
    rest = sum(values.nbytes for n, values in vector.items() if n not in matrices)
    sides = {n: vector[n].shape for n in matrices}
    if name == "bit-delta":
        return sum(packed(vector[n] >= 0, 1) + 4 for n in matrices) + rest
    if name == "tsv-compress":
        return sum(4 * (min(shape) // 4) * sum(shape) for shape in sides.values()) + rest
    if name == "smile":
        biases = {f"{n.removesuffix('.weight')}.bias" for n in matrices} & vector.keys()
        factors = sum(4 * 4 * sum(shape) for n, shape in sides.items() if n != "patch_embedding.weight")
        return factors + sum(vector[n].nbytes for n in biases - {"patch_embedding.bias"})
    bits = {"tall-masks": 1, "tvq": 3, "rtvq": 2}[name]
    scales = 0 if name == "tall-masks" else 8
    return sum(packed(np.zeros(values.shape), bits) + scales for values in vector.values())


@every_method
def test_bytes_are_those_of_the_same_numbers_packed_by_numpy(tiny, vectors, matrices, name):
    method = merged(tiny, name)
    vector = vectors["task0"]
    own = of_a_task(name, vector, matrices, tiny.architecture)
    backbone = 4 * sum(tensor.numel() for tensor in tiny.backbone.values())
    shared = {
        "tall-masks": backbone,
        "rtvq": sum(packed(np.zeros(values.shape), 3) + 8 for values in vector.values()),
        "smile": 3 * sum(4 * 3 * vector[n].shape[1] for n in matrices if n != "patch_embedding.weight"),
    }.get(name, 0)
    router = 0 if name == "smile" else method.router.stored_bytes()
    assert method.bytes_per_task() == own
    assert method.stored_bytes() == backbone + router + shared + 3 * own
    assert method.active_bytes() == method.stored_bytes() - (0 if name == "smile" else 2 * own)


def test_what_no_task_changed_takes_no_bytes(tiny):
    frozen = [n for n in tiny.backbone if n.startswith(("blocks.0", "patch", "pos"))]
    for name in TOWERS:
        method = tiny.built(name, **TOWERS[name])
        for task in tiny.tasks:
            kept = {**task.finetuned, **{n: tiny.backbone[n] for n in frozen}}
            method.add(FinetunedTask(task.name, kept, task.head, task.calibration_images))
        assert method.bytes_per_task() < 0.7 * merged(tiny, name).bytes_per_task()
        tower = method.tasks["task1"].tower(tiny.backbone)
        assert all(torch.equal(tower[n], tiny.backbone[n]) for n in frozen)


# ---- as continual methods


@every_method
def test_before_any_task_it_is_the_plain_backbone(tiny, name):
    method, batch = tiny.built(name), tiny.batches["task0"]
    torch.testing.assert_close(method.answer(batch).embeds, embeds(tiny, tiny.backbone, batch.images))
    assert method.stored_bytes() == method.active_bytes() == 4 * sum(tensor.numel() for tensor in tiny.backbone.values())
    assert method.bytes_per_task() == 0


@every_tower
def test_images_are_answered_by_the_tower_of_the_task_they_are_sent_to(tiny, name):
    method, batch = merged(tiny, name), tiny.batches["task0"]
    posterior = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    claimed = torch.tensor([True, True, True, False, True, True])
    method.router = SimpleNamespace(route=lambda batch: Route(posterior, claimed))
    answer = method.answer(batch)
    for i, task in enumerate([0, 1, 2, -1, 1, 2]):
        tower = tiny.backbone if task < 0 else method.tasks[f"task{task}"].tower(tiny.backbone)
        expected = embeds(tiny, tower, batch.images[i : i + 1])[0]
        torch.testing.assert_close(answer.embeds[i], expected, rtol=0, atol=2e-6)
    assert answer.routed.tolist() == [0, 1, 2, -1, 1, 2]


@every_tower
def test_images_go_where_those_of_the_image_scope_go(tiny, name):
    workbench = tiny.workbench()
    compressed, image = merged(tiny, name, workbench=workbench), tiny.merged("image", workbench)
    for batch in tiny.batches.values():
        assert compressed.answer(batch).routed.equal(image.answer(batch).routed)


@every_method
def test_no_answer_depends_on_batch_mates(tiny, name):
    together, alone, batch = merged(tiny, name), merged(tiny, name), tiny.batches["task1"]
    images = list(one_by_one(batch))
    answers = torch.cat([alone.answer(image).embeds for image in images])
    torch.testing.assert_close(together.answer(batch).embeds, answers, rtol=0, atol=3e-6)
    named = torch.cat([alone.answer_named(image, "task1") for image in images])
    torch.testing.assert_close(together.answer_named(batch, "task1"), named, rtol=0, atol=3e-6)


@every_method
def test_what_is_kept_on_the_workbench_changes_no_result(tiny, name):
    """On a workbench where it has been with other parameters and in another order."""
    crowded = tiny.workbench()
    for options in (OTHERS[name], {}):
        earlier = merged(tiny, name, workbench=crowded, order=(2, 0, 1), **options)
        for task, batch in tiny.batches.items():
            earlier.answer_named(batch, task)
    for order in ((1,), (1, 2), (1, 2, 0)):
        then, fresh = merged(tiny, name, workbench=crowded, order=order), merged(tiny, name, order=order)
        for batch in tiny.batches.values():
            torch.testing.assert_close(then.answer(batch).embeds, fresh.answer(batch).embeds, rtol=0, atol=2e-6)
        for task in (f"task{t}" for t in order):
            kept, computed = (method.answer_named(tiny.batches[task], task) for method in (then, fresh))
            torch.testing.assert_close(kept, computed, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("name", "changes"), [("tvq", False), ("tall-masks", True), ("rtvq", True)])
def test_tasks_that_share_something_change_with_each_that_is_added(tiny, name, changes):
    method, batch = tiny.built(name, **TOWERS[name]), tiny.batches["task0"]
    method.add(tiny.tasks[0])
    alone = method.answer_named(batch, "task0")
    method.add(tiny.tasks[1])
    assert (not torch.equal(method.answer_named(batch, "task0"), alone)) == changes


def test_scales_are_learned_once_for_all_orders_and_anew_for_other_seeds(tiny, monkeypatch):
    workbench, learned = tiny.workbench(), []
    distilled = bit_delta.distilled_scales
    monkeypatch.setattr(bit_delta, "distilled_scales", lambda *given: learned.append(given[2].name) or distilled(*given))
    for order in ((0, 1), (1, 0)):
        tiny.merged("bit-delta", workbench, order, steps=1)
    assert learned == ["task0", "task1"]
    task, seeds = tiny.tasks[0], tiny.tasks[0].calibration_images
    fewer = FinetunedTask(task.name, task.finetuned, task.head, ImageSet(seeds.paths[:3]))
    tiny.built("bit-delta", workbench, steps=1).add(fewer)
    assert learned == ["task0", "task1", "task0"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tvq", {"bits": 0}, "bits must be a whole number from 1 to 8, not 0"),
        ("tvq", {"bits": 2.5}, "bits must be a whole number from 1 to 8, not 2.5"),
        ("rtvq", {"base_bits": 9}, "base_bits must be a whole number from 1 to 8, not 9"),
        ("smile", {"rank": 0}, "smile: rank must be a whole number of at least 1, not 0"),
        ("smile", {"gate_rank": "auto"}, "smile: gate_rank must be a whole number of at least 1, not 'auto'"),
        ("tall-masks", {"router_blocks": -1}, "router_blocks must not be negative"),
    ],
)
def test_parameters_that_make_no_sense_are_named(tiny, name, changes, message):
    with pytest.raises(TaskFileError, match=message):
        tiny.merged(name, **changes)


# ---- this project's experts in fewer bits


def numpy_rows(values):
    """Rows in codes of 8 bits that reach 64."""
    scales = np.abs(values).max(axis=1, keepdims=True) / 64
    return np.round(values / scales) * scales


def test_int8_experts_answer_as_rounded_by_rows(tiny):
    whole, rounded = tiny.merged("image", rank=4), tiny.merged("image", rank=4, expert_precision="int8")
    for task in tiny.tasks:
        _, expert = whole._experts[task.name]
        tower = {**tiny.backbone, **expert.unfactored}
        for layer, (B, A) in expert.factors.items():
            product = numpy_rows(B.T.numpy()).T @ numpy_rows(A.numpy())
            tower[f"{layer}.weight"] = tower[f"{layer}.weight"] + torch.from_numpy(product)
        batch = tiny.batches[task.name]
        given = rounded.answer_named(batch, task.name)
        torch.testing.assert_close(given, embeds(tiny, tower, batch.images), rtol=0, atol=3e-5)
        assert (given - whole.answer_named(batch, task.name)).abs().max() > 1e-4


def test_fewer_bits_take_fewer_bytes_and_are_what_is_stored_and_read(tiny):
    sizes = []
    for precision in ("fp32", "int8", "int4"):
        method = tiny.merged("image", rank=8, expert_precision=precision)
        shared = 4 * sum(tensor.numel() for tensor in tiny.backbone.values()) + method.router.stored_bytes()
        assert method.stored_bytes() == shared + 3 * method.bytes_per_task()
        assert method.active_bytes() == shared + method.bytes_per_task()
        sizes.append(method.bytes_per_task())
    numbers = sum(side.numel() for pair in method._experts["task0"][1].factors.values() for side in pair)
    vectors = sum(value.numel() for value in method._experts["task0"][1].unfactored.values())
    assert sizes[0] == 4 * (numbers + vectors)
    assert sizes[1] > numbers + 4 * vectors
    assert sizes[2] > numbers // 2 + vectors
    assert sizes[0] > sizes[1] > sizes[2]


def test_adapted_experts_of_other_seeds_are_not_mistaken_for_each_other(tiny, monkeypatch):
    monkeypatch.setattr(expert_size, "LEAST_SEEDS", 3)
    workbench, task = tiny.workbench(), tiny.tasks[0]
    seeds = task.calibration_images.paths
    answers = []
    for chosen in (seeds, seeds[:5], seeds):
        method = tiny.built("image", workbench, rank=2, expert_steps=4, router_blocks=1)
        method.add(FinetunedTask(task.name, task.finetuned, task.head, ImageSet(chosen)))
        answers.append(method.answer_named(tiny.batches[task.name], task.name))
    assert not torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_a_precision_that_does_not_exist_is_named(tiny):
    with pytest.raises(TaskFileError, match="expert_precision must be one of 'fp32', 'int8', 'int4', not 'int2'"):
        tiny.built("image", expert_precision="int2")
