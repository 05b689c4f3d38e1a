"""What an exported bundle holds, against docs/bundle-format.md and the merged model it came from."""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from tiny_merged import ARCHITECTURE, write_merged

from mingle_edge.cli import main
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.bundle.image_scope import STAGES
from mingle_edge_export.cached_model import KEPT_EXPERTS
from mingle_edge_export.check.golden_images import steadiest
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.check.verify import verify


@pytest.fixture(scope="module", params=["image", "layer"])
def exported(request, tmp_path_factory):
    """A merged model and its bundle, of each scope."""
    folder = tmp_path_factory.mktemp(request.param)
    merged = write_merged(folder / "merged", scope=request.param)
    export_bundle(merged.path, folder / "bundle", ExportOptions(top_k=2))
    return merged, Bundle.open(folder / "bundle")


def graphs(bundle):
    """Every graph of a bundle without its external data."""
    names = [name for name in bundle.index.files if name.endswith(".onnx")]
    return {name: onnx.load(bundle.file(name), load_external_data=False) for name in names}


def test_files_are_those_of_the_specification(exported):
    merged, bundle = exported
    expected = {"backbone.bin", "tower.onnx", "tower_required_inputs.onnx", "dense.onnx", "golden.npz"}
    expected |= {f"heads/{name}.npy" for name in merged.task_names}
    if merged.scope == "image":
        expected |= {f"experts/{name}.onnx_adapter" for name in merged.task_names}
        expected |= {"router.bin", *(STAGES[stage.name] for stage in merged.cascade().stages)}
    else:
        expected |= {"experts.bin", "gates.bin"}
    assert set(bundle.index.files) == expected
    files = {path.relative_to(bundle.root).as_posix() for path in bundle.root.rglob("*") if path.is_file()}
    assert files == expected | {"bundle.json"}
    for name, record in bundle.index.files.items():
        assert hashlib.sha256((bundle.root / name).read_bytes()).hexdigest() == record.sha256


def test_index_repeats_the_merged_model(exported):
    merged, bundle = exported
    index = bundle.index
    assert index.scope == merged.scope
    assert [(task.name, list(task.labels), task.rank) for task in index.tasks] == [
        (task.name, task.classes, 5) for task in merged.tasks
    ]
    assert (index.top_k, index.logit_scale, index.minimum_onnxruntime) == (2, 100.0, "1.20.0")
    assert index.source.backbone_sha256 == merged.backbone_sha256
    assert index.source.tasks == {task.name: task.source_sha256 for task in merged.tasks}
    assert index.preprocess == ARCHITECTURE.preprocess
    for task in merged.task_names:
        head = np.load(bundle.file(f"heads/{task}.npy"), allow_pickle=False)
        np.testing.assert_array_equal(head, merged.head(task).weight)


def test_graphs_are_what_old_devices_load(exported):
    _, bundle = exported
    for name, model in graphs(bundle).items():
        onnx.checker.check_model(bundle.file(name), full_check=True)
        assert model.ir_version == 8
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert {node.domain for node in model.graph.node} == {""}
        assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in model.graph.output)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_external_data_is_aligned_shared_and_not_overlapping(exported):
    merged, bundle = exported
    places = {}
    for model in graphs(bundle).values():
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entry = {item.key: item.value for item in tensor.external_data}
                place = (entry["location"], int(entry["offset"]), int(entry["length"]))
                assert places.setdefault(tensor.name, place) == place
    assert all(offset % 4096 == 0 for _, offset, _ in places.values())
    in_backbone = sorted((offset, length) for location, offset, length in places.values() if location == "backbone.bin")
    ends = [offset + length for offset, length in in_backbone]
    assert all(end <= start for end, (start, _) in zip(ends, in_backbone[1:], strict=False))
    assert len(in_backbone) == len(merged.architecture.parameter_shapes())
    assert bundle.index.files["backbone.bin"].size == ends[-1]
    assert all(len(tensor.raw_data) < 64 << 10 for model in graphs(bundle).values() for tensor in model.graph.initializer)


