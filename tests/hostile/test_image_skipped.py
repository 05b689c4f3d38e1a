"""Images that cannot be read among others that can: they cost no other one its answer, where that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import Weights, images, write_image_bundle

from mingle_edge_runtime import EdgeError, EdgeModel, ImageError

GOOD = images(0, 1, 2, 3)
BROKEN = np.zeros((3, 3, 3))
LONG = 20  # seconds that no test comes near to


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A bundle of the image scope."""
    return write_image_bundle(tmp_path_factory.mktemp("skipped") / "bundle", Weights())


@pytest.mark.parametrize("broken", [{1}, {0, 3}, {0, 1, 2, 3}, set(range(1, 70)), set(range(70))])
def test_every_image_keeps_its_place(folder, broken: set[int]) -> None:
    """Also where all of one run are broken, or more than one run's."""
    count = max(4, len(broken))
    asked = [BROKEN if i in broken else GOOD[i % 4] for i in range(count)]
    with EdgeModel.open(folder, threads=1) as model:
        found = model.classify(asked, on_error="skip")
        assert len(found) == count
        for i, answer in enumerate(found):
            if i in broken:
                assert isinstance(answer, ImageError)
                assert str(answer).startswith(f"image {i} is an array of float64")
                assert answer.__traceback__ is None  # which would hold the picture
            else:
                assert answer == model.classify(GOOD[i % 4])[0]
        submitted = model.submit(asked, on_error="skip").result(LONG)
        assert list(map(str, submitted)) == list(map(str, found))


def test_nothing_else_is_skipped(folder) -> None:
    def failing():
        yield GOOD[0]
        raise ImageError("of the application's camera")

    with EdgeModel.open(folder, threads=1) as model:
        for ask in (model.classify, lambda *given, **options: model.submit(*given, **options).result(LONG)):
            with pytest.raises(ImageError, match="camera"):
                ask(failing(), on_error="skip")
            with pytest.raises(ImageError, match="image 1 is an array of float64"):
                ask([GOOD[0], BROKEN])
            with pytest.raises(EdgeError, match='on_error is \'ignore\', must be "raise" or "skip"'):
                ask(GOOD, on_error="ignore")
