"""The camera service, run as a user would run it, and its parts."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from javascript import EXAMPLES
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tiny_bundle import images

import mingle_edge_runtime

CAMERA = EXAMPLES / "camera"
COMMAND = [sys.executable, str(CAMERA / "camera_service.py")]
ROUTES = [["red"], ["red"], ["blue"], ["blue"], [], ["green"]]
"""of `pictures`, in the bundle of tests"""

sys.path.append(str(CAMERA))
from frames import mjpeg  # noqa: E402
from newest_frame import NewestFrame  # noqa: E402


def pictures() -> list[Image.Image]:
    """Six frames; black ones belong to no task."""
    return [Image.fromarray(pixels) for pixels in images(0, 0, 2, 2, 3, 1)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """A folder of them, with a file that is no image."""
    folder = tmp_path_factory.mktemp("frames")
    for i, picture in enumerate(pictures()):
        picture.save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no frame")
    return folder


def environment(*more: Path) -> dict[str, str]:
    """Variables under which the runtime is found, and nothing of the workstation."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*more, Path(mingle_edge_runtime.__file__).parents[1])))}


def service(*arguments: object, stdin: bytes = b"", status: int = 0, path: tuple[Path, ...] = ()) -> tuple[list[dict], str]:
    """The answers of a run to its end, and what it says beside them."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, env=environment(*path), capture_output=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def jpeg(picture: Image.Image, **options: object) -> bytes:
    """A frame as cameras send it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def chunks(data: bytes, size: int):
    """A function that gives `size` bytes a call, as `mjpeg` reads."""
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def test_a_folder_is_answered_to_its_end(image_bundle, frames) -> None:
    answers, said = service(image_bundle, frames, "--every-frame", "--fps", 1000, "--threads", 1)
    assert [answer["frame"] for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert [answer["route"] for answer in answers] == ROUTES
    assert all(0 < answer["milliseconds"] <= answer["age_milliseconds"] for answer in answers)
    assert re.match(r"6 frames: 6 answered, 0 dropped, 0 broken; from capture to answer p50 [\d.]+ ms, p90 [\d.]+ ms", said)
    assert "3 misses" in said


def test_mjpeg_from_standard_input(image_bundle) -> None:
    stream = b"--boundary\r\n".join(jpeg(picture, subsampling=0) for picture in pictures())
    answers, said = service(image_bundle, "-", "--every-frame", "--task", "green", stdin=stream)
    assert [answer["route"] for answer in answers] == [["green"]] * 6
    assert "6 answered, 0 dropped, 0 broken" in said


def test_a_broken_frame_is_left_out(image_bundle) -> None:
    good = jpeg(pictures()[0])
    broken = good[:30] + b"\x00" * (len(good) - 60) + good[-30:]
    answers, said = service(image_bundle, "-", "--every-frame", stdin=good + broken + good)
    assert [answer["frame"] for answer in answers] == [1, 3]
    assert "frame 2 was left out: " in said
    assert "2 answered, 0 dropped, 1 broken" in said


def test_a_frame_without_a_label_says_so(image_bundle, frames) -> None:
    answers, _ = service(image_bundle, frames, "--every-frame", "--fps", 1000, "--reject-below", 1)
    assert [(answer["label"], answer["task"]) for answer in answers] == [(None, None)] * 6


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_jpegs_are_cut_out_of_a_stream(size: int) -> None:
    thumbnail = jpeg(Image.new("RGB", (16, 12), "red"))
    exif = Image.Exif()
    exif[0x010E] = "a \xff\xd9 in a segment"
    frames = [
        jpeg(pictures()[0]),
        jpeg(pictures()[2], progressive=True),
        jpeg(pictures()[3], comment=thumbnail, exif=exif),
        jpeg(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)), restart_marker_blocks=2),
    ]
    cut = frames[3][: len(frames[3]) // 2]
    stream = b"\xff noise \xff\xd9" + frames[0] + b"--b\r\n\r\n" + frames[1] + frames[2] + cut + frames[3] + cut
    assert list(mjpeg(chunks(stream, size))) == frames


def test_the_newest_frame_wins() -> None:
    taken, released = threading.Event(), threading.Event()

    def source():
        yield "first"
        taken.wait(30)
        yield from ("second", "third", "fourth")
        released.set()

    frames = NewestFrame(source(), every=False)
    assert frames.take().image == "first"
    taken.set()
    released.wait(30)  # a slow model meanwhile
    assert frames.take()[:2] == (4, "fourth")
    assert (frames.take(), frames.captured, frames.dropped) == (None, 4, 2)


def test_every_frame_is_kept_where_that_is_asked_for() -> None:
    frames = NewestFrame(iter(range(100)), every=True)
    assert [frame.image for frame in iter(frames.take, None)] == list(range(100))
    assert (frames.captured, frames.dropped) == (100, 0)


def test_what_a_source_raises_arrives() -> None:
    def source():
        yield "first"
        raise OSError("the camera was pulled out")

    frames = NewestFrame(source(), every=True)
    assert frames.take().image == "first"
    with pytest.raises(OSError, match="pulled out"):
        frames.take()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_frame_in_hand_and_metrics_tell_until_then(image_bundle, frames, number: int) -> None:
    command = [*COMMAND, str(image_bundle), str(frames), "--loop", "--fps", "200", "--metrics", "0"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        address = re.match(r"metrics: (http://127.0.0.1:\d+)/metrics", running.stderr.readline())[1]
        lines = [running.stdout.readline() for _ in range(30)]
        families = {f.name: f for f in text_string_to_metric_families(urlopen(f"{address}/metrics").read().decode())}
        assert urlopen(f"{address}/healthz").read() == b"ok\n"
        running.send_signal(number)
        rest, said = running.stdout.read(), running.stderr.read()  # not `communicate`, which forgets what is buffered
    answers = [json.loads(line) for line in (*lines, *rest.splitlines())]
    assert running.returncode == 0
    (summary,) = said.splitlines()
    captured, answered, dropped = map(int, re.match(r"(\d+) frames: (\d+) answered, (\d+) dropped", summary).groups())
    assert (answered, captured >= answered + dropped) == (len(answers), True)
    values = {sample.name: sample.value for name in families for sample in families[name].samples if not sample.labels}
    assert 30 <= values["camera_frame_seconds_count"] <= answered
    assert values["camera_frames_answered_total"] == values["camera_frame_seconds_count"]
    assert values["camera_frames_total"] >= values["camera_frames_answered_total"] + values["camera_frames_dropped_total"]
    assert values["expert_resident_bytes"] == sum(path.stat().st_size for path in (image_bundle / "experts").iterdir())
    routes = {sample.labels["task"] for sample in families["camera_routes"].samples}
    assert routes == {"red", "green", "blue", "none"}
    quantiles = [sample.value for sample in families["camera_frame_seconds"].samples if "quantile" in sample.labels]
    assert quantiles == sorted(quantiles)
    assert values["camera_fps"] > 0


def test_opencv_is_imported_for_a_camera_alone(image_bundle, frames, tmp_path) -> None:
    program = """
import numpy
COLOR_BGR2RGB = 4
class VideoCapture:
    def __init__(self, source):
        assert source == 0
        self.frames = [numpy.full((12, 9, 3), (0, 0, 250), numpy.uint8)] * 2
    def isOpened(self):
        return True
    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)
    def release(self):
        pass
def cvtColor(frame, code):
    assert code == COLOR_BGR2RGB
    return frame[..., ::-1].copy()
"""
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera/cv2.py").write_text(program)
    answers, _ = service(image_bundle, 0, "--every-frame", path=(tmp_path / "camera",))
    assert [answer["route"] for answer in answers] == [["red"], ["red"]]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/cv2.py").write_text("raise ImportError")
    service(image_bundle, frames, "--fps", 1000, path=(tmp_path / "none",))
    _, said = service(image_bundle, 0, status=1, path=(tmp_path / "none",))
    assert said.startswith("error: 0 is no folder, and cameras need OpenCV, which is not installed: pip install")


def test_standard_input_without_a_frame_is_an_error(image_bundle) -> None:
    _, said = service(image_bundle, "-", stdin=b"ffmpeg found no camera", status=1)
    assert said == "error: standard input held no JPEG: pipe MJPEG in, as `ffmpeg -f mjpeg -` writes it\n"


def test_no_times_are_told_where_no_frame_was_answered(image_bundle, tmp_path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    _, said = service(image_bundle, tmp_path, "--fps", 1000)
    assert "1 frames: 0 answered, 0 dropped, 1 broken; experts 0.0 MB" in said


def test_a_port_of_metrics_that_is_taken_is_named(image_bundle, frames) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, said = service(image_bundle, frames, "--metrics", port, status=1)
    reason = "(Address already in use): choose another port by --metrics"
    assert said == f"error: cannot listen on 127.0.0.1:{port} {reason}\n"
    assert "cannot listen on 127.0.0.1:65536 (" in service(image_bundle, frames, "--metrics", 65536, status=1)[1]


def test_what_is_wrong_is_one_line(image_bundle, frames, tmp_path) -> None:
    for arguments, message in [
        ((tmp_path / "nothing", frames), "bundle.json does not exist"),
        ((image_bundle, tmp_path), "holds no images: name a folder of frames"),
        ((image_bundle, frames, "--task", "yellow"), "yellow"),
        ((image_bundle, frames, "--expert-budget", "1"), "too small"),
    ]:
        _, said = service(*arguments, status=1)
        assert said.startswith("error: ")
        assert message in said
        assert len(said.splitlines()) == 1
