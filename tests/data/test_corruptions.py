"""Corruptions: each against its definition, written out again or done by another library, and the same for an image always."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.corruptions import (
    CORRUPTIONS,
    Corruption,
    CorruptionError,
    corrupt,
    distance_to,
    gaussian_blur,
    image_generator,
    streak,
)
from mingle_edge.data.images import load_images
from mingle_edge_runtime.bundle.index import Preprocess

TINY = VisionArchitecture(Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), 8, 48, 3, 3, 192, 32, "quick_gelu")
LEVELS = range(1, 6)


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A few patches of colour, somewhat blurred."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def grey(value: int, side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), (value, value, value))


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def corrupted(image: Image.Image, name: str, severity: int, seed: int = 0) -> np.ndarray:
    return values(corrupt(image, name, severity, np.random.default_rng(seed)))


@given(
    name=st.sampled_from(CORRUPTIONS),
    severity=st.integers(1, 5),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P"]),
)
def test_any_image_gives_an_rgb_image_of_its_size_and_is_left_alone(name, severity, size, mode) -> None:
    image = picture(1, size).convert(mode)
    before = image.tobytes()
    found = corrupt(image, name, severity, np.random.default_rng(0))
    assert (found.mode, found.size) == ("RGB", size)
    assert image.tobytes() == before


@pytest.mark.parametrize(("severity", "deviation"), list(enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1)))
def test_gaussian_noise_has_the_deviation(severity: int, deviation: float) -> None:
    noise = corrupted(grey(128, 256), "gaussian_noise", severity) / 255 - 128 / 255
    assert noise.std() == pytest.approx(deviation, rel=0.01)
    assert abs(noise.mean() + 0.5 / 255) < 1e-3  # values are cut to 8 bits, not rounded
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02  # each channel has its own


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1)))
def test_impulse_noise_sets_a_share_of_values_to_black_or_white(severity: int, share: float) -> None:
    found = corrupted(grey(100, 256), "impulse_noise", severity)
    assert set(np.unique(found)) == {0, 100, 255}
    assert np.mean(found != 100) == pytest.approx(share, rel=0.05)
    assert np.mean(found == 255) == pytest.approx(share / 2, rel=0.07)
    assert np.mean((found != 100).any(axis=2)) == pytest.approx(1 - (1 - share) ** 3, rel=0.05)  # channels by themselves


@pytest.mark.parametrize(("severity", "left"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), start=1)))
def test_contrast_shrinks_the_distance_to_each_channels_mean(severity: int, left: float) -> None:
    image = picture(2)
    x = values(image)
    expected = np.empty_like(x)
    for channel in range(3):
        mean = x[..., channel].mean()
        expected[..., channel] = mean + left * (x[..., channel] - mean)
    assert np.abs(corrupted(image, "contrast", severity) - (expected - 0.5)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("severity", "quality"), list(enumerate((80, 65, 58, 50, 40), start=1)))
def test_jpeg_is_pillows_round_trip(severity: int, quality: int) -> None:
    image = picture(3, (40, 32))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    assert np.array_equal(corrupted(image, "jpeg_compression", severity), values(Image.open(buffer)))


@pytest.mark.parametrize(("severity", "left"), list(enumerate((0.95, 0.9, 0.85, 0.75, 0.65), start=1)))
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (64, 48)])
def test_pixelate_is_a_round_trip_of_boxes(severity: int, left: float, size: tuple[int, int]) -> None:
    image = picture(4, size)
    blocks = int(32 * left)
    small = image.resize((size[0] * blocks // min(size), blocks), Image.Resampling.BOX)
    assert np.array_equal(corrupted(image, "pixelate", severity), values(small.resize(size, Image.Resampling.BOX)))


class TestMotionBlur:
    @pytest.mark.parametrize("side", [32, 100])
    def test_a_plain_image_stays(self, side: int) -> None:
        for severity in LEVELS:
            for value in range(0, 256, 15):
                assert (corrupted(grey(value, side), "motion_blur", severity) == value).all()

    def test_a_streak_is_a_convolution_with_its_kernel(self) -> None:
        length, deviation, angle = 13, 2.0, np.deg2rad(30)
        kernel = np.zeros((2 * length + 1, 2 * length + 1))
        for i in range(length):
            dy, dx = round(i * np.sin(angle)), round(i * np.cos(angle))
            kernel[length + dy, length + dx] += np.exp(-(i**2) / (2 * deviation**2))
        x = np.random.default_rng(5).random((32, 40, 3))
        expected = np.stack(
            [scipy.ndimage.correlate(x[..., c], kernel / kernel.sum(), mode="nearest") for c in range(3)], axis=2
        )
        assert np.allclose(streak(x, length, deviation, angle), expected, atol=1e-12)

    def test_it_blurs_sideways_at_up_to_45_degrees(self) -> None:
        point = np.zeros((64, 64, 3))
        point[32, 32] = 1
        for angle in (-45, -10, 0, 45):
            ys, xs = np.nonzero(streak(point, 13, 2.0, np.deg2rad(angle))[..., 0] > 1e-3)
            assert xs.min() < 32 == xs.max()  # the light of the point goes to pixels that look right
            assert np.rad2deg(np.arctan2(32 - ys[xs.argmin()], 32 - xs.min())) == pytest.approx(angle, abs=8)
        upright = values(Image.fromarray(np.uint8(255 * (np.arange(32) % 8 < 4))[None].repeat(32, 0)).convert("RGB"))
        flat = upright.transpose(1, 0, 2)
        lost = {}
        for name, stripes in (("upright", upright), ("flat", flat)):
            image = Image.fromarray(stripes.astype(np.uint8))
            lost[name] = np.mean([np.abs(corrupted(image, "motion_blur", 5, seed) - stripes).mean() for seed in range(20)])
        assert lost["upright"] > 1.5 * lost["flat"]

    def test_its_length_grows_with_the_image(self) -> None:
        """A large image blurred and reduced to CIFAR's size is about the small image blurred."""
        large = picture(6, (256, 256))
        small = large.resize((32, 32), Image.Resampling.BOX)
        for seed in range(5):
            reduced = Image.fromarray(np.uint8(corrupted(large, "motion_blur", 5, seed))).resize((32, 32), Image.Resampling.BOX)
            direct = corrupted(small, "motion_blur", 5, seed)
            assert np.abs(values(reduced) - direct).mean() < 0.35 * np.abs(direct - values(small)).mean()


