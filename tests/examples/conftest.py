"""What the tests of the examples share: bundles of every kind, of the models that other tests merge too, and 50 pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
from kinds import KINDS, LOOSE
from measured_forms import with_forms
from PIL import Image
from sklearn.datasets import load_digits

from mingle_edge.experts.expert_form import ExpertForm
from mingle_edge_export import ExportOptions, export_bundle

FORMS = {
    "task0": [ExpertForm(8, "int8", 0.5, 0.99)],
    "task1": [ExpertForm(8, "int4", 0.7, 0.98), ExpertForm(8, "int8", 0.1, 1.0)],
    "task2": [ExpertForm(4, "int4", 0.9, 0.97), ExpertForm(8, "int4", 0.5, 0.98)],
}
"""What experts keep, made up."""


@pytest.fixture(scope="session")
def exported(image_model, layer_model, tmp_path_factory):
    """A function from a name in `KINDS` to its bundle, exported once."""
    folder = tmp_path_factory.mktemp("exported")
    measured = with_forms(image_model, folder / "measured", FORMS)
    models = {"image": image_model, "layer": layer_model, "measured": measured}

    @cache
    def bundle(kind: str) -> Path:
        model, options = KINDS[kind]
        export_bundle(models[model].path, folder / kind, ExportOptions(**options, **LOOSE))
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
