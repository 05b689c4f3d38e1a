"""What is no plain file inside the bundle: pipes, devices, links; and a hub's cache, whose links lead to its blobs alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_cache import COMMIT, write_folder
from interpreters import every_interpreter, output_of
from special_files import SPECIAL
from tiny_bundle import KINDS, TASKS, images

from mingle_edge_runtime import Bundle, BundleError, EdgeModel
from mingle_edge_runtime.bundle import mapped_file

IMAGES = images(0, 1, 2, 3)
NO_PLAIN_FILE = "must be a plain file, not a link"


@pytest.mark.parametrize("name", ["tower.onnx", "heads/red.npy", "experts/red.onnx_adapter"])
def test_a_pipe_in_place_of_a_file_of_an_open_bundle_does_not_hang(bundle, name: str) -> None:
    opened = Bundle.open(bundle)
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match=f"{name} was replaced while the bundle was open"):
        opened.read(name)
    (bundle / name).unlink()
    (bundle / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=f"{name} cannot be read"):
        opened.read(name)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a\0b", "is no path"),
        ("\ud800", "is no path"),
        ("absent", "absent/bundle.json does not exist"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_path_that_is_no_folder_is_refused(tmp_path, monkeypatch, path: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(path)
    for make in (os.mkfifo, Path.touch, SPECIAL["link to itself"]):
        make(tmp_path / "it")
        with pytest.raises(BundleError, match=r"it/bundle.json does not exist|it cannot be read"):
            EdgeModel.open(tmp_path / "it")
        (tmp_path / "it").unlink()


@pytest.fixture
def snapshot(bundle, tmp_path) -> Path:
    """The bundle in a hub's cache."""
    return hub(tmp_path / "hub", bundle)


def hub(cache: Path, bundle: Path, name: str = "models/owner/bundle", relative: bool = True) -> Path:
    """The bundle as huggingface_hub keeps it: links of a snapshot to blobs named by their hash."""
    snapshot = write_folder(cache, name, bundle)
    if relative:
        for path in [path for path in snapshot.rglob("*") if path.is_symlink()]:
            target = os.path.relpath(path.resolve(), path.parent)
            path.unlink()
            path.symlink_to(target)
    return snapshot


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_in_a_hubs_cache_is_served_as_elsewhere(tmp_path, bundles, kind, relative: bool) -> None:
    plain = bundles[kind]
    snapshot = hub(tmp_path / "hub", plain, relative=relative)
    assert (snapshot / "tower.onnx").is_symlink()
    assert f"models--owner--bundle/snapshots/{COMMIT}" in str(snapshot)
    with EdgeModel.open(plain, threads=1) as expected, EdgeModel.open(snapshot, threads=1, verify=True) as model:
        np.testing.assert_array_equal(model.embed(IMAGES), expected.embed(IMAGES))
        for task in TASKS:
            np.testing.assert_array_equal(model.embed(IMAGES, task=task), expected.embed(IMAGES, task=task))
    (tmp_path / "link").symlink_to(snapshot)  # as an application may name it
    with EdgeModel.open(tmp_path / "link") as model:
        model.embed(IMAGES)


def test_a_bundle_in_a_folder_of_a_hubs_repository_is_served(tmp_path, bundle) -> None:
    shutil.copytree(bundle, tmp_path / "repository/edge/int8")
    snapshot = hub(tmp_path / "hub", tmp_path / "repository", "datasets/owner/bundles")
    with EdgeModel.open(snapshot / "edge/int8", verify=True) as model:
        model.embed(IMAGES)


SERVE = """
import sys
import numpy as np
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.check.verify import verify

bundle, images, output = sys.argv[1:]
verify(bundle).check()
with EdgeModel.open(bundle, threads=1) as model:
    np.save(output, model.embed(np.load(images)))
"""


