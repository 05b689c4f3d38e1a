"""Pixels to `pixel_values` in JavaScript, against Pillow through the runtime's own preprocessing: bit for bit."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from javascript import node
from pictures import picture

from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.images.preprocess import to_pixel_values

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RGB = ("after_crop", "before_resize", "before_resize_on_white")
CHANNEL, INDEXED = {"alphaChannel": True}, {"indexed": True}
MODES = {"RGB": {}, "RGBA": CHANNEL, "LA": CHANNEL, "L": {}, "P": INDEXED, "1": INDEXED}
"""modes of Pillow that JPEG, PNG, WebP and GIF are opened in, and what image_file.mjs says of such files"""


def cases(count: int) -> list[tuple]:
    """Every filter with every way to resize, to crop and to become RGB; sizes and modes drawn, `count` for each."""
    draw = random.Random(0)
    found = []
    for interpolation, resize, rgb, offset in itertools.product(
        FILTERS, ("shortest_edge", "longest_edge", "squash"), RGB, ("half_to_even", "down")
    ):
        for _ in range(count):
            side = draw.randint(4, 40)
            spec = Preprocess(
                side,
                resize=resize,
                resized_side=side if resize == "squash" else side + draw.choice([0, 0, 1, 7]),
                interpolation=interpolation,
                fill=draw.choice([0, 77]),
                crop_offset=offset,
                rgb=rgb,
            )
            modes = list(MODES)[: 4 if (resize, rgb) == ("longest_edge", "after_crop") else None]  # a padded palette is refused
            mode, height, width = draw.choice(modes), draw.randint(20, 120), draw.randint(20, 120)
            found.append((spec, mode, picture(mode, height, width, draw.randint(0, 999))))
    return found


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """The cases, and what JavaScript makes of each."""
    folder, drawn, described = tmp_path_factory.mktemp("preprocess"), cases(3), []
    for i, (spec, mode, image) in enumerate(drawn):
        (folder / f"{i}.rgba").write_bytes(image.convert("RGBA").tobytes())
        size = {"width": image.width, "height": image.height, "alphaChannel": False}
        described.append({"spec": asdict(spec), **size, **MODES[mode]})
    (folder / "cases.json").write_text(json.dumps(described))
    node(Path(__file__).with_name("preprocess.mjs"), folder)
    return drawn, [np.fromfile(folder / f"{i}.f32", "<f4") for i in range(len(drawn))]


@pytest.mark.parametrize("interpolation", FILTERS)
def test_every_filter_is_pillow_s(computed, interpolation: str) -> None:
    compared = 0
    for (spec, mode, image), values in zip(*computed, strict=True):
        if spec.interpolation == interpolation:
            expected = to_pixel_values(image, spec, "a picture")
            np.testing.assert_array_equal(values.reshape(expected.shape), expected, err_msg=f"{spec} {mode} {image.size}")
            compared += 1
    assert compared == 54
