"""Images in the forms that applications have them in, each against the file or the Pillow image it came from."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import noise
from PIL import Image
from torchvision.transforms.functional import to_tensor

from mingle_edge_runtime import ImageError
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images import decoding
from mingle_edge_runtime.images.preprocess import preprocess

SPEC = Preprocess(24)
PIXELS = noise(19, 13)
EXPECTED = preprocess(Image.fromarray(PIXELS), SPEC)


def encoded(kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file of `PIXELS`."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_content_of_a_file_is_read_as_the_file_is(tmp_path, kind, format: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned, so that the metadata count as well
    path = tmp_path / "photo"
    path.write_bytes(encoded(format, exif=exif))
    one = kind(path.read_bytes())
    np.testing.assert_array_equal(preprocess(one, SPEC), preprocess(path, SPEC))
    np.testing.assert_array_equal(preprocess([one, path], SPEC), preprocess([path, path], SPEC))


def test_a_png_in_memory_with_a_broken_profile_is_read_as_the_file_is(tmp_path) -> None:
    text = b"\0\0\0\4zTXtab\0\1\0\0\0\0"  # a compressed text that is none
    content = encoded()
    broken = content[:33] + text + content[33:]
    (tmp_path / "photo.png").write_bytes(broken)
    np.testing.assert_array_equal(preprocess(broken, SPEC), EXPECTED)
    np.testing.assert_array_equal(preprocess(tmp_path / "photo.png", SPEC), EXPECTED)


def test_open_files_are_read_from_their_beginning_and_stay_open(tmp_path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded())
    written = io.BytesIO()
    Image.fromarray(PIXELS).save(written, "PNG")  # and it is at its end
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(path, "photo.png")
    with path.open("rb") as file, zipfile.ZipFile(tmp_path / "photos.zip") as archive, archive.open("photo.png") as member:
        for image in (file, written, member, file):
            np.testing.assert_array_equal(preprocess(image, SPEC), EXPECTED)
            np.testing.assert_array_equal(preprocess([image], SPEC), EXPECTED)
            assert not image.closed


def test_a_pipe_that_an_application_opened_is_read() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as end:
        end.write(encoded())  # a pipe holds more than this
    with os.fdopen(read, "rb") as pipe:
        np.testing.assert_array_equal(preprocess(pipe, SPEC), EXPECTED)


def test_an_open_file_without_an_end_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(decoding, "_LARGEST_STREAM", 1 << 20)
    with open("/dev/zero", "rb") as endless, pytest.raises(ImageError, match="of more than 1 MiB is not read: give its path"):
        preprocess(endless, SPEC)


@given(st.integers(5, 40), st.integers(5, 40), st.sampled_from([1, 3, 4]), st.integers(0, 99), st.booleans())
def test_tensors_of_torchvision_are_the_images_they_were_made_of(height, width, channels, seed, batched) -> None:
    """`to_tensor` is the field's way from an image to floats in [0, 1], channels first."""
    pixels = noise(height, width, channels, seed)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    tensor, expected = to_tensor(image), preprocess(image, SPEC)
    for array in (
        tensor,
        tensor.numpy(),
        tensor.half(),
        tensor.double(),
        tensor.permute(1, 2, 0),
        (255 * tensor).round().byte(),
    ):
        np.testing.assert_array_equal(preprocess(array[None] if batched else array, SPEC), expected)
        np.testing.assert_array_equal(preprocess([array, array], SPEC), np.concatenate([expected, expected]))


def test_gray_arrays_may_name_their_channel() -> None:
    expected = preprocess(Image.fromarray(PIXELS[:, :, 0]), SPEC)
    for array in (PIXELS[:, :, 0], PIXELS[:, :, :1], PIXELS[None, :, :, 0], PIXELS[None, :, :, :1], PIXELS[:, :, 0] / 255):
        np.testing.assert_array_equal(preprocess(array, SPEC), expected)


class Interface:
    """An array of a library that knows numpy's array interface alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> dict[str, object]:
        return self.array.__array_interface__


class Column:
    """A table's column, which is an iterable and has `__array__`, as a Series of pandas."""

    def __init__(self, values: list[object]) -> None:
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = np.empty(len(self.values), object)
        array[:] = self.values
        return array


def test_other_libraries_hand_over_arrays_by_numpys_protocols(tmp_path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded())
    np.testing.assert_array_equal(preprocess(Interface(PIXELS), SPEC), EXPECTED)
    np.testing.assert_array_equal(preprocess(Interface(PIXELS[None]), SPEC), EXPECTED)
    for several in (Column([str(path), encoded()]), np.array([str(path)] * 2), np.array([path, path])):
        np.testing.assert_array_equal(preprocess(several, SPEC), np.concatenate([EXPECTED, EXPECTED]))


