"""The runtime's preprocessing against open_clip, torchvision and transformers, bit for bit, and what it refuses."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from open_clip import image_transform
from pictures import MODES, noise, pictures
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from transformers import CLIPImageProcessorPil

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.images import load_images
from mingle_edge_runtime import ImageError
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, OPENAI_STD, Preprocess
from mingle_edge_runtime.images.preprocess import preprocess, resized

SPEC = Preprocess(24)
RESIZE_MODES = {"shortest_edge": "shortest", "longest_edge": "longest", "squash": "squash"}


def open_clip_transform(image: Image.Image, spec: Preprocess = SPEC) -> np.ndarray:
    """What training saw."""
    transform = image_transform(
        spec.image_size,
        is_train=False,
        mean=spec.mean,
        std=spec.std,
        resize_mode=RESIZE_MODES[spec.resize],
        interpolation=spec.interpolation,
        fill_color=spec.fill,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, that transparency is lost
        return transform(image).numpy()


open_clip_specs = st.builds(
    Preprocess,
    st.integers(1, 64),
    resize=st.sampled_from(list(RESIZE_MODES)),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 255, 7]),
)


@given(pictures(), open_clip_specs)
def test_equals_open_clip_bit_for_bit(image: Image.Image, spec: Preprocess) -> None:
    longest = max(image.size)
    assume(spec.resize != "longest_edge" or round(min(image.size) * spec.image_size / longest) > 0)  # or open_clip fails
    ours = preprocess(image, spec)  # without Pillow's warning
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[0], open_clip_transform(image, spec))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2000), (3000, 2000)])
@pytest.mark.parametrize("mode", MODES)
def test_any_size_and_mode_equals_open_clip(size: tuple[int, int], mode: str) -> None:
    image = Image.fromarray(np.repeat(noise(1, size[0]), size[1], axis=0)).convert(mode)
    np.testing.assert_array_equal(preprocess(image, SPEC)[0], open_clip_transform(image))


@given(pictures(), st.integers(1, 40), st.integers(0, 24))
def test_a_crop_of_a_larger_resized_image_equals_torchvision(image: Image.Image, side: int, margin: int) -> None:
    transform = Compose([Resize(side + margin, InterpolationMode.BICUBIC), CenterCrop(side), lambda crop: crop.convert("RGB")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = np.asarray(transform(image))
    np.testing.assert_array_equal(resized(image, Preprocess(side, resized_side=side + margin), "it"), expected)


transformers_specs = st.builds(
    Preprocess,
    st.integers(1, 40),
    st.sampled_from([OPENAI_MEAN, (0.5, 0.5, 0.5)]),
    st.sampled_from([OPENAI_STD, (0.5, 0.5, 0.5)]),
    st.sampled_from(["shortest_edge", "squash"]),
    st.integers(40, 64),
    st.sampled_from([filter.name.lower() for filter in Image.Resampling]),
    crop_offset=st.just("down"),
    rgb=st.just("before_resize_on_white"),
)


@given(pictures(), transformers_specs)
def test_equals_transformers_on_pillow_bit_for_bit(image: Image.Image, spec: Preprocess) -> None:
    side = spec.side
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side} if spec.resize == "shortest_edge" else {"height": side, "width": side},
        crop_size={"height": spec.image_size, "width": spec.image_size},
        resample=Image.Resampling[spec.interpolation.upper()],
        image_mean=spec.mean,
        image_std=spec.std,
    )
    np.testing.assert_array_equal(preprocess(image, spec), processor(image, return_tensors="np")["pixel_values"])
    # Releases before 5.21 take `convert` for all of it.
    before = preprocess(image, replace(spec, rgb="before_resize"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.testing.assert_array_equal(before, processor(image.convert("RGB"), return_tensors="np")["pixel_values"])


def test_a_palette_with_transparency_is_read_from_its_file(tmp_path) -> None:
    path = tmp_path / "palette.png"
    Image.fromarray(noise()).convert("P").save(path, transparency=bytes(range(256)))
    with Image.open(path) as image:
        np.testing.assert_array_equal(preprocess(path, SPEC)[0], open_clip_transform(image))
        assert preprocess(image, replace(SPEC, rgb="before_resize")).shape == (1, 3, 24, 24)
        assert "transparency" in image.info  # the application's picture is as it was


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


def test_every_byte_value_is_scaled_as_both_libraries_do() -> None:
    spec = Preprocess(16)
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    np.testing.assert_array_equal(preprocess(image, spec)[0], open_clip_transform(image, spec))
    np.testing.assert_array_equal(preprocess(image, spec), processor(image, return_tensors="np")["pixel_values"])


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
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]: its first and its last side could both be the channels"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        ([np.zeros((4, 4, 3), np.uint8), 5], "image 1 is of type int"),
        (Image.new("I;16", (9, 9)), "more than 8 bits per channel"),
        (Image.new("F", (9, 9)), "more than 8 bits per channel"),
        (Image.new("I", (9, 9)), "more than 8 bits per channel"),
        (Image.new("L", (1, 600_000)), "too elongated"),
    ],
)
def test_what_is_no_image_is_refused(image, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, Preprocess(224))
