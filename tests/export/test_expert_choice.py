"""The form that each task's expert is exported in: chosen by what it may lose or weigh, cut, rounded, mixed in one bundle."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measured_forms import falling, with_forms
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge.clip.vision_tower import embed_images, normalize
from mingle_edge.experts.complete_expert import CompleteExpert, expert_linear, expert_parameters
from mingle_edge.experts.expert_form import ExpertForm, form_bytes
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, OptionError, export_bundle
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.cached_model import first_directions
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_export.expert_choice import choose_experts
from mingle_edge_export.tower.expert_inputs import expert_values
from mingle_edge_runtime import Bundle, EdgeModel
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.experts.adapter import read_adapter
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import CPU, Session
from mingle_edge_runtime.scopes.image_scope import ImageScope
from mingle_edge_runtime.scopes.route import Route

LOOSE = {"min_cosine": 0.0, "min_route_agreement": 0.0}  # random weights are harder to round than trained ones
RANK = 6
IMAGES = smooth_images(5, 37)
MIXED = {
    "task0": [ExpertForm(RANK, "int8", 0.1, 0.99), ExpertForm(2, "int8", 2.5, 0.9)],
    "task1": [ExpertForm(RANK, "int4", 0.2, 0.98), ExpertForm(RANK, "int8", 0.6, 0.95), ExpertForm(3, "int4", 0.4, 0.97)],
    "task2": [ExpertForm(4, "int8", 0.0, 1.0), ExpertForm(RANK, "int8", 0.05, 1.0), ExpertForm(RANK, "fp32", 0.0, 1.0)],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> MergedModel:
    """A merged model of three tasks, of whose forms nothing was measured."""
    return write_merged(tmp_path_factory.mktemp("model") / "merged", rank=RANK)


@pytest.fixture(scope="module")
def mixed(model, tmp_path_factory) -> MergedModel:
    """The same where what loses least is in 8 bits for two tasks and in 4 for one."""
    return with_forms(model, tmp_path_factory.mktemp("mixed") / "merged", MIXED)


@pytest.fixture(scope="module")
def mixed_bundle(mixed, tmp_path_factory) -> Path:
    """Its bundle at that."""
    options = ExportOptions(keep=0.25, **LOOSE)
    return export_bundle(mixed.path, tmp_path_factory.mktemp("bundle") / "bundle", options).path


def adapter_bytes(model: MergedModel, folder: Path, task: str, rank: int, precision: str) -> int:
    """Bytes of the file that an expert of this form has."""
    expert, a = first_directions(model.expert(task), rank), model.architecture
    values = expert_values(a, expert, model.backbone(), model.settings.expert_layers(a), precision)
    path = folder / "measured.onnx_adapter"
    write_adapter(path, values)
    return path.stat().st_size


@pytest.fixture(scope="module")
def sizes(model, tmp_path_factory) -> dict[tuple[str, int, str], int]:
    """Bytes of the files of every form, by task, rank and precision."""
    folder = tmp_path_factory.mktemp("sizes")
    return {
        (task, rank, precision): adapter_bytes(model, folder, task, rank, precision)
        for task in model.task_names
        for rank in range(1, RANK + 1)
        for precision in ("fp32", "int8", "int4")
    }


def test_bytes_are_told_before_a_file_is_written(model, sizes) -> None:
    """To within the padding of each tensor, which are as small as 12 bytes here."""
    for (task, rank, precision), size in sizes.items():
        shapes = model.expert_shapes(task)
        assert size <= form_bytes(shapes, rank, precision) <= size + 4 * 2 * len(shapes)


def test_bytes_are_told_to_within_a_fiftieth_where_tensors_are_not_tiny(tmp_path) -> None:
    architecture = dataclasses.replace(ARCHITECTURE, width=192, mlp_width=768)
    wide = write_merged(tmp_path / "merged", architecture=architecture, rank=16, tasks=1)
    for rank in (2, 8, 16):
        for precision in ("fp32", "int8", "int4"):
            size = adapter_bytes(wide, tmp_path, "task0", rank, precision)
            assert size <= form_bytes(wide.expert_shapes("task0"), rank, precision) <= 1.02 * size


def test_bytes_are_told_of_experts_that_lack_layers_and_vectors(model, tmp_path) -> None:
    shapes = {
        name: shape
        for name, shape in model.expert_shapes("task0").items()
        if name.startswith(("blocks.1.fc1", "positions", "blocks.0.ln_1"))
    }
    random = np.random.default_rng(0)
    expert = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for precision in ("fp32", "int8", "int4"):
        values = expert_values(model.architecture, expert, model.backbone(), ["blocks.1.fc1"], precision)
        write_adapter(tmp_path / "some", values)
        size = (tmp_path / "some").stat().st_size
        assert size <= form_bytes(shapes, RANK, precision) <= 1.02 * size


FORMS = st.lists(
    st.builds(
        ExpertForm,
        rank=st.integers(1, RANK),
        precision=st.sampled_from(["fp32", "int8", "int4"]),
        points_lost=st.integers(0, 6).map(float),  # few values, so that some are equal
        agreement=st.floats(0, 1),
    ),
    unique_by=lambda form: (form.rank, form.precision),
    max_size=8,
)


def chosen(model: MergedModel, forms: list[list[ExpertForm]], **options) -> dict[str, ExpertForm | None]:
    """The form that each task's expert is exported in where tasks have these forms."""
    tasks = [
        dataclasses.replace(task, record={"forms": [form.to_json() for form in measured]})
        for task, measured in zip(model.tasks, forms, strict=True)
    ]
    choices = choose_experts(dataclasses.replace(model, tasks=tuple(tasks)), ExportOptions(**options))
    for choice in choices.values():
        assert (choice.rank, choice.precision) == (choice.form.rank, choice.form.precision)
    return {
        name: next(form for form in measured if (form.rank, form.precision) == (choices[name].rank, choices[name].precision))
        for name, measured in zip(model.task_names, forms, strict=True)
    }


