"""What the tests of the examples share: bundles of every kind, of the models that other tests merge too, and 50 pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
from kinds import KINDS, LOOSE
from PIL import Image
from sklearn.datasets import load_digits

from mingle_edge_export import ExportOptions, export_bundle


@pytest.fixture(scope="session")
def exported(image_model, layer_model, tmp_path_factory):
    """A function from a name in `KINDS` to its bundle, exported once."""
    folder, models = tmp_path_factory.mktemp("exported"), {"image": image_model, "layer": layer_model}

    @cache
    def bundle(kind: str) -> Path:
        scope, options = KINDS[kind]
        export_bundle(models[scope].path, folder / kind, ExportOptions(**options, **LOOSE))
        return folder / kind

    return bundle


@pytest.fixture(scope="session")
def fifty(tmp_path_factory) -> list[Path]:
    """Pictures in PNG, JPEG, WebP and GIF: pictures like the seeds of each task and of none, and handwritten digits."""
    folder = tmp_path_factory.mktemp("fifty")
    for seed in range(5):
        tiny_clip.write_images(folder / f"smooth{seed}", 6, seed, size=(52 + 3 * seed, 41), variant=7)
    digits = load_digits().images[:20] / 16  # [20, 8, 8]
    (folder / "digits").mkdir()
    for i, digit in enumerate(digits):
        ink, paper = np.random.default_rng(i).uniform(0, 255, (2, 3))
        pixels = (paper + digit[..., None] * (ink - paper)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((44, 60 + i), Image.Resampling.BICUBIC)
        image.save(folder / f"digits/{i:02}.{('png', 'jpg', 'webp', 'gif')[i % 4]}")
    return sorted(path for path in folder.rglob("*") if path.is_file())
