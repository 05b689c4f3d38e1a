"""What is no plain file inside the bundle: pipes, devices, links; and a hub's cache, whose links lead to its blobs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_cache import COMMIT, write_folder
from tiny_bundle import KINDS, TASKS, Weights, images, relist, write_image_bundle, write_kinds

import mingle_edge_runtime
from mingle_edge_runtime import Bundle, BundleError, EdgeModel
from mingle_edge_runtime.bundle import mapped_file
from mingle_edge_runtime.check.verify import verify

IMAGES = images(0, 1, 2, 3)
INTERPRETERS = [sys.executable, *filter(None, [os.environ.get("MINGLE_ORT_1_20")])]
NO_PLAIN_FILE = "must be a plain file, not a link"


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of the image scope."""
    return write_image_bundle(tmp_path / "image", Weights())


PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", ["bundle.json", "tower.onnx", "heads/red.npy", "experts/red.onnx_adapter", "golden.npz"])
def test_what_is_no_plain_file_is_refused_before_it_is_opened(bundle, name: str, kind: str) -> None:
    (bundle / name).unlink()
    PLACES[kind](bundle / name)
    with pytest.raises(BundleError, match=f"{name} {NO_PLAIN_FILE}"):
        EdgeModel.open(bundle)
    with pytest.raises(BundleError, match=f"{name} {NO_PLAIN_FILE}"):
        verify(bundle)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_itself_is_refused(bundle) -> None:
    (bundle / "bundle.json").unlink()
    try:
        os.mknod(bundle / "bundle.json", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        (bundle / "bundle.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        Bundle.open(bundle)


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
    for make in (os.mkfifo, Path.touch, lambda path: path.symlink_to(path.name)):
        make(tmp_path / "it")
        with pytest.raises(BundleError, match=r"it/bundle.json does not exist|it cannot be read"):
            EdgeModel.open(tmp_path / "it")
        (tmp_path / "it").unlink()


@pytest.mark.parametrize("name", ["bundle.json", "backbone.bin", "experts/red.onnx_adapter"])
def test_what_may_not_be_read_is_neither_missing_nor_damaged(bundle, monkeypatch, name: str) -> None:
    """Root may read everything, so the system's refusal is played."""
    real = os.open

    def refuse(path: str | Path, *arguments: int, **options: int) -> int:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BundleError, match=rf"{name} may not be read: give this user the permission to \(Permission denied\)"):
        EdgeModel.open(bundle, check_hashes=True).embed(IMAGES)


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
def test_a_bundle_in_a_hubs_cache_is_served_as_elsewhere(tmp_path, kind, relative: bool) -> None:
    plain = write_kinds(tmp_path / "plain", Weights())[kind]
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


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_new_and_old_onnxruntime_serve_from_a_hubs_cache(tmp_path, bundle, interpreter: str) -> None:
    snapshot = hub(tmp_path / "hub", bundle)
    np.save(tmp_path / "images.npy", IMAGES)
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    command = [interpreter, "-c", SERVE, str(snapshot), str(tmp_path / "images.npy"), str(tmp_path / "embeds.npy")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    with EdgeModel.open(bundle, threads=1) as model:
        np.testing.assert_allclose(np.load(tmp_path / "embeds.npy"), model.embed(IMAGES), atol=1e-5)


def test_a_hubs_cache_is_served_where_the_system_has_no_descriptors(tmp_path, bundle, monkeypatch) -> None:
    monkeypatch.setattr(mapped_file, "_DESCRIPTORS", tmp_path / "absent")
    with EdgeModel.open(hub(tmp_path / "hub", bundle)) as model:
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
def test_no_link_of_a_hubs_cache_leads_out_of_its_blobs(tmp_path, bundle, where: str, name: str) -> None:
    snapshot = hub(tmp_path / "hub", bundle)
    repository = snapshot.parents[1]
    (repository / "blobs/deeper").mkdir()
    (tmp_path / "hub/models--other--one/blobs").mkdir(parents=True)
    (repository / "aside").symlink_to(repository.parent)
    content = (snapshot / name).read_bytes()
    for folder in (
        "",
        "hub",
        *(f"hub/{repository.name}{inside}" for inside in ("", "/blobs/deeper")),
        "hub/models--other--one/blobs",
    ):
        (tmp_path / folder / "secret.bin").write_bytes(content)
    (repository / "blobs/link").symlink_to(repository / "secret.bin")
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(ESCAPES[where](snapshot, repository / "blobs"))
    with pytest.raises(BundleError, match=f"{name} {NO_PLAIN_FILE}"):
        EdgeModel.open(snapshot)


def test_blobs_that_are_a_link_are_not_followed(tmp_path, bundle) -> None:
    snapshot = hub(tmp_path / "hub", bundle)
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(snapshot)


@pytest.mark.parametrize("name", ["owner--bundle", "models-owner", "snapshots"])
def test_only_a_hubs_cache_may_have_links(tmp_path, bundle, name: str) -> None:
    snapshot = hub(tmp_path / "hub", bundle)
    snapshot.parents[1].rename(tmp_path / "hub" / name)
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(tmp_path / "hub" / name / "snapshots" / COMMIT)


def test_a_blob_that_is_replaced_while_it_is_served_is_an_error(tmp_path, bundle) -> None:
    snapshot = hub(tmp_path / "hub", bundle)
    with EdgeModel.open(snapshot) as model:
        blob = (snapshot / "experts/green.onnx_adapter").resolve()
        (tmp_path / "other").write_bytes(blob.read_bytes())
        (tmp_path / "other").replace(blob)
        with pytest.raises(BundleError, match=r"green.onnx_adapter was replaced while the bundle was open"):
            model.embed(IMAGES, task="green")
        (snapshot / "experts/red.onnx_adapter").unlink()  # a link; the blob is what was opened
        model.embed(IMAGES, task="red")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_onnxruntime_alone_is_not_relied_on(bundle, tmp_path, link) -> None:
    """Its releases differ in which linked weights they read; the bundle's own rule refuses them all."""
    shutil.move(bundle / "backbone.bin", tmp_path / "outside.bin")
    link(tmp_path / "outside.bin", bundle / "backbone.bin")
    relist(bundle, "backbone.bin")
    with pytest.raises(BundleError, match=NO_PLAIN_FILE):
        EdgeModel.open(bundle)