class TestSpatter:
    def test_water_lightens_and_mud_covers(self) -> None:
        for severity in LEVELS:
            found = np.stack([corrupted(grey(120), "spatter", severity, seed) for seed in range(20)])
            hit = np.abs(found - 120).max(axis=-1) > 8
            assert 0.01 < hit.mean() < 0.35
            drops = found[hit]
            if severity <= 3:
                assert drops.min() >= 119
                light = drops - 120
                assert np.allclose(light[:, 1], light[:, 2])
                unclipped = light[light[:, 1] < 130]
                assert np.allclose(unclipped[:, 0] / unclipped[:, 1], 175 / 238, atol=0.08)
                assert found.max() <= 120 + 0.5 * 238 + 1  # half of the water's colour at most
            else:
                cover = (120 - drops) / (120 - np.array([63, 42, 20]))
                assert cover.min() > 0.79
                assert cover.max() < 1.02
                assert np.ptp(cover, axis=1).max() < 0.02

    def test_more_is_covered_the_higher_the_severity(self) -> None:
        covered = [
            np.mean([(np.abs(corrupted(grey(120), "spatter", s, seed) - 120).max(axis=-1) > 8).mean() for seed in range(40)])
            for s in LEVELS
        ]
        assert covered[0] < covered[1] < covered[2]  # water
        assert covered[3] < covered[4]  # mud

    def test_drops_grow_with_the_image(self) -> None:
        for severity in (3, 5):
            small, large = corrupted(grey(120), "spatter", severity), corrupted(grey(120, 224), "spatter", severity)
            assert np.abs(large - 120).mean() == pytest.approx(np.abs(small - 120).mean(), rel=0.1)
            reduced = np.asarray(Image.fromarray(np.uint8(large)).resize((32, 32), Image.Resampling.BOX), dtype=float)
            assert np.corrcoef((reduced - 120).ravel(), (small - 120).ravel())[0, 1] > 0.85

    @given(st.integers(0, 1000))
    def test_distance_and_blur_are_scipys(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        marked = generator.random((13, 9)) < 0.05
        marked[0, 0] = True
        assert np.allclose(distance_to(marked), scipy.ndimage.distance_transform_edt(~marked))
        x, deviation = generator.random((13, 9)), generator.uniform(0.4, 2)
        assert np.allclose(gaussian_blur(x, deviation), scipy.ndimage.gaussian_filter(x, deviation, mode="nearest"))

    def test_nothing_to_be_near(self) -> None:
        assert np.isinf(distance_to(np.zeros((3, 4), dtype=bool))).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(name: str) -> None:
    images = [picture(seed) for seed in range(30)]
    damage = [
        np.mean([np.abs(corrupted(im, name, s, seed) - values(im)).mean() for seed, im in enumerate(images)]) for s in LEVELS
    ]
    # Of CIFAR's pixelation, 27 pixels of 32 keep more than 28; and its mud starts below its most water.
    pairs = {"pixelate": [(0, 1), (2, 3), (3, 4)], "spatter": [(0, 1), (1, 2), (3, 4)]}
    for low, high in pairs.get(name, [(i, i + 1) for i in range(4)]):
        assert damage[low] < damage[high], (low + 1, high + 1)
    assert damage[4] > 1.5 * damage[0]


class TestSameForAnImage:
    def test_by_its_pixels(self) -> None:
        for name in CORRUPTIONS:
            corruption = Corruption(name, 3)
            first = corruption(picture(7))
            corruption(picture(8))
            assert first.tobytes() == corruption(picture(7)).tobytes()

    def test_other_images_names_and_severities_have_other_numbers(self) -> None:
        drawn = {
            image_generator(picture(seed), name, severity).integers(1 << 62)
            for seed in (7, 8)
            for name in ("spatter", "gaussian_noise")
            for severity in LEVELS
        }
        assert len(drawn) == 20

    def test_in_another_process(self, tmp_path: Path) -> None:
        picture(7).save(tmp_path / "a.png")
        code = (
            "import sys, hashlib; from PIL import Image; from mingle_edge.data.corruptions import Corruption, CORRUPTIONS\n"
            "image = Image.open(sys.argv[1])\n"
            "for name in CORRUPTIONS: print(hashlib.sha256(Corruption(name, 4)(image).tobytes()).hexdigest())"
        )
        runs = {
            subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True).stdout
            for _ in range(2)
        }
        assert len(runs) == 1