@every_interpreter
def test_new_and_old_onnxruntime_serve_from_a_hubs_cache(tmp_path, bundle, snapshot, interpreter: str) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    output_of(interpreter, "-c", SERVE, snapshot, tmp_path / "images.npy", tmp_path / "embeds.npy")
    with EdgeModel.open(bundle, threads=1) as model:
        np.testing.assert_allclose(np.load(tmp_path / "embeds.npy"), model.embed(IMAGES), atol=1e-5)


def test_a_hubs_cache_is_served_where_the_system_has_no_descriptors(tmp_path, snapshot, monkeypatch) -> None:
    monkeypatch.setattr(mapped_file, "_DESCRIPTORS", tmp_path / "absent")
    with EdgeModel.open(snapshot) as model:
        model.embed(IMAGES)


ESCAPES: dict[str, Callable[[Path, Path], str | Path]] = {
    "out of the cache": lambda snapshot, blob: snapshot.parents[3] / "secret.bin",
    "beside the blobs": lambda snapshot, blob: "../../secret.bin",
    "into a folder of the blobs": lambda snapshot, blob: "../../blobs/deeper/secret.bin",
    "through the blobs": lambda snapshot, blob: "../../blobs/../secret.bin",
    "to another repository": lambda snapshot, blob: "../../../models--other--one/blobs/secret.bin",
    "through a folder that is a link": lambda snapshot, blob: "../../aside/secret.bin",
    "to a link among the blobs": lambda snapshot, blob: "../../blobs/link",
    "to the blobs themselves": lambda snapshot, blob: "../../blobs",
    "to a device": lambda snapshot, blob: "/dev/zero",
}


@pytest.mark.parametrize("name", ["backbone.bin", "bundle.json"])
@pytest.mark.parametrize("where", ESCAPES)
def test_no_link_of_a_hubs_cache_leads_out_of_its_blobs(tmp_path, snapshot, where: str, name: str) -> None:
    repository = snapshot.parents[1]
    (repository / "blobs/deeper").mkdir()
    (tmp_path / "hub/models--other--one/blobs").mkdir(parents=True)
    (repository / "aside").symlink_to(repository.parent)
    content = (snapshot / name).read_bytes()
    others = (repository, repository / "blobs/deeper", tmp_path / "hub/models--other--one/blobs")
    for folder in (tmp_path, tmp_path / "hub", *others):
        (folder / "secret.bin").write_bytes(content)
    (repository / "blobs/link").symlink_to(repository / "secret.bin")
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(ESCAPES[where](snapshot, repository / "blobs"))
    with pytest.raises(BundleError, match=f"{name} {NO_PLAIN_FILE}"):
        EdgeModel.open(snapshot)


def test_blobs_that_are_a_link_are_not_followed(tmp_path, snapshot) -> None:
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(snapshot)


@pytest.mark.parametrize("name", ["owner--bundle", "models-owner", "snapshots"])
def test_only_a_hubs_cache_may_have_links(tmp_path, snapshot, name: str) -> None:
    snapshot.parents[1].rename(tmp_path / "hub" / name)
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(tmp_path / "hub" / name / "snapshots" / COMMIT)


def test_a_blob_that_is_replaced_while_it_is_served_is_an_error(tmp_path, snapshot) -> None:
    with EdgeModel.open(snapshot) as model:
        blob = (snapshot / "experts/green.onnx_adapter").resolve()
        (tmp_path / "other").write_bytes(blob.read_bytes())
        (tmp_path / "other").replace(blob)
        with pytest.raises(BundleError, match=r"green.onnx_adapter was replaced while the bundle was open"):
            model.embed(IMAGES, task="green")
        (snapshot / "experts/red.onnx_adapter").unlink()  # a link; the blob is what was opened
        model.embed(IMAGES, task="red")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_files_are_refused(bundle, tmp_path, link) -> None:
    """Releases of ONNX Runtime differ in which linked weights they read; the bundle's own rule refuses them all."""
    shutil.move(bundle / "backbone.bin", tmp_path / "outside.bin")
    link(tmp_path / "outside.bin", bundle / "backbone.bin")
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(bundle)
