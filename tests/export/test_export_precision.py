"""Bundles in fewer bits: what they keep of the merged model, what they must not depend on, and when they are refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import quantize_data
from tiny_clip import first_tasks
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge.cli import main
from mingle_edge.core.errors import TaskFileError
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge_export import (
    AccuracyError,
    ExportOptions,
    OptionError,
    PairedAccuracy,
    ParityError,
    TaskAccuracy,
    export_bundle,
)
from mingle_edge_export.check import calibration, labeled_accuracy, task_images
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_export.precision.quantization import pack_int4, quantize, quantize_blocks, quantize_change
from mingle_edge_export.precision.smoothing import Smoothing
from mingle_edge_runtime import Bundle, EdgeModel
from mingle_edge_runtime.bundle.index import LARGEST_CODE
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.experts.adapter import expand

PAIRS = [("fp16", "fp16"), ("fp32", "fp16"), ("fp32", "int8"), ("int8", "int8"), ("int8", "fp32"), ("int4", "int4")]
LOOSE = {"min_cosine": 0.0, "min_route_agreement": 0.0}  # random weights are harder to quantize than trained ones
IMAGES = smooth_images(5, 37)


@pytest.fixture(scope="module", params=["image", "layer"])
def merged(request, tmp_path_factory):
    """A merged model of each scope."""
    return write_merged(tmp_path_factory.mktemp(request.param) / "merged", scope=request.param)


@pytest.mark.parametrize(("precision", "expert_precision"), PAIRS)
def test_every_pair_of_precisions_is_close_to_pytorch_and_runs(merged, tmp_path, precision, expert_precision):
    report = export_bundle(
        merged.path, tmp_path / "bundle", ExportOptions(2, precision=precision, expert_precision=expert_precision, **LOOSE)
    )
    least = {"fp16": 0.9999, "int8": 0.985, "int4": 0.1}[
        max(precision, expert_precision, key=["fp32", "fp16", "int8", "int4"].index)
    ]
    assert report.parity.cosine >= least
    index = Bundle.open(report.path).index
    assert (index.precision, index.expert_precision) == (precision, expert_precision)
    assert index.fidelity.cosine == report.parity.cosine
    verify(report.path).check()
    with EdgeModel.open(report.path) as model:
        assert model.embed(IMAGES).shape == (5, 24)
        together = model.embed(IMAGES, task="task1")
        alone = np.concatenate([model.embed(image, task="task1") for image in IMAGES])
    tolerance = {"rtol": 0, "atol": 0} if index.one_by_one else {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(together, alone, **tolerance)


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.55), ("int8", 0.4), ("int4", 0.35)])
def test_fewer_bits_take_less_space(tmp_path, precision, share):
    # Where weights are most of a file.
    architecture = dataclasses.replace(ARCHITECTURE, width=192, mlp_width=768, layers=1)
    for scope in ("image", "layer"):
        merged = write_merged(tmp_path / f"merged-{scope}", scope=scope, architecture=architecture, rank=64, router_blocks=1)
        sizes = {}
        for chosen in ("fp32", precision):
            files = export_bundle(merged.path, tmp_path / f"{scope}-{chosen}", ExportOptions(precision=chosen, **LOOSE)).files
            experts = sum(size for name, size in files.items() if name.startswith("expert"))
            sizes[chosen] = np.array([files["backbone.bin"], experts])
        assert (sizes[precision] < share * sizes["fp32"]).all()


@given(hnp.arrays(np.float32, (5, 70), elements=st.floats(-4, 4, width=32)), st.sampled_from([8, 4]))
def test_codes_are_the_nearest(weights, bits):
    for codes, scales, values in (
        (*quantize(weights, axis=1, bits=bits), weights),
        (
            *(part.reshape(5, 3, -1) for part in quantize_blocks(weights, bits)),
            np.pad(weights, ((0, 0), (0, 26))).reshape(5, 3, 32),
        ),
    ):
        assert np.abs(codes).max() <= {8: LARGEST_CODE, 4: 7}[bits]
        assert (np.abs(codes * scales - values) <= scales / 2 * (1 + 1e-5)).all()


@given(hnp.arrays(np.float32, (6, 40), elements=st.floats(-4, 4, width=32)))
def test_8_bit_codes_are_those_of_onnxruntimes_quantizer(weights):
    for row in weights[np.abs(weights).max(axis=1) > 1e-3]:
        _, scale, codes = quantize_data(row, onnx.TensorProto.INT8, symmetric=True, reduce_range=True)
        mine, scales = quantize(row[None], axis=1)
        np.testing.assert_allclose(scales[0, 0], np.float32(scale), rtol=1e-6)
        assert np.abs(mine[0].astype(int) - codes.astype(int)).max() <= 1  # ties


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_dense_tower_in_int8_is_what_onnxruntimes_quantizer_makes_of_it(tmp_path, activation):
    architecture = dataclasses.replace(ARCHITECTURE, activation=activation)
    merged = write_merged(tmp_path / "merged", tasks=1, architecture=architecture)
    for precision in ("fp32", "int8"):
        export_bundle(merged.path, tmp_path / precision, ExportOptions(precision=precision, **LOOSE))
    exact = onnx.load(tmp_path / "fp32/dense.onnx")
    onnx.save(exact, tmp_path / "whole.onnx")
    # The quantizer turns Gemm into MatMul and renames it.
    kept = [f"{node.name}_MatMul" for node in exact.graph.node if node.name.startswith("patch_embedding/")]
    quantize_dynamic(
        tmp_path / "whole.onnx",
        tmp_path / "quantized.onnx",
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
        extra_options={"MatMulConstBOnly": True},
    )
    pixels = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    ours, expected = (
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixel_values": pixels})[0]
        for path in (tmp_path / "int8/dense.onnx", tmp_path / "quantized.onnx")
    )
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_nibbles_are_laid_out_as_onnxruntimes_kernel_reads_them():
    weights = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)  # [N, K]
    codes, scales = quantize_blocks(weights, bits=4)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> one (float[64, 64] x) => (float[64, 6] y) {
            y = com.microsoft.MatMulNBits<K = 64, N = 6, bits = 4, block_size = 32>(x, codes, scales)
        }""")
    for name, value in (("codes", pack_int4(codes).reshape(6, 2, 16)), ("scales", scales.reshape(-1))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    read = session.run(None, {"x": np.eye(64, dtype=np.float32)})[0].T
    exact = codes.reshape(6, 2, 32) * scales[:, :, None]
    np.testing.assert_allclose(read, exact.reshape(6, 64), atol=1e-6)


@given(rank=st.integers(1, 5), seed=st.integers(0, 999))
def test_expanded_nibbles_are_the_stored_values(rank, seed):
    random = np.random.default_rng(seed)
    rows = {
        "A": random.standard_normal((rank, 70)).astype(np.float32),
        "B": random.standard_normal((rank, 45)).astype(np.float32),
    }
    stored, values = {"ln.bias": np.ones(3, np.float32)}, {}
    for name, value in rows.items():
        codes, scales = quantize_blocks(value, bits=4)
        scales = scales.astype(np.float16)
        stored |= {f"q.{name}_nibbles": pack_int4(codes), f"q.{name}_block_scales": scales}
        exact = codes.reshape(rank, -1, 32) * scales[:, :, None].astype(np.float32)
        values[name] = exact.reshape(rank, -1)[:, : value.shape[1]]
    expanded = expand(stored, {"q.A_codes": [70, "rank"], "q.B_codes": ["rank", 45]}, {}, "it")
    assert set(expanded) == {"ln.bias", "q.A_codes", "q.B_codes", "q.scale"}
    product = (expanded["q.A_codes"] * expanded["q.scale"]) @ (expanded["q.B_codes"] / np.float32(64))
    expected = values["A"].T @ values["B"]
    assert np.linalg.norm(product - expected) <= 0.02 * np.linalg.norm(expected)


@given(
    hnp.array_shapes(min_dims=1, max_dims=2, max_side=9).flatmap(
        lambda shape: hnp.arrays(np.float32, (2, *shape), elements=st.floats(-4, 4, width=32))
    )
)
def test_a_vector_s_change_is_expanded_to_within_half_a_step(pair):
    vector, default = pair
    codes, scale = quantize_change(vector, default)
    assert np.abs(codes.astype(int)).max() <= 127
    expanded = expand({"ln.change_codes": codes, "ln.change_scale": scale}, {}, {"ln": default}, "it")["ln"]
    assert (expanded.shape, expanded.dtype) == (vector.shape, np.float32)
    rows, away = scale.reshape(-1, 1), np.abs(expanded.astype(float) - vector).reshape(len(scale), -1)
    assert (away <= rows / 2 * (1 + 1e-5) + 1e-6).all()
    np.testing.assert_allclose(
        expanded, default + rows.astype(float).reshape(*scale.shape[: codes.ndim - 1], 1) * codes, atol=1e-6
    )


def test_experts_in_4_bits_are_accounted_for_as_they_are_in_memory(tmp_path):
    architecture = dataclasses.replace(ARCHITECTURE, width=192, mlp_width=768)
    merged = write_merged(tmp_path / "merged", architecture=architecture, rank=16)
    report = export_bundle(merged.path, tmp_path / "bundle", ExportOptions(expert_precision="int4", **LOOSE))
    with EdgeModel.open(report.path) as model:
        model.embed(IMAGES[0], task="task0")
        with model.scope.experts.use("task0") as held:
            size = sum(array.nbytes for array in held.arrays.values())
            assert size <= model.stats().resident_bytes <= 1.25 * size


def test_what_experts_cost_in_bits_does_not_touch_the_plain_backbone(tmp_path):
    merged = write_merged(tmp_path / "merged")
    plain = {}
    for precision in ("fp32", "int8"):
        path = export_bundle(merged.path, tmp_path / precision, ExportOptions(expert_precision=precision, **LOOSE)).path
        with EdgeModel.open(path) as model:
            pixels = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
            plain[precision] = model.scope.embed_plain(pixels)
    np.testing.assert_allclose(plain["int8"], plain["fp32"], atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_folded_task_is_its_expert_without_one(tmp_path, precision):
    merged = write_merged(tmp_path / "merged")
    export_bundle(merged.path, tmp_path / "all")
    report = export_bundle(merged.path, tmp_path / "one", ExportOptions(fold="task1", precision=precision))
    assert set(report.files) == {"backbone.bin", "bundle.json", "golden.npz", "heads/task1.npy", "tower.onnx"}
    verify(report.path).check()
    with EdgeModel.open(tmp_path / "all") as every, EdgeModel.open(report.path, expert_budget=0) as one:
        assert one.tasks == ("task1",)
        expected = every.embed(IMAGES, task="task1")
        assert (one.embed(IMAGES) * expected).sum(1).min() >= (0.99999 if precision == "fp32" else 0.99)
        np.testing.assert_array_equal(one.embed(IMAGES), one.embed(IMAGES, task="task1"))
        assert {route.tasks for route in one.route(IMAGES)} == {("task1",)}
        assert one.stats().bytes_loaded == 0


@pytest.mark.parametrize(
    ("scope", "options", "error", "message"),
    [
        ("image", {"top_k": 4}, OptionError, "top_k is 4, must be between 1 and the number of tasks, 3"),
        ("image", {"top_k": 0}, OptionError, "top_k is 0, must be between 1"),
        ("image", {"tasks": []}, OptionError, "tasks must be different names, at least one, not none"),
        ("image", {"tasks": ["task0"] * 2}, OptionError, "tasks must be different names, at least one, not task0, task0"),
        ("image", {"fold": "task1", "tasks": ["task1"]}, OptionError, "fold: exports one task alone; leave out tasks"),
        ("layer", {"fold": "task1"}, OptionError, "fold: the gates of scope 'layer' differ from image to image"),
        ("image", {"fold": "task1", "expert_precision": "fp16"}, OptionError, "expert_precision: a folded task has no expert"),
        ("image", {"fold": "task1", "router_precision": "int8"}, OptionError, "router_precision: only bundles of scope 'image"),
        ("layer", {"router_precision": "int8"}, OptionError, "router_precision: only bundles of scope 'image'"),
        ("image", {"min_cosine": 1.5}, OptionError, r"min_cosine is 1.5, must be between 0 and 1"),
        (
            "image",
            {"precision": "int4", "min_cosine": 0.9999},
            ParityError,
            r"cosine 0\.\d+ \(at least 0.9999\).*choose a higher precision",
        ),
        (
            "layer",
            {"precision": "int4", "min_cosine": 0.0, "min_route_agreement": 1.0},
            ParityError,
            r"of the routes agree \(at least 100.0%\)",
        ),
    ],
)
def test_what_is_refused(tmp_path, scope, options, error, message):
    merged = write_merged(tmp_path / "merged", scope=scope)
    with pytest.raises(error, match=message):
        export_bundle(merged.path, tmp_path / "bundle", ExportOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_reported_accuracy_is_that_of_both_implementations(task_file, image_model, tmp_path):
    options = ["--precision", "int8", "--images", str(task_file), "--min-cosine", "0.9", "--max-accuracy-drop", "100"]
    result = CliRunner().invoke(main, ["export", str(image_model.path), "-o", str(tmp_path / "bundle"), *options])
    assert result.exit_code == 0, result.output
    pytorch = evaluate(image_model.path, task_file, device="cpu")
    lines = re.findall(r"^ +(task\d) +(\d+)  (P1|P2) +([\d.]+) +([\d.]+) +(-?[\d.]+) ", result.output, re.MULTILINE)
    table = [(*one[:2], *one[3:5], *other[3:5]) for one, other in zip(lines[::2], lines[1::2], strict=True)]
    assert [line[2] for line in lines] == ["P1", "P2"] * len(table)
    assert [float(line[5]) for line in lines] == pytest.approx([float(line[3]) - float(line[4]) for line in lines], abs=0.015)
    with EdgeModel.open(tmp_path / "bundle") as edge:
        for i, (task, count, *shown) in enumerate(table):
            images = sorted((task_file.parent / "test" / task).glob("*/*"))
            own = [image.parent.name for image in images]
            right = [
                100 * np.mean([prediction.labels[0] == label for prediction, label in zip(answers, own, strict=True)])
                for answers in (edge.classify(images, head=task), edge.classify(images, task))
            ]
            assert (task, int(count)) == (image_model.task_names[i], len(images))
            expected = [pytorch.final["P1"][i], right[0], pytorch.final["P2"][i], right[1]]
            assert [float(value) for value in shown] == pytest.approx(expected, abs=0.005)
    assert len(table) == len(image_model.tasks)


def test_tasks_without_test_images_are_named(task_file, image_model, tmp_path):
    some = task_file.with_name("SOME.toml")
    some.write_text(task_file.read_text().replace('test = "test/task1/<class>/*.png"\n', ""))
    result = CliRunner().invoke(main, ["export", str(image_model.path), "-o", str(tmp_path / "bundle"), "--images", str(some)])
    assert result.exit_code == 0, result.output
    assert f"not measured, as {some} gives no test images: task1\n" in result.stdout
    assert re.findall(r"^ +(task\d) .* P1 ", result.stdout, re.MULTILINE) == ["task0", "task2"]


def test_layers_return_to_fp32_until_labels_stay(task_file, image_model, tmp_path, monkeypatch):
    options = ExportOptions(precision="int8", images=task_file, min_cosine=0.5, max_accuracy_drop=100)
    shares = iter([0.5, 0.5, 1.0])
    tried = []

    def agreement(bundle, *arguments):
        tried.append(set(bundle.index.exact_layers))
        return next(shares)

    monkeypatch.setattr(calibration, "label_agreement", agreement)
    report = export_bundle(image_model.path, tmp_path / "bundle", options)
    layers = len(image_model.architecture.linear_layers())
    assert tried[0] == {"patch_embedding"} < tried[1] < tried[2] == set(report.exact_layers)
    assert [len(exact - {"patch_embedding"}) for exact in tried[1:]] == pytest.approx([layers / 12, layers / 6], abs=1)
    monkeypatch.setattr(calibration, "label_agreement", lambda *arguments: 0.9)
    report = export_bundle(image_model.path, tmp_path / "no help", options)
    assert report.exact_layers == ("patch_embedding",)


@pytest.mark.parametrize("options", [{}, {"expert_precision": "int4", "top_k": 2}, {"fold": "task0"}], ids=str)
def test_layers_are_chosen_by_what_the_bundle_then_computes(task_file, image_model, tmp_path, monkeypatch, options):
    random, references, agreements = np.random.default_rng(0), {}, []
    right = calibration.label_agreement

    def agreement(bundle, merged, learned):
        """With labels that are right by chance."""
        references.update({task: random.standard_normal(embeds.shape) for task, embeds in learned.embeds.items()})
        agreements.append(right(bundle, merged, dataclasses.replace(learned, embeds=references)))
        return 1.0

    monkeypatch.setattr(calibration, "label_agreement", agreement)
    choice = ExportOptions(precision="int8", images=task_file, min_cosine=0.5, max_accuracy_drop=100, **options)
    path = export_bundle(image_model.path, tmp_path / "bundle", choice).path
    assert not list(path.glob("trial*"))
    same = []
    with EdgeModel.open(path) as edge:
        for task, reference in references.items():
            embeds = edge.embed(sorted((task_file.parent / "seeds" / task).iterdir()), task)
            labels, random_labels = ((x @ image_model.head(task).weight.T).argmax(1) for x in (embeds, reference))
            same += (labels == random_labels).tolist()
    assert agreements == [np.mean(same)]
    assert 0 < agreements[0] < 1


def test_a_bundle_that_loses_accuracy_is_refused(task_file, image_model, tmp_path, monkeypatch):
    equal = PairedAccuracy(200, 180, 180, 0)
    lossy = [TaskAccuracy("a", PairedAccuracy(200, 200, 197, 3), equal), TaskAccuracy("b", PairedAccuracy(200, 9, 9, 1), equal)]
    monkeypatch.setattr(labeled_accuracy, "measure_accuracy", lambda *arguments: lossy)
    message = (
        r"costs 0.75 points of accuracy in the mean over 2 tasks \(95% interval -0.\d+ to [12].\d+\), at most 0.5 are allowed"
    )
    with pytest.raises(AccuracyError, match=message) as caught:
        export_bundle(image_model.path, tmp_path / "bundle", ExportOptions(precision="int8", images=task_file, min_cosine=0.5))
    assert caught.value.accuracy is lossy
    assert not (tmp_path / "bundle").exists()
    options = ["--precision", "int8", "--images", str(task_file), "--min-cosine", "0.5"]
    result = CliRunner().invoke(main, ["export", str(image_model.path), "-o", str(tmp_path / "bundle"), *options])
    assert result.exit_code == 5
    assert [line.split()[:6] for line in result.stdout.splitlines()[2:6:2]] == [
        ["a", "200", "P2", "100.00", "98.50", "1.50"],
        ["b", "200", "P2", "4.50", "4.50", "0.00"],
    ]
    assert result.stderr.endswith("or allow more with --max-accuracy-drop\n")


def test_a_bundle_that_is_not_close_shows_every_part(image_model, tmp_path):
    options = ["--precision", "int4", "--min-cosine", "0.9999"]
    result = CliRunner().invoke(main, ["export", str(image_model.path), "-o", str(tmp_path / "bundle"), *options])
    assert result.exit_code == 5
    parts = [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]
    assert [part[0] for part in parts] == [
        *("part", "dense tower", "tower without expert", *(f"router, {stage.name}" for stage in image_model.cascade().stages)),
        *("expert task0", "expert task1", "expert task2", "mixture of two"),
    ]
    assert all(0.5 < float(cosine) < 0.9999 for name, cosine, *_ in parts[1:] if not name.startswith("router"))
    assert parts[3][-1].endswith(" of 10)")  # of batches of 1, 2 and 7 images
    assert result.stderr.endswith("or allow it with --min-cosine\n")


def test_images_of_other_tasks_are_refused(task_file, image_model, tmp_path):
    with pytest.raises(TaskFileError, match=r"holds the tasks task1, task2, which .*first-1.toml does not list; also name"):
        export_bundle(image_model.path, tmp_path / "bundle", ExportOptions(precision="int8", images=first_tasks(task_file, 1)))


def test_smoothing_changes_nothing_but_the_difficulty(tmp_path):
    """Where every layer stays in fp32, a smoothed model equals the plain one, in all scopes."""
    random = np.random.default_rng(0)
    for scope in ("image", "layer"):
        merged = write_merged(tmp_path / scope, scope=scope)
        layers = merged.architecture.linear_layers()
        peaks = {
            layer: random.uniform(0.1, 50, merged.architecture.linear_shape(layer)[1]).astype(np.float32) for layer in layers
        }
        smoothing = Smoothing.from_peaks(merged.architecture, merged.backbone(), peaks)
        chosen = calibration.Calibration({}, {}, smoothing, dict.fromkeys(layers, 0.0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calibration, "calibrate", lambda *arguments, chosen=chosen: chosen)
            patch.setattr(task_images, "read_task_images", lambda *arguments: task_images.TaskImages({}, []))
            patch.setattr(calibration, "label_agreement", lambda *arguments: 1.0)
            patch.setattr(calibration, "SHARES", (1.0,))  # every layer of the backbone stays in fp32
            exact = ExportOptions(precision="int8", expert_precision="fp32", images=tmp_path / "tasks.toml")
            report = export_bundle(merged.path, tmp_path / f"{scope}-bundle", exact)
        assert report.parity.cosine >= 0.99999
        assert report.parity.route_agreement == 1


def test_a_router_in_int8_leaves_the_tower_exact_and_images_apart(tmp_path):
    merged = write_merged(tmp_path / "merged")
    report = export_bundle(merged.path, tmp_path / "bundle", ExportOptions(router_precision="int8", min_route_agreement=0.5))
    exact = export_bundle(merged.path, tmp_path / "exact")
    assert report.parity.cosine >= 0.99999
    assert report.parity.posterior > exact.parity.posterior
    index = Bundle.open(report.path).index
    assert {stage.name: stage.precision for stage in index.router.stages} == {
        "pixels": "fp32",
        "blocks": "int8",
        "embedding": "fp32",
    }
    assert (index.router.one_by_one, index.one_by_one) == (True, False)
    with EdgeModel.open(report.path) as model, EdgeModel.open(exact.path) as other:
        together, alone = model.route(IMAGES), [model.route(image)[0] for image in IMAGES]
        assert together == alone
        posteriors, expected = (np.array([route.posterior for route in one.route(IMAGES)]) for one in (model, other))
        np.testing.assert_allclose(posteriors, expected, atol=0.1)
        np.testing.assert_allclose(model.embed(IMAGES, task="task2"), other.embed(IMAGES, task="task2"), atol=1e-6)