def test_the_tower_with_required_inputs_has_no_defaults_and_computes_the_same(exported):
    _, bundle = exported
    assert bundle.index.tower_required_inputs == "tower_required_inputs.onnx"
    tower, required = (onnx.load(bundle.file(name)).graph for name in (bundle.index.tower, "tower_required_inputs.onnx"))
    inputs = [value.name for value in tower.input]
    assert ([value.name for value in required.input], len(inputs) > 1) == (inputs, True)
    assert {tensor.name for tensor in required.initializer} == {tensor.name for tensor in tower.initializer} - set(inputs)
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in tower.initializer if tensor.name in inputs}
    assert {"pixel_values", *defaults} == set(inputs)
    pixels = {"pixel_values": np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)}
    sessions = [
        ort.InferenceSession(bundle.file(name), providers=["CPUExecutionProvider"])
        for name in (bundle.index.tower, bundle.index.tower_required_inputs)
    ]
    plain, fed = (session.run(None, feeds) for session, feeds in zip(sessions, (pixels, pixels | defaults), strict=True))
    for expected, output in zip(plain, fed, strict=True):
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exported", ["image"], indirect=True)
def test_defaults_are_the_backbone_s_vectors(exported):
    merged, bundle = exported
    backbone = merged.backbone()
    assert set(bundle.index.defaults.tensors) == set(merged.architecture.vector_shapes())
    for name, tensor in bundle.index.defaults.tensors.items():
        value = np.fromfile(bundle.file("backbone.bin"), "<f4", int(np.prod(tensor.shape)), offset=tensor.offset)
        np.testing.assert_array_equal(value.reshape(tensor.shape), backbone[name])


@pytest.mark.parametrize("exported", ["image"], indirect=True)
def test_an_adapter_holds_every_optional_input(exported):
    merged, bundle = exported
    for task in bundle.index.tasks:
        adapter = ort.AdapterFormat.read_adapter(str(bundle.file(task.expert)))
        values = {name: value.numpy() for name, value in adapter.get_parameters().items()}
        inputs = {value.name for value in graphs(bundle)["tower.onnx"].graph.input} - {"pixel_values"}
        assert set(values) == inputs
        expert = merged.expert(task.name)
        for layer in merged.architecture.linear_layers():
            np.testing.assert_array_equal(values[f"{layer}.A"], expert[f"{layer}.A"])
            np.testing.assert_array_equal(values[f"{layer}.B"], expert[f"{layer}.B"].T)
        for name in merged.architecture.vector_shapes():
            np.testing.assert_array_equal(values[name], expert[name])