@given(st.lists(FORMS, min_size=3, max_size=3), st.integers(3000, 60000))
def test_no_form_that_fits_loses_less_than_the_one_chosen(model, sizes, forms, budget) -> None:
    usable = [[form for form in measured if form.precision != "fp32"] for measured in forms]
    told = [
        [form_bytes(model.expert_shapes(task), form.rank, form.precision) for form in some]
        for task, some in zip(model.task_names, usable, strict=True)
    ]
    if not all(told) or any(min(some) > budget for some in told):
        with pytest.raises(OptionError):
            chosen(model, forms, expert_bytes=budget)
        return
    for (task, form), some in zip(chosen(model, forms, expert_bytes=budget).items(), usable, strict=True):
        assert sizes[task, form.rank, form.precision] <= budget
        for other in some:
            if other.points_lost < form.points_lost:
                assert form_bytes(model.expert_shapes(task), other.rank, other.precision) > budget


@given(st.lists(FORMS, min_size=3, max_size=3), st.integers(0, 6))
def test_no_form_that_keeps_as_much_is_smaller_than_the_one_chosen(model, sizes, forms, keep) -> None:
    keeping = [[form for form in measured if form.precision != "fp32" and form.points_lost <= keep] for measured in forms]
    if not all(keeping):
        with pytest.raises(OptionError):
            chosen(model, forms, keep=keep)
        return
    for (task, form), some in zip(chosen(model, forms, keep=keep).items(), keeping, strict=True):
        assert form in some
        for other in some:
            size = form_bytes(model.expert_shapes(task), other.rank, other.precision)
            assert form_bytes(model.expert_shapes(task), form.rank, form.precision) <= size


def test_a_precision_that_is_given_is_the_only_one(mixed) -> None:
    choices = choose_experts(mixed.select(["task1"]), ExportOptions(keep=1, expert_precision="int8"))
    assert (choices["task1"].rank, choices["task1"].precision) == (RANK, "int8")
    choices = choose_experts(mixed.select(["task2"]), ExportOptions(keep=1, expert_precision="fp32"))
    assert (choices["task2"].rank, choices["task2"].precision) == (RANK, "fp32")


def test_without_a_bound_the_stored_expert_is_exported_whole_with_what_is_known_of_it(mixed) -> None:
    whole = choose_experts(mixed, ExportOptions(expert_precision="int8"))
    assert {choice.precision for choice in whole.values()} == {"int8"}
    assert [choice.form.points_lost for choice in whole.values()] == [0.1, 0.6, 0.05]
    assert [choice.rank for choice in whole.values()] == [RANK] * 3
    assert whole["task1"].smaller == choose_experts(mixed, ExportOptions(expert_bytes=10**9))["task1"].form
    half = choose_experts(mixed, ExportOptions(expert_precision="fp16"))
    assert all((choice.form, choice.rank, choice.precision) == (None, None, "fp16") for choice in half.values())


