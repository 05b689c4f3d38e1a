"""Bundles that want to harm or are harmed: paths out of the folder, links, damage, foreign external data, pickles."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import TASKS, Weights, images, relist, rewrite, write_adapter, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import Bundle, BundleError, EdgeModel, ExpertError
from mingle_edge_runtime.bundle.external_data import check_external_data
from mingle_edge_runtime.bundle.rules import check_relative
from mingle_edge_runtime.check.verify import verify


@pytest.fixture
def image_bundle(tmp_path) -> Path:
    """A bundle of the image scope to damage."""
    return write_image_bundle(tmp_path / "image", Weights())


@pytest.fixture
def layer_bundle(tmp_path) -> Path:
    """A bundle of the layer scope to damage."""
    return write_layer_bundle(tmp_path / "layer", Weights())


ESCAPES = ["../secret", "/etc/passwd", "heads/../../secret", "..\\secret", "C:secret", "./tower.onnx", "", "a//b", "a\0b"]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("member", ["tower", "files"])
def test_paths_out_of_the_folder_are_refused(image_bundle, name: str, member: str) -> None:
    def change(record: dict) -> None:
        record["files"][name] = {"size": 1, "sha256": "0" * 64}
        if member == "tower":
            record["tower"] = name

    rewrite(image_bundle, change)
    with pytest.raises(BundleError, match=r"paths must be relative, use '/', and stay inside the bundle|no control chara"):
        Bundle.open(image_bundle)


@given(st.text(max_size=12))
def test_a_path_that_is_accepted_stays_inside(name: str) -> None:
    try:
        check_relative(name, "files")
    except BundleError:
        return
    assert Path(os.path.normpath(Path("/bundle") / name)).is_relative_to("/bundle")
    assert os.path.normpath(name) == name


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_files_are_refused(image_bundle, tmp_path, link) -> None:
    target = image_bundle / "backbone.bin"
    shutil.move(target, tmp_path / "outside.bin")
    link(tmp_path / "outside.bin", target)
    with pytest.raises(BundleError, match=r"backbone.bin must be a plain file, not a link"):
        Bundle.open(image_bundle)


def test_linked_folders_are_refused(image_bundle, tmp_path) -> None:
    shutil.move(image_bundle / "heads", tmp_path / "outside")
    os.symlink(tmp_path / "outside", image_bundle / "heads")
    with pytest.raises(BundleError, match=r"heads/.* must be a plain file, not a link"):
        Bundle.open(image_bundle)


def test_a_folder_in_place_of_a_file_is_refused(image_bundle) -> None:
    (image_bundle / "tower.onnx").unlink()
    (image_bundle / "tower.onnx").mkdir()
    with pytest.raises(BundleError, match=r"tower.onnx must be a plain file"):
        Bundle.open(image_bundle)


def test_missing_and_truncated_files_are_named(image_bundle, layer_bundle) -> None:
    (image_bundle / "heads/red.npy").unlink()
    with pytest.raises(BundleError, match=r"heads/red.npy is listed in bundle.json but cannot be read: No such file"):
        EdgeModel.open(image_bundle)
    with (layer_bundle / "experts.bin").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(BundleError, match=r"experts.bin has 5000 bytes, bundle.json says 49152: copy or export it again"):
        EdgeModel.open(layer_bundle)


def test_a_truncated_adapter_is_named(image_bundle) -> None:
    adapter = image_bundle / "experts/green.onnx_adapter"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"experts/green.onnx_adapter has 1000 bytes"):
        EdgeModel.open(image_bundle)
    rewrite(image_bundle, lambda record: record["tasks"][1].update(expert_bytes=1000))
    relist(image_bundle, "experts/green.onnx_adapter")
    with EdgeModel.open(image_bundle) as model:
        assert len(model.embed(images(0), task="red")) == 1
        with pytest.raises(ExpertError, match=r"expert 'green' in .*green.onnx_adapter cannot be read"):
            model.embed(images(0), task="green")
        assert len(model.embed(images(0), task="blue")) == 1


@pytest.mark.parametrize("shrink", [True, False])
def test_an_adapter_that_changes_while_open_is_named(image_bundle, shrink: bool) -> None:
    adapter = image_bundle / "experts/green.onnx_adapter"
    with EdgeModel.open(image_bundle) as model:
        if shrink:
            adapter.write_bytes(adapter.read_bytes()[:1000])
        else:
            adapter.unlink()
        with pytest.raises(ExpertError, match="expert 'green' in"):
            model.embed(images(0), task="green")
        assert model.stats().resident_bytes == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"projection.A": np.zeros((5, 2), np.float32), "projection.B": np.zeros((2, 16), np.float32)},
        {"unknown": np.zeros(3, np.float32)},
    ],
)
def test_an_adapter_of_another_tower_is_named(image_bundle, parameters) -> None:
    path = image_bundle / "experts/green.onnx_adapter"
    write_adapter(path, parameters)
    rewrite(image_bundle, lambda record: record["tasks"][1].update(expert_bytes=path.stat().st_size))
    relist(image_bundle, "experts/green.onnx_adapter")
    with (
        EdgeModel.open(image_bundle) as model,
        pytest.raises(ExpertError, match=r"expert 'green' in .*green.onnx_adapter holds '.*', "),
    ):
        model.embed(images(0), task="green")


def test_an_adapter_that_is_read_must_be_complete(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "joining", Weights(), top_k=2)
    path = bundle / "experts/green.onnx_adapter"
    write_adapter(path, {"ln_post.bias": np.zeros(16, np.float32)})
    rewrite(bundle, lambda record: record["tasks"][1].update(expert_bytes=path.stat().st_size))
    relist(bundle, "experts/green.onnx_adapter")
    with EdgeModel.open(bundle) as model, pytest.raises(ExpertError, match=r"expert 'green' .* lacks projection.A"):
        model.embed(images(1))


@pytest.mark.parametrize("name", ["tower.onnx", "router.onnx"])
@pytest.mark.parametrize("location", ["../secret.bin", "secret.bin"])
def test_weights_outside_the_bundle_are_not_read(image_bundle, name: str, location: str) -> None:
    (image_bundle.parent / "secret.bin").write_bytes(bytes(4096))
    (image_bundle / "secret.bin").write_bytes(bytes(4096))
    graph = onnx.load(image_bundle / name, load_external_data=False)
    tensor = onnx.TensorProto(name="secret", dims=[4], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    node = graph.graph.node.add(op_type="Constant", output=["leak"])
    node.attribute.add(name="value", t=tensor, type=onnx.AttributeProto.TENSOR)
    (image_bundle / name).write_bytes(graph.SerializeToString())
    relist(image_bundle, name)
    with pytest.raises(BundleError, match=f"{name} reads weights from '{location}', which is no file of the bundle"):
        EdgeModel.open(image_bundle)


@given(st.binary(max_size=200))
def test_any_bytes_for_a_graph_are_refused_or_harmless(content: bytes) -> None:
    with suppress(BundleError):
        check_external_data(content, "graph.onnx", [])


def test_a_graph_that_does_not_load_is_named(image_bundle) -> None:
    (image_bundle / "tower.onnx").write_bytes(b"")
    relist(image_bundle, "tower.onnx")
    with pytest.raises(BundleError, match=r"tower.onnx does not load in ONNX Runtime"):
        EdgeModel.open(image_bundle)


@pytest.mark.parametrize(
    ("file", "stand_in", "message"),
    [
        ("tower.onnx", "router.onnx", r"expert 'red' in .*red.onnx_adapter holds '.*', which is no input of the tower"),
        ("router.onnx", "dense.onnx", r"router.onnx does not run: .*posterior"),
    ],
)
def test_graphs_with_other_outputs_are_named(image_bundle, file: str, stand_in: str, message: str) -> None:
    shutil.copy(image_bundle / stand_in, image_bundle / file)
    relist(image_bundle, file)
    with EdgeModel.open(image_bundle) as model, pytest.raises(BundleError, match=message):
        model.embed(images(0, 3))


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_graphs_of_other_sizes_are_named(image_bundle, layer_bundle, scope: str) -> None:
    bundle = {"image": image_bundle, "layer": layer_bundle}[scope]
    rewrite(bundle, lambda record: record["architecture"].update(output_dim=8))
    for task in TASKS:
        np.save(bundle / f"heads/{task}.npy", np.full((4, 8), 8**-0.5, np.float32))
        relist(bundle, f"heads/{task}.npy")
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError, match=r"image_embeds \[1, 16\] instead of \[1, 8\]"):
        model.embed(images(3))


def test_routes_to_tasks_that_do_not_exist_are_named(layer_bundle) -> None:
    graph = onnx.load(layer_bundle / "tower.onnx", load_external_data=False)
    (concat,) = [node for node in graph.graph.node if "route_tasks" in node.output]
    concat.output[0] = "true_tasks"
    graph.graph.node.append(onnx.helper.make_node("Sub", ["true_tasks", "per_task"], ["route_tasks"]))
    (layer_bundle / "tower.onnx").write_bytes(graph.SerializeToString())
    relist(layer_bundle, "tower.onnx")
    with EdgeModel.open(layer_bundle) as model, pytest.raises(BundleError, match="the tower routes to task -"):
        model.embed(images(0))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (np.array([["red"]], object), "without pickle"),
        (np.zeros((4, 16)), r"must be a float32 array \[4, 16\]"),
        (np.zeros((3, 16), np.float32), r"must be a float32 array \[4, 16\]"),
    ],
)
def test_heads_of_another_kind_are_refused(image_bundle, head, message: str) -> None:
    np.save(image_bundle / "heads/red.npy", head, allow_pickle=True)
    relist(image_bundle, "heads/red.npy")
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(image_bundle)


def test_a_flipped_bit_is_found_by_its_hash(image_bundle) -> None:
    for name in sorted(json.loads((image_bundle / "bundle.json").read_text())["files"]):
        content = (image_bundle / name).read_bytes()
        (image_bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=rf"{name} has sha256 .*\.\.\.: the file is damaged"):
            verify(image_bundle)
        (image_bundle / name).write_bytes(content)
    verify(image_bundle).check()