class TestLoading:
    def test_the_models_input_is_corrupted(self, tmp_path: Path) -> None:
        """After resizing, before normalisation: written out with Pillow and numpy."""
        picture(9, (70, 50)).save(tmp_path / "a.png")
        for name in CORRUPTIONS:
            corruption = Corruption(name, 5)
            found = load_images([tmp_path / "a.png"], TINY, corruption)[0]
            resized = picture(9, (70, 50)).resize((44, 32), Image.Resampling.BICUBIC).crop((6, 0, 38, 32))
            expected = (values(corruption(resized)) / 255 - TINY.preprocess.mean) / TINY.preprocess.std
            assert np.allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)

    def test_whatever_else_is_loaded(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{number}.png" for number in range(3)]
        for number, path in enumerate(paths):
            picture(number, (40, 36)).save(path)
        noise = Corruption("gaussian_noise", 2)
        together = load_images(paths, TINY, noise)
        assert torch.equal(together[[2, 0]], load_images([paths[2], paths[0]], TINY, noise))
        assert not torch.equal(together, load_images(paths, TINY))


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        (
            "fog",
            1,
            "there is no corruption 'fog'; corruptions are: motion_blur, impulse_noise, gaussian_noise, pixelate, spatter",
        ),
        ("spatter", 0, "spatter: the severity must be a whole number from 1 to 5, not 0"),
        ("spatter", 6, "from 1 to 5, not 6"),
        ("spatter", 2.5, r"from 1 to 5, not 2\.5"),
    ],
)
def test_refused(name: str, severity: int, message: str) -> None:
    with pytest.raises(CorruptionError, match=message):
        Corruption(name, severity)
    with pytest.raises(CorruptionError, match=message):
        corrupt(grey(0), name, severity, np.random.default_rng(0))
