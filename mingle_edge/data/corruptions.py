"""Common corruptions of images: the seven the MINGLE paper measures, with the constants of CIFAR-10-C at five severities.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", arXiv 1903.12261;
constants of the authors' script for CIFAR-10-C, which are for images of 32 x 32 pixels. For other sizes an image is taken
for a larger or smaller print of the same picture: lengths (the reach of motion blur, the size of spatter's drops and of
pixelation's blocks) are shares of the shorter side, 1/32 of it for a pixel of CIFAR. Noise, contrast and JPEG are per pixel
whatever the size. (The paper's code, FusionBench, applies the constants as they stand to images of all sizes, and so leaves
20 to 30 pixels of a side when it pixelates, as is done here.) numpy and Pillow only.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mingle_edge.core.errors import MingleError
from mingle_edge_runtime.images.image_file import open_image

SEVERITIES = 5
CIFAR_SIDE = 32  # pixels, which the constants are for

Floats = NDArray[np.float64]

_GAUSSIAN_NOISE = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation, of values in [0, 1]
_IMPULSE_NOISE = (0.01, 0.02, 0.03, 0.05, 0.07)  # share of values set to 0 or 1
_MOTION_BLUR = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))  # radius and standard deviation, CIFAR pixels
_MOTION_ANGLE = 45.0  # degrees from the horizontal, at most
_PIXELATE = (30, 28, 27, 24, 20)  # blocks along the shorter side: 0.95, 0.9, 0.85, 0.75, 0.65 of 32, cut
_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # share of the distance to the mean color that is left
_JPEG_QUALITY = (80, 65, 58, 50, 40)

_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)  # RGB
_RIM = 20.0  # CIFAR pixels from the rim of a drop, at which its light no longer changes
_MUD_FLOOR = 0.8  # thinner mud is not seen
_STEEP = 150.0  # slope under the kernel below that makes an edge, of values from 0 to 255
_SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
_ROUNDING = 1e-9  # levels of 8 bits; a sum that misses a level by its rounding, which differs between processors, is not cut


@dataclass(frozen=True)
class _Spatter:
    mean: float  # of the noise
    deviation: float
    blur: float  # of the noise, CIFAR pixels
    threshold: float  # above it there is liquid
    amount: float  # water: light it adds at most; mud: blur of its mask, CIFAR pixels
    mud: bool


_SPATTER = (
    _Spatter(0.62, 0.1, 0.7, 0.7, 0.5, mud=False),
    _Spatter(0.65, 0.1, 0.8, 0.7, 0.5, mud=False),
    _Spatter(0.65, 0.3, 1.0, 0.69, 0.5, mud=False),
    _Spatter(0.65, 0.1, 0.7, 0.69, 0.6, mud=True),
    _Spatter(0.65, 0.1, 0.5, 0.68, 0.6, mud=True),
)


class CorruptionError(MingleError):
    """A corruption or a severity that does not exist."""


@dataclass(frozen=True)
class Corruption:
    """One corruption at one severity, the same for an image wherever, whenever and beside whatever it is loaded.

    Raises `CorruptionError` for a name that is not in `CORRUPTIONS` or a severity outside 1 to 5.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        _check(self.name, self.severity)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Corrupt an RGB image and return the result."""
        return corrupt(image, self.name, self.severity, image_generator(image, self.name, self.severity))


def corrupt(image: Image.Image, name: str, severity: int, generator: np.random.Generator) -> Image.Image:
    """Return an RGB image of the same size, corrupted with random numbers from `generator`.

    Raises:
        CorruptionError: unknown name, or a severity outside 1 to 5.
    """
    _check(name, severity)
    return _CORRUPTIONS[name](image.convert("RGB"), severity - 1, generator)


def image_generator(image: Image.Image, name: str, severity: int) -> np.random.Generator:
    """Return random numbers that depend on an image's pixels, the corruption and its severity, and on nothing else."""
    digest = hashlib.sha256(f"{name}/{severity}/{image.mode}/{image.size}".encode() + image.tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _check(name: str, severity: int) -> None:
    if name not in _CORRUPTIONS:
        raise CorruptionError(f"there is no corruption {name!r}; corruptions are: {', '.join(CORRUPTIONS)}")
    if severity not in range(1, SEVERITIES + 1):
        raise CorruptionError(f"{name}: the severity must be a whole number from 1 to {SEVERITIES}, not {severity!r}")


def _motion_blur(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    """Draw a one-sided Gaussian streak of 2 radius + 1 pixels in a random direction, nearest pixels, edges repeated."""
    radius, deviation = (value * _cifar_pixel(image) for value in _MOTION_BLUR[level])
    angle = np.deg2rad(generator.uniform(-_MOTION_ANGLE, _MOTION_ANGLE))
    return _from_floats(streak(_to_floats(image), 2 * round(radius) + 1, deviation, angle))


def streak(x: Floats, length: int, deviation: float, angle: float) -> Floats:
    """Average `x [H, W, 3]` over `length` pixels in the direction of `angle` (radians, from right to down)."""
    steps = np.arange(length)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    weights /= weights.sum()
    down, right = (np.rint(steps * part).astype(int) for part in (np.sin(angle), np.cos(angle)))
    reach = length
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = x.shape[:2]
    blurred = np.zeros_like(x)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        blurred += weight * padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return blurred


def _impulse_noise(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    """Add salt and pepper: a share of all values, each channel by itself, becomes 0 or 1."""
    x = _to_floats(image)
    hit = generator.random(x.shape) < _IMPULSE_NOISE[level]
    return _from_floats(np.where(hit, (generator.random(x.shape) < 0.5).astype(float), x))


def _gaussian_noise(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    x = _to_floats(image)
    return _from_floats(x + generator.normal(scale=_GAUSSIAN_NOISE[level], size=x.shape))


def _pixelate(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    width, height = (side * _PIXELATE[level] // min(image.size) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)


def _spatter(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    """Add drops of water that lighten, or of mud that covers: where blurred noise exceeds a threshold.

    They are laid out on a grid of CIFAR's pixels and enlarged with the image.
    """
    c = _SPATTER[level]
    x = _to_floats(image)
    height, width = (max(1, round(side / _cifar_pixel(image))) for side in x.shape[:2])
    field = gaussian_blur(generator.normal(c.mean, c.deviation, (height, width)), c.blur)
    wet = field > c.threshold
    if c.mud:
        cover = gaussian_blur(wet.astype(float), c.amount)
        cover = _enlarged(np.where(cover < _MUD_FLOOR, 0.0, cover), x.shape)
        return _from_floats(x * (1 - cover) + np.array(_MUD) * cover)
    drops = np.where(wet, np.floor(255 * field), 0.0)
    light = drops * _embossed(drops)
    if light.max() > 0:
        light *= c.amount / light.max()
    return _from_floats(x + np.array(_WATER) * _enlarged(light, x.shape))


def _contrast(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    x = _to_floats(image)
    mean = x.mean(axis=(0, 1))  # [3]
    return _from_floats((x - mean) * _CONTRAST[level] + mean)


def _jpeg(image: Image.Image, level: int, generator: np.random.Generator) -> Image.Image:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_JPEG_QUALITY[level])
    with open_image(written) as image:
        return image.convert("RGB")


_CORRUPTIONS: dict[str, Callable[[Image.Image, int, np.random.Generator], Image.Image]] = {
    "motion_blur": _motion_blur,
    "impulse_noise": _impulse_noise,
    "gaussian_noise": _gaussian_noise,
    "pixelate": _pixelate,
    "spatter": _spatter,
    "contrast": _contrast,
    "jpeg_compression": _jpeg,
}
CORRUPTIONS: tuple[str, ...] = tuple(_CORRUPTIONS)
"""In the order of the paper's table."""


def _embossed(drops: Floats) -> Floats:
    """Light drops `[H, W]` from the upper left: the slope of the distance to their rims, in values from 0 to 255."""
    distance = np.floor(_filtered(np.minimum(distance_to(_rims(drops)), _RIM), np.full((3, 3), 1 / 9)))
    ranks = np.searchsorted(np.sort(distance, axis=None), distance, side="right") - (distance == distance.min()).sum()
    level = np.rint(255 * ranks / max(1, ranks.max()))  # histogram equalization
    slope = _filtered(level, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    return _filtered(np.clip(slope, 0, 255), np.full((3, 3), 1 / 9))


def _rims(layer: Floats) -> NDArray[np.bool_]:
    """Find where the edge of a drop `[H, W]` is steepest in its own direction: Canny's detector (IEEE TPAMI 1986).

    With one threshold on the slope: the rims of drops are all far above it, so the original's second one, for weak edges that
    touch a strong one, changes little (light of the drops within 5% of the original's in the mean, at each severity).
    """
    right, down = (_filtered(layer, kernel) for kernel in (_SOBEL, _SOBEL.T))
    steep = np.abs(right) + np.abs(down)
    around = np.pad(steep, 1)

    def beside(dy: int, dx: int) -> Floats:
        return around[1 + dy : 1 + dy + layer.shape[0], 1 + dx : 1 + dx + layer.shape[1]]

    flat, upright = (np.abs(a) < np.tan(np.pi / 8) * np.abs(b) for a, b in ((down, right), (right, down)))
    peak = np.where(
        right * down >= 0,
        (steep > beside(-1, -1)) & (steep > beside(1, 1)),
        (steep > beside(-1, 1)) & (steep > beside(1, -1)),
    )
    peak = np.where(flat, (steep > beside(0, -1)) & (steep >= beside(0, 1)), peak)
    peak = np.where(upright, (steep > beside(-1, 0)) & (steep >= beside(1, 0)), peak)
    return np.asarray((steep > _STEEP) & peak)


def distance_to(marked: NDArray[np.bool_]) -> Floats:
    """Return the Euclidean distance `[H, W]` of each pixel to the nearest marked one, infinite where there is none."""
    rows, columns = (np.subtract.outer(np.arange(n), np.arange(n)) ** 2.0 for n in marked.shape)
    along_rows = np.where(marked[:, None, :], columns, np.inf).min(axis=2)  # [H, W]: squared, within the row
    return np.asarray(np.sqrt((rows[:, :, None] + along_rows).min(axis=1)))


def gaussian_blur(x: Floats, deviation: float) -> Floats:
    """Blur `x [H, W]` by a Gaussian cut off at four deviations, edges repeated."""
    reach = int(4 * deviation + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        x = sum((w * padded.take(range(i, i + x.shape[axis]), axis) for i, w in enumerate(weights)), np.zeros_like(x))
    return x


def _filtered(x: Floats, kernel: Floats | NDArray[np.int_]) -> Floats:
    """Correlate `x [H, W]` with a kernel `[3, 3]`, mirrored at the edge without repeating it."""
    padded = np.pad(x, 1, mode="reflect" if min(x.shape) > 1 else "edge")
    height, width = x.shape
    parts = (kernel[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return sum(parts, np.zeros_like(x))


def _cifar_pixel(image: Image.Image) -> float:
    """Return the length of a pixel of CIFAR, in pixels of this image."""
    return min(image.size) / CIFAR_SIDE


def _enlarged(layer: Floats, shape: tuple[int, ...]) -> Floats:
    """Enlarge a layer on CIFAR's grid to `[H, W, 1]` of an image's `shape`."""
    if layer.shape != shape[:2]:
        enlarged = Image.fromarray(layer.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        layer = np.asarray(enlarged, dtype=np.float64)
    return layer[:, :, None]


def _to_floats(image: Image.Image) -> Floats:
    return np.asarray(image, dtype=np.float64) / 255


def _from_floats(x: Floats) -> Image.Image:
    """Return values `[H, W, 3]` in [0, 1], others cut off, as an image; cut to 8 bits as CIFAR-10-C is, not rounded."""
    return Image.fromarray((x.clip(0, 1) * 255 + _ROUNDING).astype(np.uint8))
