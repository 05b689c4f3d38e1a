"""The runtime's preprocessing against open_clip's transform, bit for bit, and what it refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip import image_transform
from PIL import Image

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.images import load_images
from mingle_edge_runtime import ImageError
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images.preprocess import preprocess

SPEC = Preprocess(24)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def open_clip_transform(image: Image.Image, spec: Preprocess = SPEC) -> np.ndarray:
    """What training saw."""
    return image_transform(spec.image_size, is_train=False, mean=spec.mean, std=spec.std)(image).numpy()


def noise(height: int = 40, width: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Random pixels of any 8-bit mode and size."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    pixels = noise(height, width, 4, draw(st.integers(0, 1000)))
    mode = draw(st.sampled_from(MODES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        image = Image.fromarray(pixels, "RGBA")
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@given(pictures(), st.integers(1, 64))
def test_equals_open_clip_bit_for_bit(image: Image.Image, side: int) -> None:
    spec = Preprocess(side)
    ours = preprocess(image, spec)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[0], open_clip_transform(image, spec))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2000), (3000, 2000)])
@pytest.mark.parametrize("mode", MODES)
def test_any_size_and_mode_equals_open_clip(size: tuple[int, int], mode: str) -> None:
    image = Image.fromarray(np.repeat(noise(1, size[0]), size[1], axis=0)).convert(mode)
    np.testing.assert_array_equal(preprocess(image, SPEC)[0], open_clip_transform(image))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_palette_with_transparency_equals_open_clip(tmp_path, transparency: int | bytes) -> None:
    path = tmp_path / "palette.png"
    Image.fromarray(noise()).convert("P").save(path, transparency=transparency)
    ours = preprocess(path, SPEC)[0]  # without Pillow's warning that the transparency is lost, which is what is wanted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_array_equal(ours, open_clip_transform(Image.open(path)))


UPRIGHT = {  # what an EXIF orientation (CIPA DC-008, tag 274) asks for, of stored pixels [H, W, 3]
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_file_is_turned_upright_here_and_where_models_are_merged(tmp_path, orientation: int, suffix: str) -> None:
    stored = noise()
    path = tmp_path / f"phone.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    if suffix == "jpg":  # what is stored then is not what was to be stored
        stored = np.asarray(Image.open(path))
    upright = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](stored)))
    architecture = VisionArchitecture(SPEC, 8, 48, 1, 1, 64, 24, "gelu")
    expected = open_clip_transform(upright)
    np.testing.assert_array_equal(preprocess(path, SPEC)[0], expected)
    np.testing.assert_array_equal(load_images([path], architecture)[0].numpy(), expected)


def test_a_picture_that_was_opened_already_is_taken_as_it_is(tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise()).save(tmp_path / "p.png", exif=exif)
    image = Image.open(tmp_path / "p.png")
    np.testing.assert_array_equal(preprocess(image, SPEC)[0], open_clip_transform(image))


def test_every_byte_value_is_scaled_like_torch_does() -> None:
    spec = Preprocess(16)
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    np.testing.assert_array_equal(preprocess(image, spec)[0], open_clip_transform(image, spec))


def test_paths_pictures_and_arrays_agree(tmp_path) -> None:
    spec = Preprocess(8)
    array = np.stack([noise(12, 9, seed=seed) for seed in range(3)])
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


@pytest.mark.parametrize("keep", [0, 40, -100])
def test_broken_files_are_named(tmp_path, keep: int) -> None:
    path = tmp_path / "broken.png"
    Image.fromarray(noise()).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError, match=r"broken\.png"):
        preprocess([noise(), path], SPEC)


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
        (Image.new("I", (9, 9)), "more than 8 bits per channel"),
        (Image.new("L", (1, 600_000)), "too elongated"),
    ],
)
def test_what_is_no_image_is_refused(image, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, Preprocess(224))