def test_the_index_says_what_was_chosen_and_the_steps_beside_it(mixed, mixed_bundle) -> None:
    index = Bundle.open(mixed_bundle).index
    assert [(task.rank, task.precision, task.points_lost, task.agreement) for task in index.tasks] == [
        (RANK, "int8", 0.1, 0.99),
        (RANK, "int4", 0.2, 0.98),
        (4, "int8", 0.0, 1.0),
    ]
    assert index.expert_precision == "int8, int4"
    for task in index.tasks:
        assert task.expert_bytes == (mixed_bundle / task.expert).stat().st_size
        told = form_bytes(mixed.expert_shapes(task.name), task.rank, task.precision)
        assert task.expert_bytes <= told <= 1.02 * task.expert_bytes
    first, second, third = index.tasks
    assert (first.smaller.rank, first.smaller.precision, first.smaller.points_lost) == (2, "int8", 2.5)
    assert (second.smaller.rank, second.smaller.precision) == (3, "int4")
    assert first.larger is second.larger is third.smaller is third.larger is None


def test_exporting_again_writes_the_same_bytes(mixed, mixed_bundle, tmp_path) -> None:
    again = export_bundle(mixed.path, tmp_path / "again", ExportOptions(keep=0.25, **LOOSE)).path
    assert (again / "bundle.json").read_bytes() == (mixed_bundle / "bundle.json").read_bytes()  # with the hashes of all


def test_a_report_has_the_tasks_of_the_index(mixed, tmp_path) -> None:
    report = export_bundle(mixed.path, tmp_path / "bundle", ExportOptions(expert_bytes=28000, **LOOSE))
    assert tuple(report.tasks) == Bundle.open(report.path).index.tasks
    assert all(task.expert_bytes <= 28000 for task in report.tasks)


def rounded(values: np.ndarray, largest: int, axis: int) -> np.ndarray:
    """The nearest multiples of a scale that gives the largest magnitude along an axis the code `largest`."""
    scale = np.abs(values).max(axis=axis, keepdims=True).astype(np.float64) / largest
    return np.round(values / np.where(scale > 0, scale, 1)) * scale


def in_blocks(values: np.ndarray) -> np.ndarray:
    """Rows in blocks of 32 codes up to 7."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % 32))).reshape(len(values), -1, 32)
    return rounded(padded, 7, 2).reshape(len(values), -1)[:, : values.shape[1]]


def as_stored(model: MergedModel, task: str, rank: int, precision: str) -> dict[str, np.ndarray]:
    """A task's expert of a rank as a file of this precision holds it."""
    backbone, stored = model.backbone(), {}
    for name, value in model.expert(task).items():
        if name.endswith((".A", ".B")):
            rows = value[:rank] if name.endswith(".A") else value[:, :rank].T
            rows = rounded(rows, 64, 1) if precision == "int8" else in_blocks(rows)
            stored[name] = rows if name.endswith(".A") else rows.T
        elif precision == "int4":
            change = value - backbone[name]
            stored[name] = backbone[name] + rounded(change, 127, change.ndim - 1)
        else:
            stored[name] = value
    return {name: value.astype(np.float32) for name, value in stored.items()}


def by_torch(model: MergedModel, experts: list[dict[str, np.ndarray]], weights: list[float]) -> np.ndarray:
    """Embeddings of `IMAGES` under a mixture of experts, in PyTorch."""
    a = model.architecture
    backbone = {name: torch.from_numpy(value) for name, value in model.backbone().items()}
    mixture = [(weight, CompleteExpert.from_arrays(expert)) for weight, expert in zip(weights, experts, strict=True)]
    parameters = expert_parameters(backbone, mixture)
    pixels = torch.from_numpy(preprocess(IMAGES, a.preprocess))
    return normalize(embed_images(pixels, parameters, a, expert_linear(parameters, mixture)), a).numpy()


