"""The example for browsers in headless Chromium, against the answers of the runtime for Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from answers import TOP, assert_python_s
from javascript import EXAMPLES
from kinds import LOSSLESS
from pictures import picture
from PIL import Image

from mingle_edge_runtime import EdgeModel

PROGRAM = EXAMPLES / "browser/serve.py"
SERVE = [sys.executable, str(PROGRAM)]


@pytest.fixture(scope="module")
def drive(chromium):
    """A function that drives the page by a scenario of browser.mjs."""
    return partial(chromium, Path(__file__).with_name("browser.mjs"))


@contextmanager
def served(bundle: Path, program: Path = PROGRAM) -> Iterator[tuple[str, int]]:
    """The address of the page with a bundle, and the server's process."""
    command = [sys.executable, str(program), str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.match(r"http://localhost:\d+/", server.stdout.readline())[0], server.pid
        finally:
            server.terminate()
    assert server.returncode == 0


@pytest.mark.parametrize("kind", ["image-fp32", "image-fp16-two-experts", "image-int8", "layer-fp32", "folded"])
def test_answers_are_python_s(drive, exported, fifty, kind: str) -> None:
    images = fifty if kind == "image-fp32" else fifty[::4]  # decoding does not depend on the bundle
    with served(exported(kind)) as (address, _):
        answers = drive("answers", address, json.dumps({"top": TOP}), *images)
    assert_python_s(answers, exported(kind), images, 0.99999 if kind in LOSSLESS else 0.999)


def test_a_named_task_and_pictures_with_transparency(drive, exported, tmp_path) -> None:
    images = [tmp_path / name for name in ("rgba.png", "la.png", "rgba.webp", "palette.png", "turned.jpg")]
    for image, mode in zip(images, ("RGBA", "LA", "RGBA", "P", "RGB"), strict=True):
        exif = Image.Exif()
        exif[274] = 6  # a quarter turn
        options = {".webp": {"lossless": True}, ".jpg": {"exif": exif}}.get(image.suffix, {})
        picture(mode, 50, 41).save(image, **options, **({"transparency": 3} if mode == "P" else {}))
    with served(exported("image-fp32")) as (address, _):
        answers = drive("answers", address, json.dumps({"top": TOP, "task": "task1"}), *images)
    assert_python_s(answers, exported("image-fp32"), images, 0.99999, task="task1")


def test_what_a_person_sees(drive, exported, fifty, tmp_path) -> None:
    jpeg = next(path for path in fifty if path.suffix == ".jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) * 2 // 3])
    images, size = [fifty[20], tmp_path / "cut.jpg", fifty[26], fifty[32]], 10**9
    with served(exported("image-fp32")) as (address, _):
        shown = drive("files", f"{address}browser/index.html?budget={size}B", *images)
    last, third, broken, first = shown["cards"]
    assert broken.startswith("cut.jpg\n")
    assert "Cannot be read as an image: it is broken" in broken
    with EdgeModel.open(exported("image-fp32")) as model:
        for card, image in ((first, images[0]), (third, images[2]), (last, images[3])):
            prediction = model.classify(image)[0]
            assert card.startswith(f"{image.name}\n")
            assert f"{prediction.label} ({prediction.task})" in card
            assert f"Expert: {prediction.route.tasks[0] if prediction.route.tasks else 'none, the plain backbone'}" in card
            assert re.search(r"[\d.]+ ms: decode [\d.]+, preprocess [\d.]+, route [\d.]+, expert [\d.]+, tower [\d.]+", card)
    assert shown["isolated"] is True
    assert shown["wide"] is False
    assert re.fullmatch(r"[\d.]+ MB", shown["figures"]["Memory of the runtime, with the model"])
    assert "of at most 1000.0 MB" in shown["figures"]["Experts in memory"]
    assert {request.split("/")[2] for request in shown["requests"] if request.startswith("http")} == {address.split("/")[2]}
    assert {"button: Start the camera", "combobox: Task", "button: Remove the stored files"} <= set(shown["controls"])


def test_without_a_network_what_was_used_goes_on(drive, exported, fifty) -> None:
    with served(exported("image-fp32")) as (address, pid):
        seen = drive("offline", f"{address}browser/index.html", pid, "task0", fifty[0])
    without_times = [re.sub(r"[\d.]+ ms.*", "", seen[name]) for name in ("online", "offline")]
    assert without_times[0] == without_times[1]
    assert "Expert: task0" in seen["offline"]
    assert seen["isolated"] is True
    assert "experts/task2.onnx_adapter is not kept on this device and cannot be fetched" in seen["another"]


def test_of_a_bundle_that_was_replaced_nothing_is_kept(drive, exported, tmp_path) -> None:
    folder, another = tmp_path / "bundle", tmp_path / "another"
    shutil.copytree(exported("image-fp32"), folder)
    index = json.loads((folder / "bundle.json").read_text())
    (another / "heads").mkdir(parents=True)
    head = np.load(folder / "heads/task0.npy")
    np.save(another / "heads/task0.npy", head[::-1].copy())
    content = (another / "heads/task0.npy").read_bytes()
    index["files"]["heads/task0.npy"] = {"size": len(content), "sha256": sha256(content).hexdigest()}
    (another / "bundle.json").write_text(json.dumps(index))
    with served(folder) as (address, _):
        kept = drive("replaced", f"{address}browser/index.html", folder, another)
    assert kept["after"] == kept["before"] | {"heads/task0.npy": sha256(content).hexdigest()}
    assert kept["after"] != kept["before"]
    assert {"bundle.json", "backbone.bin", "router.onnx", "tower_required_inputs.onnx"} <= kept["after"].keys()
    assert not any(name.startswith("experts/") for name in kept["after"])  # no image asked for one


@pytest.mark.parametrize("name", ["backbone.bin", "heads/task0.npy"])
def test_a_changed_file_is_refused(drive, exported, tmp_path, name: str) -> None:
    shutil.copytree(exported("image-fp32"), tmp_path / "bundle")
    content = bytearray((tmp_path / "bundle" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "bundle" / name).write_bytes(content)
    with served(tmp_path / "bundle") as (address, _):
        seen = drive("opening", address)
    assert seen["error"].startswith(f"{name} has another sha256 than bundle.json says")
    assert seen["controls"] is False


def test_a_budget_that_is_too_small_is_refused(drive, exported) -> None:
    with served(exported("image-fp32")) as (address, _):
        seen = drive("opening", f"{address}browser/index.html?budget=1KB")
    assert "an expert budget of 1000 bytes is too small" in seen["error"]


def test_the_camera_is_answered_until_it_is_stopped(drive, exported) -> None:
    with served(exported("folded")) as (address, _):
        seen = drive("camera", address)
    assert all(re.fullmatch(r"Camera, [\d.]+ frames a second", title) for title in seen["titles"])
    assert (seen["running"], seen["stopped"]) == (["Stop the camera", "true"], ["Start the camera", "false"])
    assert "Expert: task1" in seen["answer"]


def statuses(address: str, paths: list[str]) -> dict[str, int]:
    """Ask for each path as it is written."""
    connection = HTTPConnection(address.split("/")[2], timeout=60)
    found = {}
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        found[path] = response.status
    connection.close()
    return found


def test_only_the_page_and_the_bundle_are_handed_out(exported) -> None:
    with served(exported("folded")) as (address, _):
        found = statuses(
            address,
            [
                "/browser/index.html",
                "/bundle/bundle.json",
                "/bundle/other.json",
                "/bundle/../serve.py",
                "/browser/%2e%2e/node/classify.mjs",
                "/browser/",
                "/package.json",
                "/node/classify.mjs",
                "/bundle/heads",
            ],
        )
    assert [path for path, status in found.items() if status == 200] == ["/browser/index.html", "/bundle/bundle.json"]
    assert set(found.values()) == {200, 404}


def test_a_bundle_does_not_have_other_files_handed_out(exported, tmp_path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported("folded"), bundle)
    (tmp_path / "secret").write_text("not of the bundle")
    (bundle / "link").symlink_to(tmp_path / "secret")
    (bundle / "folder").symlink_to(tmp_path)
    os.mkfifo(bundle / "pipe")
    index = json.loads((bundle / "bundle.json").read_text())
    names = ["link", "folder/secret", "../secret", "pipe", index["tower"]]
    index["files"] |= {name: {"size": 1, "sha256": "0" * 64} for name in names}
    (bundle / "bundle.json").write_text(json.dumps(index))
    with served(bundle) as (address, _):
        found = statuses(address, [f"/bundle/{name}" for name in names])
    assert list(found.values()) == [404, 404, 404, 404, 200]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bundle: (bundle / "bundle.json").unlink(), "does not exist: name a folder that `mingle-edge export` wrote"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "is no index of a bundle"),
        (
            lambda bundle: (bundle / "bundle.json").write_text('{"scope": "image", "files": {}}'),
            "has no tower for JavaScript",
        ),
    ],
)
def test_a_bundle_that_no_page_can_run_is_refused(exported, tmp_path, change, message: str) -> None:
    shutil.copytree(exported("folded"), tmp_path / "bundle")
    change(tmp_path / "bundle")
    done = subprocess.run([*SERVE, str(tmp_path / "bundle")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_address_that_cannot_be_had_is_named(exported) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [*SERVE, str(exported("folded")), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    reason = "(Address already in use): choose others by --host and --port"
    assert (done.returncode, done.stderr) == (1, f"error: cannot listen on 127.0.0.1:{port} {reason}\n")


def test_a_browser_that_goes_away_is_no_error(exported) -> None:
    command = [*SERVE, str(exported("folded")), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = re.match(r"http://localhost:\d+/", server.stdout.readline())[0]
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", int(address.split(":")[2][:-1]))) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
                gone.sendall(b"GET /bundle/backbone.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        statuses(address, ["/bundle/bundle.json"])
        server.terminate()
        assert server.communicate(timeout=60)[1] == ""


def test_packages_may_lie_behind_a_link(exported, tmp_path) -> None:
    """As those of a workspace do; only a bundle comes from elsewhere."""
    for name in ("browser", "javascript"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(EXAMPLES / "node_modules")
    with served(exported("folded"), tmp_path / "browser/serve.py") as (address, _):
        path = "/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs"
        assert statuses(address, [path]) == {path: 200}
