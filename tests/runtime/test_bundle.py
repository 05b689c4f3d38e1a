"""bundle.json: strict about types and rules, silent about what it does not know; and files that do not fit it."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import TASKS, Weights, images, relist, rewrite, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import Bundle, BundleError, EdgeModel, ProviderError
from mingle_edge_runtime.bundle.external_data import check_external_data
from mingle_edge_runtime.bundle.index import BundleIndex
from mingle_edge_runtime.bundle.rules import check_relative, check_rules


def read_json(bundle: Path) -> dict[str, Any]:
    """The parsed bundle.json."""
    record: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return record


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_what_is_written_is_read_back(bundles, scope: str) -> None:
    bundle = Bundle.open(bundles[scope, 1])
    assert bundle.index.scope == scope
    assert BundleIndex.from_json(json.loads(json.dumps(bundle.index.to_json()))) == bundle.index
    assert bundle.index.to_json() == read_json(bundles[scope, 1])


def test_unknown_members_are_ignored(bundles) -> None:
    record = read_json(bundles["image", 1])
    record["tasks"][0]["color"] = record["remark"] = "new"
    assert BundleIndex.from_json(record) == Bundle.open(bundles["image", 1]).index


def stage(name: str, blocks: int = 0) -> dict[str, Any]:
    """A stage of the router as bundle.json has it."""
    return {"name": name, "file": "dense.onnx", "blocks": blocks, "precision": "fp32", "doubt": 0.1, "confidence_bound": 0}


JUDGE = {"typical": [1, 1, 1], "deviation": [1, 1, 1], "trust": 1, "unsure": 0, "bound": 0}
FORM = {"rank": 2, "precision": "int4", "bytes": 9, "points_lost": 0.5, "agreement": 0.9}
INSIDE = r"paths must be relative, use '/', and stay inside the bundle|no control chara"
ESCAPES = ["../secret", "/etc/passwd", "heads/../../secret", "..\\secret", "C:secret", "./tower.onnx", "", "a//b", "a\0b"]
MISTAKES: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("image", ("format",), "bundle", "this is not a bundle"),
    ("image", ("format_version",), 99, r"format_version is 99, this runtime reads up to \d: upgrade"),
    ("image", ("format_version",), "1", "format_version must be an integer, is '1'"),
    (
        "image",
        ("format_version",),
        2,
        r"format_version is 2, this runtime reads \d: export again \(older bundles have a router of one stage",
    ),
    ("image", ("scope",), "block", "scope must be one of image, layer, folded, is 'block'"),
    ("image", ("top_k",), True, "top_k must be a number, is True"),
    ("image", ("top_k",), 4, "top_k is 4, must be between 1 and the 3 tasks"),
    ("image", ("tasks",), {}, "tasks must be a list, is {}"),
    ("image", ("tasks", 1, "rank"), 1.5, r"tasks\[1\].rank must be an integer, is 1.5"),
    ("image", ("tasks", 1, "labels", 2), None, r"tasks\[1\].labels\[2\] must be a string, is missing"),
    ("image", ("tasks", 1, "labels"), [], r"tasks\[1\].labels of task .* is empty"),
    ("image", ("tasks", 1, "labels"), ["a", "b", " ", "d"], r"tasks\[1\].labels of task 'green' holds a blank one"),
    ("image", ("tasks", 1, "labels", 2), "", r"tasks\[1\].labels of task 'green' holds a blank one"),
    ("image", ("tasks", 1, "labels"), ["a", "b", "c", "a"], r"tasks\[1\].labels of task 'green' holds 'a' twice"),
    ("image", ("tasks", 1, "labels"), ["a", "b", "c", "a "], r"tasks\[1\].labels of task 'green' holds 'a' twice"),
    ("image", ("tasks", 2, "name"), "RED", r"tasks\[2\].name repeats 'RED'"),
    ("image", ("tasks", 2, "name"), "../red", r"tasks\[2\].name is '../red', must match"),
    ("image", ("tasks", 0, "expert"), None, r"tasks\[0\].expert belongs to the image scope alone"),
    ("image", ("tasks", 0, "expert_bytes"), 7, r"tasks\[0\].expert_bytes is 7, the files say"),
    ("image", ("tasks", 1, "precision"), None, r"tasks\[1\].precision must be one of fp32, .* is missing"),
    ("image", ("tasks", 1, "precision"), "int2", r"tasks\[1\].precision must be one of fp32, fp16, int8, int4, is 'int2'"),
    ("image", ("tasks", 1, "precision"), "int8", "tasks have experts in fp32 and int8, which no tower takes together"),
    ("image", ("tasks", 1, "points_lost"), 0.5, r"tasks\[1\] must have both points_lost and agreement, or neither"),
    ("image", ("tasks", 1, "agreement"), 0.5, r"tasks\[1\] must have both points_lost and agreement, or neither"),
    ("image", ("tasks", 1, "smaller"), {**FORM, "rank": 0}, r"tasks\[1\].smaller.rank is 0, must be at least 1"),
    ("image", ("tasks", 1, "larger"), {**FORM, "bytes": -1}, r"tasks\[1\].larger.bytes is -1, must be at least 1"),
    ("image", ("tasks", 1, "larger"), {**FORM, "points_lost": 101}, r"tasks\[1\].larger.points_lost is 101.0, must be between"),
    (
        "image",
        ("tasks", 1, "larger"),
        {**FORM, "agreement": 1.1},
        r"tasks\[1\].larger.agreement is 1.1, must be between",
    ),
    ("image", ("tasks", 1, "larger"), {"rank": 1}, r"tasks\[1\].larger.precision must be one of .* is missing"),
    ("image", ("preprocess", "mean"), [0.5, 0.5], "preprocess.mean must have 3 items, has 2"),
    ("image", ("preprocess", "std", 0), 0, "preprocess.std is .* must be positive"),
    ("image", ("preprocess", "image_size"), 10**9, "preprocess.image_size is 1000000000"),
    ("image", ("preprocess", "resized_side"), 1, "preprocess.resized_side is 1, must be between image_size, 8, and 4096"),
    ("image", ("preprocess", "resized_side"), 10**9, "preprocess.resized_side is 1000000000, must be between"),
    ("image", ("preprocess", "fill"), 256, "preprocess.fill is 256, must be between 0 and 255"),
    (
        "image",
        ("preprocess", "resize"),
        "crop",
        "preprocess.resize must be one of shortest_edge, longest_edge, squash, is 'crop'",
    ),
    ("image", ("preprocess", "interpolation"), "cubic", "preprocess.interpolation must be one of nearest, box, bilinear"),
    ("image", ("preprocess", "rgb"), None, "preprocess.rgb must be one of after_crop, before_resize, .* is missing"),
    ("image", ("fidelity", "golden_difference"), None, "fidelity.golden_difference must be a number, is missing"),
    ("image", ("fidelity", "golden_difference"), 1.5, "fidelity.golden_difference is 1.5, must be between 0 and 1"),
    ("image", ("logit_scale",), -1, "logit_scale is -1.0, must be positive"),
    ("image", ("minimum_onnxruntime",), "newest", "minimum_onnxruntime must be a dotted version"),
    ("image", ("files", "tower.onnx", "sha256"), "abc", "files.tower.onnx.sha256 is not 64"),
    ("image", ("files", "tower.onnx"), None, "files.tower.onnx must be an object, is missing"),
    ("image", ("tower",), "tower2.onnx", "tower names 'tower2.onnx', which files does not list"),
    ("image", ("tower_required_inputs",), "tower2.onnx", "tower_required_inputs names 'tower2.onnx', which files does not"),
    ("image", ("router",), None, "router must be there in the image scope"),
    ("image", ("router", "stages"), [], "router.stages are none, must be pixels, then perhaps blocks, then perhaps embedding"),
    ("image", ("router", "stages"), [stage("blocks")], "router.stages are blocks, must be pixels, then perhaps blocks, then"),
    (
        "image",
        ("router", "stages"),
        [stage("pixels"), stage("embedding"), stage("blocks")],
        "are pixels, embedding, blocks, must",
    ),
    (
        "image",
        ("router", "stages"),
        [stage("pixels"), stage("pixels")],
        "router.stages are pixels, pixels, must be pixels, then",
    ),
    (
        "image",
        ("router", "stages", 0, "name"),
        "experts",
        r"stages\[0\].name must be one of pixels, blocks, embedding, is 'exp",
    ),
    (
        "image",
        ("router", "stages", 0, "file"),
        "stage.onnx",
        r"router.stages\[0\].file names 'stage.onnx', which files does not",
    ),
    ("image", ("router", "stages", 0, "blocks"), 1, r"router.stages\[0\].blocks is 1, stage pixels reads none"),
    ("image", ("router", "stages"), [stage("pixels"), stage("blocks", -1)], r"stages\[1\].blocks is -1, must not be negative"),
    ("image", ("router", "stages", 0, "doubt"), math.nan, "NaN is not a number"),
    ("image", ("router", "stages", 0, "confidence_bound"), math.inf, "Infinity is not a number"),
    ("image", ("router", "judge"), JUDGE | {"typical": [1, 2]}, "router.judge.typical has 2 numbers, there are 3 tasks"),
    ("image", ("router", "judge"), JUDGE | {"deviation": [1] * 4}, "router.judge.deviation has 4 numbers, there are 3 tasks"),
    ("image", ("router", "judge"), JUDGE | {"deviation": [1, 0, 1]}, "router.judge.deviation has 0.0, all must be positive"),
    ("image", ("router", "judge"), JUDGE | {"deviation": [1, math.nan, 1]}, "NaN is not a number"),
    ("image", ("router", "judge"), JUDGE | {"trust": -1}, "router.judge.trust is -1.0, must not be negative"),
    ("image", ("router", "judge"), {"trust": 1}, "router.judge.typical must be a list, is missing"),
    (
        "image",
        ("router", "groups"),
        {"a": ["red"], "b": ["blue", "red"]},
        "router.groups names task 'red' 2 times, a task is in",
    ),
    ("image", ("router", "groups"), {"a": ["red", "red"]}, "router.groups names task 'red' 2 times, a task is in one"),
    ("image", ("router", "groups"), {"a": ["pink"]}, "router.groups names 'pink', which is no task"),
    ("image", ("router", "groups"), {"a": []}, "router.groups.a is empty"),
    ("image", ("router", "groups"), {" ": ["red"]}, "router.groups has ' ', names must match"),
    ("image", ("defaults", "tensors", "ln_post.bias", "offset"), 100, "offset is 100, no multiple of 4096"),
    ("image", ("defaults", "tensors", "ln_post.bias", "shape"), [1 << 40], "ends at byte"),
    ("layer", ("page_bank",), None, "page_bank must be there in the layer scope"),
    ("layer", ("page_bank", "page"), 0, "page_bank.page and .pages_per_task must be positive"),
    ("layer", ("page_bank", "layers", 1, "first_page"), 1, r"page_bank.layers\[1\] starts at page 1, inside"),
    ("layer", ("page_bank", "layers", 1, "pages"), 3, "layers end at page 5 of 4"),
    (
        "layer",
        ("router",),
        {"stages": []},
        "router must be absent",
    ),
    *(("image", ("files", name), {"size": 1, "sha256": "0" * 64}, INSIDE) for name in ESCAPES),
]


@pytest.mark.parametrize(("scope", "path", "value", "message"), MISTAKES)
def test_mistakes_are_named_by_their_path(bundles, tmp_path, scope: str, path, value, message: str) -> None:
    def change(record: Any) -> None:
        for step in path[:-1]:
            record = record[step]
        record[path[-1]] = value

    shutil.copytree(bundles[scope, 1], tmp_path / "copy")
    rewrite(tmp_path / "copy", change)
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(tmp_path / "copy")


def test_a_folded_bundle_has_no_second_tower(image_bundle) -> None:
    index = Bundle.open(image_bundle).index
    task = replace(index.tasks[0], expert=None, expert_bytes=0)
    folded = replace(index, scope="folded", tasks=(task,), router=None, defaults=None)
    check_rules(folded)
    with pytest.raises(BundleError, match="tower_required_inputs must be absent in a folded bundle"):
        check_rules(replace(folded, tower_required_inputs="tower.onnx"))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_value_anywhere_raises_anything_but_a_bundle_error(bundles, data) -> None:
    record = read_json(bundles[data.draw(st.sampled_from(["image", "layer"])), 1])
    target: Any = record
    while True:
        step = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        if not isinstance(target[step], (dict, list)) or not target[step] or data.draw(st.booleans()):
            break
        target = target[step]
    target[step] = data.draw(JSON_VALUES)
    with suppress(BundleError):
        check_rules(BundleIndex.from_json(record))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"format": NaN}', "NaN is not a number"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "this is not a bundle"),
    ],
)
def test_an_unreadable_index_is_refused(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path)


def test_a_bundle_for_a_newer_onnxruntime_is_refused(bundle) -> None:
    rewrite(bundle, lambda record: record.update(minimum_onnxruntime="99.1"))
    with pytest.raises(ProviderError, match=r"needs onnxruntime 99.1 or newer, .* is installed: upgrade it"):
        EdgeModel.open(bundle)


def test_two_tasks_may_have_the_same_label(bundle) -> None:
    rewrite(bundle, lambda record: [task.update(labels=["a", "b", "c", "d"]) for task in record["tasks"]])
    Bundle.open(bundle)


@given(st.text(max_size=12))
def test_a_path_that_is_accepted_stays_inside(name: str) -> None:
    try:
        check_relative(name, "files")
    except BundleError:
        return
    assert Path(os.path.normpath(Path("/bundle") / name)).is_relative_to("/bundle")
    assert os.path.normpath(name) == name


def test_linked_folders_are_refused(bundle, tmp_path) -> None:
    shutil.move(bundle / "heads", tmp_path / "outside")
    os.symlink(tmp_path / "outside", bundle / "heads")
    with pytest.raises(BundleError, match=r"heads/.* must be a plain file, not a link"):
        Bundle.open(bundle)


def test_missing_and_truncated_files_are_named(tmp_path) -> None:
    bundle = write_layer_bundle(tmp_path / "layer", Weights())
    os.truncate(bundle / "experts.bin", 5000)
    with pytest.raises(BundleError, match=r"experts.bin has 5000 bytes, bundle.json says 49152: copy or export it again"):
        EdgeModel.open(bundle)
    (bundle / "experts.bin").unlink()
    with pytest.raises(
        BundleError, match=r"experts.bin is listed in bundle.json but cannot be read: No such file .*; copy or export"
    ):
        EdgeModel.open(bundle)


@pytest.mark.parametrize("name", ["tower.onnx", "router.onnx"])
@pytest.mark.parametrize("location", ["../secret.bin", "secret.bin"])
def test_weights_outside_the_bundle_are_not_read(bundle, name: str, location: str) -> None:
    (bundle.parent / "secret.bin").write_bytes(bytes(4096))
    (bundle / "secret.bin").write_bytes(bytes(4096))
    graph = onnx.load(bundle / name, load_external_data=False)
    tensor = onnx.TensorProto(name="secret", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    node = graph.graph.node.add(op_type="Constant", output=["leak"])
    node.attribute.add(name="value", t=tensor, type=onnx.AttributeProto.TENSOR)
    (bundle / name).write_bytes(graph.SerializeToString())
    relist(bundle, name)
    with pytest.raises(BundleError, match=f"{name} reads weights from '{location}', which is no file of the bundle"):
        EdgeModel.open(bundle)


@given(st.binary(max_size=200))
def test_any_bytes_for_a_graph_are_refused_or_harmless(content: bytes) -> None:
    with suppress(BundleError):
        check_external_data(content, "graph.onnx", [])


@pytest.mark.parametrize(
    ("file", "stand_in", "message"),
    [
        ("tower.onnx", "router.onnx", r"expert 'red' in .*red.onnx_adapter holds '.*', which is no input of the tower"),
        ("router.onnx", "dense.onnx", r"router.onnx does not run: .*posterior"),
    ],
)
def test_graphs_with_other_outputs_are_named(bundle, file: str, stand_in: str, message: str) -> None:
    shutil.copy(bundle / stand_in, bundle / file)
    relist(bundle, file)
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError, match=message):
        model.embed(images(0, 3))


@pytest.mark.parametrize("write", [write_image_bundle, write_layer_bundle])
def test_graphs_of_other_sizes_are_named(tmp_path, write) -> None:
    bundle = write(tmp_path / "bundle", Weights())
    rewrite(bundle, lambda record: record["architecture"].update(output_dim=8))
    for task in TASKS:
        np.save(bundle / f"heads/{task}.npy", np.full((4, 8), 8**-0.5, np.float32))
        relist(bundle, f"heads/{task}.npy")
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError, match=r"image_embeds \[1, 16\] instead of \[1, 8\]"):
        model.embed(images(3))


def test_routes_to_tasks_that_do_not_exist_are_named(tmp_path) -> None:
    bundle = write_layer_bundle(tmp_path / "layer", Weights())
    graph = onnx.load(bundle / "tower.onnx", load_external_data=False)
    (concat,) = [node for node in graph.graph.node if "route_tasks" in node.output]
    concat.output[0] = "true_tasks"
    graph.graph.node.append(onnx.helper.make_node("Sub", ["true_tasks", "per_task"], ["route_tasks"]))
    (bundle / "tower.onnx").write_bytes(graph.SerializeToString())
    relist(bundle, "tower.onnx")
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError, match="the tower routes to task -"):
        model.embed(images(0))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (np.array([["red"]], object), "without pickle"),
        (np.zeros((4, 16)), r"must be a float32 array \[4, 16\]"),
        (np.zeros((3, 16), np.float32), r"must be a float32 array \[4, 16\]"),
    ],
)
def test_heads_of_another_kind_are_refused(bundle, head, message: str) -> None:
    np.save(bundle / "heads/red.npy", head, allow_pickle=True)
    relist(bundle, "heads/red.npy")
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(bundle)