@pytest.mark.parametrize("exported", ["layer"], indirect=True)
def test_the_page_bank_holds_every_expert_where_the_index_says(exported):
    merged, bundle = exported
    bank = bundle.index.page_bank
    pages = np.fromfile(bundle.file(bank.file), "<f4").reshape(len(merged.tasks), bank.pages_per_task, bank.page)
    assert [layer.name for layer in bank.layers] == merged.architecture.block_linears()
    for content, task in zip(pages, merged.task_names, strict=True):
        expert = merged.expert(task)
        for layer in bank.layers:
            A, B = expert[f"{layer.name}.A"], expert[f"{layer.name}.B"].T
            pages_of_A = -(-A.size // bank.page)
            values = content[layer.first_page : layer.first_page + layer.pages]
            np.testing.assert_array_equal(values[:pages_of_A].ravel()[: A.size], A.ravel())
            np.testing.assert_array_equal(values[pages_of_A:].ravel()[: B.size], B.ravel())


def test_exporting_twice_gives_the_same_bytes(exported, tmp_path):
    merged, bundle = exported
    export_bundle(merged.path, tmp_path / "again", ExportOptions(top_k=2))
    for path in bundle.root.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(bundle.root)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_every_tensor_of_a_small_model_is_read_once(tmp_path, monkeypatch, scope):
    merged, reads = write_merged(tmp_path / "merged", scope=scope), Counter()

    def counted(name):
        read = getattr(MergedModel, name)
        return lambda self, *task: (reads.update([(name, *task)]), read(self, *task))[1]

    for name in ("backbone", "expert", "head", "gates", "cascade"):
        monkeypatch.setattr(MergedModel, name, counted(name))
    export_bundle(merged.path, tmp_path / "bundle", ExportOptions(top_k=2))
    kinds = ["head", "expert", *(["gates"] if scope == "layer" else [])]
    expected = {("backbone",), *((kind, task) for kind in kinds for task in merged.task_names)}
    assert reads == Counter(expected | ({("cascade",)} if scope == "image" else set()))


def test_few_experts_of_many_tasks_are_held_at_once(tmp_path, monkeypatch):
    merged = write_merged(tmp_path / "merged", tasks=3 * KEPT_EXPERTS, rank=1)
    held, most, read = weakref.WeakSet(), [], MergedModel.expert

    class Kept(dict):
        """A dictionary that can be referred to weakly, and is equal to nothing but itself."""

        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def expert(self, task):
        tensors = Kept(read(self, task))
        held.add(tensors)
        most.append(len(held))
        return tensors

    monkeypatch.setattr(MergedModel, "expert", expert)
    export_bundle(merged.path, tmp_path / "bundle")
    assert max(most) <= KEPT_EXPERTS + 1
    assert len(most) <= 2 * len(merged.tasks) + 5  # the reference and the bundle; a mixture, the routes of golden images


def test_golden_outputs_verify(exported):
    merged, bundle = exported
    golden = np.load(bundle.file("golden.npz"), allow_pickle=False)
    assert golden["images"].shape == (2, 32, 32, 3)
    assert golden["embeds"].shape == (3 if merged.scope == "image" else 2, 2, 24)  # experts; or top_k as exported, and 3
    router = {"plain", "posterior", "losses", "confidence"} if merged.scope == "image" else set()
    assert set(golden) == {"images", "embeds", "probabilities"} | router
    assert golden["probabilities"].shape == ((2 if router else 1), 2, 9)
    np.testing.assert_allclose(golden["probabilities"].sum(-1), 1, atol=1e-6)
    verification = verify(bundle.root)
    assert min(verification.cosines.values()) >= 0.99999
    assert max(verification.differences.values()) <= 1e-3


def test_the_command_line_exports_chosen_tasks_in_their_order(tmp_path):
    merged = write_merged(tmp_path / "merged")
    arguments = ["export", str(merged.path), "-o", str(tmp_path / "bundle"), "--tasks", "task2, task0", "--top-k", "2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"cosine at least (0\.99999|1\.0000)", result.output)
    assert re.search(r"^experts: 2 of 2$", result.output, re.MULTILINE)  # progress
    index = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert [task["name"] for task in index["tasks"]] == ["task2", "task0"]
    assert sorted(path.name for path in (tmp_path / "bundle/heads").iterdir()) == ["task0.npy", "task2.npy"]
    assert [len(task["labels"]) for task in index["tasks"]] == [4, 2]
    assert index["top_k"] == 2


MARGINS = (0.0001, 0.2, -0.0002, 0.01, -0.3, 0.0)


def routed(pixels):
    """Embeddings `[2, n, 2]`: by one of two experts, whichever the mean of an image asks for, and by one for all."""
    by_mean = np.where(pixels.mean((1, 2, 3))[:, None] > 0, [1.0, 0.0], [0.0, 1.0])
    return np.stack([by_mean, np.broadcast_to([1.0, 0.0], by_mean.shape)]).astype(np.float32)


def test_images_far_from_a_tie_are_chosen():
    pixels = np.stack([np.full((3, 2, 2), margin, np.float32) for margin in MARGINS])
    for count in (1, 3):
        chosen = steadiest(routed, pixels, count)
        assert len(chosen) == count
        assert set(chosen) <= {1, 3, 4}  # noise moves a mean by at most a hundredth


def test_equally_steady_images_keep_their_order():
    pixels = np.ones((4, 3, 2, 2), np.float32)
    assert steadiest(routed, pixels, 4).tolist() == [0, 1, 2, 3]
