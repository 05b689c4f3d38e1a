"""The runtime's preprocessing against open_clip's transform, bit for bit, and what it refuses."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip import image_transform
from PIL import Image

from mingle_edge.architecture import OPENAI_MEAN, OPENAI_STD
from mingle_edge_runtime import ImageError
from mingle_edge_runtime.bundle import Preprocess
from mingle_edge_runtime.preprocess import preprocess

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


def open_clip_transform(image: Image.Image, spec: Preprocess) -> np.ndarray:
    """What training saw."""
    return image_transform(spec.image_size, is_train=False, mean=spec.mean, std=spec.std)(image).numpy()


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Random pixels of any 8-bit mode and size."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    pixels = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 256, (height, width, 4), dtype=np.uint8)
    mode = draw(st.sampled_from(MODES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        image = Image.fromarray(pixels, "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@given(pictures(), st.integers(1, 64))
def test_equals_open_clip_bit_for_bit(image: Image.Image, side: int) -> None:
    spec = Preprocess(side, OPENAI_MEAN, OPENAI_STD)
    ours = preprocess(image, spec)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[0], open_clip_transform(image, spec))


def test_every_byte_value_is_scaled_like_torch_does() -> None:
    spec = Preprocess(16, OPENAI_MEAN, OPENAI_STD)
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    np.testing.assert_array_equal(preprocess(image, spec)[0], open_clip_transform(image, spec))


def test_paths_pictures_and_arrays_agree(tmp_path) -> None:
    spec = Preprocess(8, OPENAI_MEAN, OPENAI_STD)
    array = np.random.default_rng(0).integers(0, 256, (3, 12, 9, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, array, strict=True):
        Image.fromarray(pixels).save(path)
    expected = preprocess(array, spec)
    assert expected.shape == (3, 3, 8, 8)
    for images in (list(array), paths, [str(path) for path in paths], map(Image.open, paths), iter(array)):
        np.testing.assert_array_equal(preprocess(images, spec), expected)
    for single in (array[1], paths[1], Image.fromarray(array[1])):
        np.testing.assert_array_equal(preprocess(single, spec), expected[1:2])
    gray = array[0, :, :, 0]
    np.testing.assert_array_equal(preprocess(gray, spec), preprocess(np.repeat(gray[:, :, None], 3, 2), spec))


@pytest.mark.parametrize("nothing", [[], np.empty((0, 5, 5, 3), np.uint8)])
def test_no_images_give_an_empty_batch(nothing) -> None:
    assert preprocess(nothing, Preprocess(8, OPENAI_MEAN, OPENAI_STD)).shape == (0, 3, 8, 8)


def broken_png() -> bytes:
    """The first half of a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()[: file.tell() // 2]


@pytest.mark.parametrize("content", [b"", b"not an image", broken_png(), broken_png()[:40]])
def test_broken_files_are_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ImageError, match=r"broken\.png"):
        preprocess([good, path], Preprocess(8, OPENAI_MEAN, OPENAI_STD))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere/none.png", "nowhere/none.png cannot be read as an image: No such file"),
        (np.zeros((4, 4, 3)), r"array of float64 \[4, 4, 3\]: arrays must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        ([np.zeros((4, 4, 3), np.uint8), 5], "image 1 is a int"),
        (Image.new("I;16", (9, 9)), "more than 8 bits per channel"),
        (Image.new("F", (9, 9)), "more than 8 bits per channel"),
        (Image.new("L", (1, 600_000)), "too elongated"),
    ],
)
def test_what_is_no_image_is_refused(image, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, Preprocess(224, OPENAI_MEAN, OPENAI_STD))