def test_no_library_is_imported_to_look_at_an_image() -> None:
    code = """
import sys
import numpy as np
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images.preprocess import preprocess
class Tensor:
    __module__ = "torch"
    def __array__(self, dtype=None, copy=None):
        return np.zeros((3, 9, 8), np.float32)
print(preprocess(Tensor(), Preprocess(4)).shape, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("(1, 3, 4, 4) False\n", "")


class NoPath:
    """A path that is none."""

    def __fspath__(self) -> int:
        return 5


class NoArray:
    """An array of a library that fails."""

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        raise KeyError("the device was lost")


SECRET = "data:image/png;base64," + 9999 * "A"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9), np.uint16), r"array of uint16 \[9, 9\], which does not say which value is white: .*// 257\)\.astype"),
        (np.zeros((3, 9, 9), np.int64), r"array of int64 .*array\.astype\(np\.uint8\) where it is 255"),
        (np.zeros((9, 9), bool), r"array of bool .*array\.astype\(np\.uint8\) \* 255"),
        (np.full((9, 9, 3), 200.0), r"values from 200 to 200: floating values must lie in \[0, 1\]; .*round\(\)\.astype"),
        (np.linspace(-2, 2, 81).reshape(9, 9), r"values from -2 to 2: .* array \* std \+ mean"),
        (np.full((9, 9), np.nan), "values from nan to nan"),
        (np.zeros((9, 9), complex), "array of complex128 .*values must be uint8, or floating"),
        (np.zeros((9, 9, 2), np.uint8), r"array of uint8 \[9, 9, 2\]: arrays must be \[H, W\], "),
        (np.zeros((7, 9, 9), np.uint8), r"of gray images in a row, give list\(array\)"),
        (np.zeros((3, 9, 4), np.float32), "its first and its last side could both be the channels"),
        (np.frombuffer(encoded(), np.uint8), r"of the bytes of an image file, give array\.tobytes\(\)"),
        ([np.zeros((2, 9, 9, 3), np.uint8)], "image 0 is an array .*, which is given alone and not in a list"),
        (np.uint8(7), r"array of uint8 \[\]"),
        (np.zeros((2, 2, 9, 9, 3), np.uint8), r"array of uint8 \[2, 2, 9, 9, 3\]: arrays must be"),
        (torch.zeros(3, 9, 9, requires_grad=True), r"a torch\.Tensor that numpy cannot read: .*tensor\.detach\(\)\.cpu\(\)"),
        (torch.zeros(3, 9, 9, dtype=torch.bfloat16), r"torch\.Tensor that numpy cannot read: .*\.float\(\)"),
        (torch.zeros(3, 9, 9, device="meta"), r"torch\.Tensor that numpy cannot read"),
        ([PIXELS, torch.zeros(3, 9, 9, dtype=torch.bfloat16)], "image 1 is a torch.Tensor that numpy cannot read"),
        ("http://a.org/b.png", r"http://a\.org/b\.png is a URL, .*urllib\.request\.urlopen\(url\)\.read\(\)"),
        ("HTTPS://a.org/b.png", "HTTPS://a.org/b.png is a URL"),
        ("s3://bucket/key.png", r"s3://bucket/key\.png is a URL, .*boto3"),
        ("gs://bucket/key.png", "is a URL, .*: read it, and give the bytes"),
        ("file:///home/b.png", r"is a URL, .*: give the path, as in urllib\.request\.url2pathname"),
        (SECRET, r"^data:image/png;base64,A{38}\.\.\. is a URL, .*base64\.b64decode"),
        (["http://a.org/b.png"], "http://a.org/b.png is a URL"),
        (9999 * "A", r"^A{60}\.\.\. cannot be read as an image: File name too long"),
        (io.StringIO("text"), 'reading it gives a str: open it with mode "rb"'),
        (io.BytesIO(), "it is no intact image of a format that is read"),
        (b"", "it is no intact image of a format that is read"),
        (encoded()[:100], "the image cannot be read as an image"),
        ({"image": PIXELS}, r"the image is of type dict: .* as in item\['image'\]"),
        ([{"image": PIXELS}], "image 0 is of type dict"),
        ([[[0, 0, 0]]], "image 0 is of type list: give a path, the bytes of an image file, an open file"),
        (NoPath(), "the path of a NoPath cannot be read as an image"),
        ([NoPath()], "the path of a NoPath cannot be read as an image"),
        (NoArray(), r"a test_runtime_images\.NoArray that numpy cannot read: 'the device was lost'$"),
        ("", "^'' cannot be read as an image: No such file"),
        (Image.Image, "the image is of type type: give a path"),
        (None, "the image is None: give a path"),
        (3.5, "the image is of type float"),
        (object(), "the image is of type object"),
        ([None], "image 0 is None: give a path"),
    ],
)
def test_what_could_mean_something_else_is_refused_with_the_way_on(image, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        preprocess(image, SPEC)
    assert len(str(caught.value)) < 600


def test_a_file_that_was_closed_or_fails_is_an_image_error() -> None:
    closed = io.BytesIO(encoded())
    closed.close()

    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("the camera was unplugged")

    for image, message in ((closed, "closed file"), (Failing(), "the camera was unplugged")):
        with pytest.raises(ImageError, match=f"the image cannot be read as an image: .*{message}"):
            preprocess(image, SPEC)
