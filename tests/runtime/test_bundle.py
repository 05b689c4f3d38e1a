"""bundle.json: written and read by the same code, strict about types and rules, silent about what it does not know."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge_runtime import Bundle, BundleError, EdgeModel, ProviderError
from mingle_edge_runtime.bundle.index import BundleIndex
from mingle_edge_runtime.bundle.rules import check_rules


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


MISTAKES: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("image", ("format",), "bundle", "this is not a bundle"),
    ("image", ("format_version",), 5, "format_version is 5, this runtime reads up to 4: upgrade"),
    ("image", ("format_version",), "1", "format_version must be an integer, is '1'"),
    ("image", ("format_version",), 2, r"format_version is 2, this runtime reads 4: export again \(8-bit weights of older"),
    ("image", ("scope",), "block", "scope must be one of image, layer, folded, is 'block'"),
    ("image", ("top_k",), True, "top_k must be a number, is True"),
    ("image", ("top_k",), 4, "top_k is 4, must be between 1 and the 3 tasks"),
    ("image", ("tasks",), {}, "tasks must be a list, is {}"),
    ("image", ("tasks", 1, "rank"), 1.5, r"tasks\[1\].rank must be an integer, is 1.5"),
    ("image", ("tasks", 1, "labels", 2), None, r"tasks\[1\].labels\[2\] must be a string, is missing"),
    ("image", ("tasks", 1, "labels"), [], r"tasks\[1\].labels is empty"),
    ("image", ("tasks", 2, "name"), "RED", r"tasks\[2\].name repeats 'RED'"),
    ("image", ("tasks", 2, "name"), "../red", r"tasks\[2\].name is '../red', must match"),
    ("image", ("tasks", 0, "expert"), None, r"tasks\[0\].expert belongs to the image scope alone"),
    ("image", ("tasks", 0, "expert_bytes"), 7, r"tasks\[0\].expert_bytes is 7, the files say"),
    ("image", ("preprocess", "mean"), [0.5, 0.5], "preprocess.mean must have 3 items, has 2"),
    ("image", ("preprocess", "std", 0), 0, "preprocess.std is .* must be positive"),
    ("image", ("preprocess", "image_size"), 10**9, "preprocess.image_size is 1000000000"),
    ("image", ("logit_scale",), -1, "logit_scale is -1.0, must be positive"),
    ("image", ("minimum_onnxruntime",), "newest", "minimum_onnxruntime must be a dotted version"),
    ("image", ("files", "tower.onnx", "sha256"), "abc", "files.tower.onnx.sha256 is not 64"),
    ("image", ("files", "tower.onnx"), None, "files.tower.onnx must be an object, is missing"),
    ("image", ("tower",), "tower2.onnx", "tower names 'tower2.onnx', which files does not list"),
    ("image", ("router",), None, "router must be there in the image scope"),
    ("image", ("defaults", "tensors", "ln_post.bias", "offset"), 100, "offset is 100, no multiple of 4096"),
    ("image", ("defaults", "tensors", "ln_post.bias", "shape"), [1 << 40], "ends at byte"),
    ("layer", ("page_bank",), None, "page_bank must be there in the layer scope"),
    ("layer", ("page_bank", "page"), 0, "page_bank.page and .pages_per_task must be positive"),
    ("layer", ("page_bank", "layers", 1, "first_page"), 1, r"page_bank.layers\[1\] starts at page 1, inside"),
    ("layer", ("page_bank", "layers", 1, "pages"), 3, "layers end at page 5 of 4"),
    (
        "layer",
        ("router",),
        {"file": "dense.onnx", "blocks": 1, "precision": "fp32", "confidence_bound": 0},
        "router must be absent",
    ),
]


@pytest.mark.parametrize(("scope", "path", "value", "message"), MISTAKES)
def test_mistakes_are_named_by_their_path(bundles, tmp_path, scope: str, path, value, message: str) -> None:
    record = read_json(bundles[scope, 1])
    target: Any = record
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    shutil.copytree(bundles[scope, 1], tmp_path / "copy")
    (tmp_path / "copy/bundle.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "copy")


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


def test_a_folder_that_is_no_bundle_is_refused(tmp_path) -> None:
    with pytest.raises(BundleError, match="does not exist: name a folder that `mingle-edge export` wrote"):
        EdgeModel.open(tmp_path)


def test_a_bundle_for_a_newer_onnxruntime_is_refused(bundles, tmp_path) -> None:
    shutil.copytree(bundles["image", 1], tmp_path / "copy")
    index = replace(Bundle.open(bundles["image", 1]).index, minimum_onnxruntime="99.1")
    (tmp_path / "copy/bundle.json").write_text(json.dumps(index.to_json()))
    with pytest.raises(ProviderError, match=r"needs onnxruntime 99.1 or newer, .* is installed: upgrade it"):
        EdgeModel.open(tmp_path / "copy")