def least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The smallest cosine of two arrays of embeddings."""
    return float(((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min())


def test_every_task_of_a_mixed_bundle_computes_what_its_rounded_expert_does_in_pytorch(mixed, mixed_bundle) -> None:
    verify(mixed_bundle).check()
    with EdgeModel.open(mixed_bundle) as edge:
        for task in edge.bundle.index.tasks:
            ours = edge.embed(IMAGES, task=task.name)
            expected = by_torch(mixed, [as_stored(mixed, task.name, task.rank, task.precision)], [1.0])
            assert least_cosine(ours, expected) >= 0.99  # activations are rounded, too
            other = by_torch(mixed, [as_stored(mixed, task.name, task.rank - 1, task.precision)], [1.0])
            assert least_cosine(ours, other) < least_cosine(ours, expected)


def test_the_tower_is_given_the_rounded_expert(mixed, mixed_bundle) -> None:
    bundle = Bundle.open(mixed_bundle)
    inputs = Session(bundle.graph(bundle.index.tower), [CPU]).optional_inputs
    for task in bundle.index.tasks:
        given = read_adapter(bundle, task, inputs)
        stored = as_stored(mixed, task.name, task.rank, task.precision)
        assert {name for name in given if not name.endswith(("codes", "scale"))} == set(mixed.architecture.vector_shapes())
        for name, value in stored.items():
            layer, _, side = name.rpartition(".")
            if side == "A":
                product = (given[f"{layer}.A_codes"] * given[f"{layer}.scale"]) @ (given[f"{layer}.B_codes"] / np.float32(64))
                expected = (stored[f"{layer}.B"] @ value).T
                away = np.linalg.norm(product - expected) / np.linalg.norm(expected)
                assert away <= (1e-5 if task.precision == "int8" else 0.02)  # 4-bit blocks become 8-bit rows
            elif side != "B":
                np.testing.assert_allclose(given[name], value, atol=1e-6)


def test_a_cut_expert_in_fp32_is_exact(model, tmp_path) -> None:
    forms = {task: falling([2, 4, RANK], points=1.0) for task in model.task_names}
    measured = with_forms(model, tmp_path / "merged", forms)
    report = export_bundle(measured.path, tmp_path / "bundle", ExportOptions(keep=0.3, expert_precision="fp32"))
    assert report.parity.cosine >= 0.99999
    with EdgeModel.open(report.path) as edge:
        assert [task.rank for task in edge.bundle.index.tasks] == [4, 4, 4]
        for task in edge.tasks:
            expert = {
                name: value[:4] if name.endswith(".A") else value[:, :4] if name.endswith(".B") else value
                for name, value in model.expert(task).items()
            }
            expected = by_torch(model, [{name: np.ascontiguousarray(value) for name, value in expert.items()}], [1.0])
            np.testing.assert_allclose(edge.embed(IMAGES, task=task), expected, atol=1e-5)


def test_two_experts_of_other_precisions_are_joined(mixed, tmp_path) -> None:
    path = export_bundle(mixed.path, tmp_path / "bundle", ExportOptions(2, keep=0.25, **LOOSE)).path
    verify(path).check()
    with EdgeModel.open(path) as edge:
        tasks = {task.name: task for task in edge.bundle.index.tasks}
        pixels = preprocess(IMAGES, edge.bundle.index.preprocess)
        # Every pair of tasks in turn, whatever the router would say.
        two = [Route(pair, (0.75, 0.25)) for pair in itertools.permutations(tasks, 2)]
        routes = [two[i % len(two)] for i in range(len(IMAGES))]
        ours, pairs = edge.scope.routed.embed_routed(pixels, routes), set()
        for i, route in enumerate(routes):
            experts = [as_stored(mixed, name, tasks[name].rank, tasks[name].precision) for name in route.tasks]
            expected = by_torch(mixed, experts, list(route.weights))
            assert least_cosine(ours[i : i + 1], expected[i : i + 1]) >= 0.99
            pairs.add(tuple(sorted({tasks[name].precision for name in route.tasks})))
        assert ("int4", "int8") in pairs


def test_what_is_in_8_bits_is_mapped_and_what_is_in_4_expanded(mixed_bundle) -> None:
    with EdgeModel.open(mixed_bundle) as edge:
        experts = edge.scope.experts
        assert "1 of 3 experts are expanded from 4 bits to 8 in memory, not mapped" in edge.stats().notes
        for task in edge.bundle.index.tasks:
            before = edge.stats().resident_bytes
            with experts.use(task.name) as held:
                assert (held.adapter is None) == bool(held.arrays) == (task.precision == "int4")
                size = sum(array.nbytes for array in held.arrays.values()) or task.expert_bytes
                assert size <= edge.stats().resident_bytes - before
                assert task.precision == "int4" or edge.stats().resident_bytes - before == task.expert_bytes


def test_experts_on_a_device_are_those_in_memory(mixed_bundle) -> None:
    pixels = preprocess(IMAGES, Bundle.open(mixed_bundle).index.preprocess)
    mapped, bound = (ImageScope(Bundle.open(mixed_bundle), None, [CPU], 1, device=device) for device in (None, "cpu"))
    for task in ("task0", "task1", "task2"):
        np.testing.assert_array_equal(bound.embed(pixels, task)[0], mapped.embed(pixels, task)[0])
    assert bound.experts.stats().resident_bytes == mapped.experts.stats().resident_bytes


def test_answers_do_not_depend_on_the_budget_nor_on_what_ran_before(mixed_bundle) -> None:
    with EdgeModel.open(mixed_bundle) as roomy:
        expected = {task: roomy.embed(IMAGES, task=task) for task in roomy.tasks}
        sizes = [2 * roomy.stats().resident_bytes // 3]
    with EdgeModel.open(mixed_bundle, expert_budget=sizes[0]) as tight:
        for task in ("task1", "task0", "task1", "task2", "task1"):
            np.testing.assert_array_equal(tight.embed(IMAGES, task=task), expected[task])
        assert tight.stats().evictions > 0


REFUSED = [
    ({"keep": 0.1, "expert_bytes": 10}, "keep and expert_bytes both choose what experts are exported in; give one of them"),
    ({"keep": -0.1}, "keep is -0.1, must be between 0 and 100"),
    ({"keep": float("nan")}, "keep is nan, must be between 0 and 100"),
    ({"expert_bytes": 0}, "expert_bytes is 0, must be at least 1"),
    ({"keep": 1, "expert_precision": "fp16"}, "what experts keep in fp16 is not measured, and keep cannot choose among them"),
    ({"keep": 1, "fold": "task1"}, "keep: a folded task has no expert beside the weights; leave it out"),
    ({"expert_bytes": 9, "fold": "task1"}, "expert_bytes: a folded task has no expert beside the weights; leave it out"),
    (
        {"keep": 0.15},
        "keep is 0.15, and the expert of task 'task1' that loses least, rank 6 in int4, loses 0.2 points; allow that many",
    ),
    ({"keep": 1, "expert_precision": "int4"}, "what experts in int4 keep was not measured for task0, task2; it is when"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_chosen_is_refused_before_anything_is_written(mixed, tmp_path, options, message: str) -> None:
    with pytest.raises(OptionError, match=f"(?s){message.replace('(', '.').replace(')', '.')}"):
        export_bundle(mixed.path, tmp_path / "bundle", ExportOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_budget_below_the_smallest_expert_names_what_is_enough(mixed, tmp_path) -> None:
    with pytest.raises(OptionError, match=r"expert_bytes is 5000, and the smallest expert of task 'task\d', ") as caught:
        export_bundle(mixed.path, tmp_path / "bundle", ExportOptions(expert_bytes=5000))
    enough = int(str(caught.value).split(", takes ")[1].split(";")[0])
    with pytest.raises(OptionError):
        choose_experts(mixed, ExportOptions(expert_bytes=enough - 1))
    assert len(choose_experts(mixed, ExportOptions(expert_bytes=enough))) == 3


def test_forms_that_were_not_measured_are_asked_for(model, tmp_path) -> None:
    with pytest.raises(OptionError, match=r"not measured for task0, task1, task2; .* with 10 seeds or more"):
        export_bundle(model.path, tmp_path / "bundle", ExportOptions(keep=1))


def test_the_layer_scope_has_no_choice(tmp_path) -> None:
    layered = write_merged(tmp_path / "merged", scope="layer")
    with pytest.raises(OptionError, match=r"keep: the experts of scope 'layer' are exported whole; leave it out"):
        export_bundle(layered.path, tmp_path / "bundle", ExportOptions(keep=1))
