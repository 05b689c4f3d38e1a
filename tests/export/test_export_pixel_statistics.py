"""The pixels' statistics as a graph against their definition in PyTorch."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.routing.pixel_statistics import pixel_statistics as defined
from mingle_edge_export.graph.builder import Graph
from mingle_edge_export.tower.pixel_statistics import pixel_statistics
from mingle_edge_runtime.bundle.index import Preprocess

SIDES = [4, 8, 12, 16, 30, 32, 224, 336]
"""the smallest; scales of odd sides; sides that do not fill the last cell; and those that are averaged first"""
FIGURES = 620
PLAIN = {"black": 0.0, "gray": 0.37, "white": 1.0}


@cache
def session(side):
    """A graph of the statistics alone."""
    graph = Graph("pixels")
    pixels = graph.input("pixel_values", ["batch", 3, side, side])
    graph.output("features", pixel_statistics(graph, pixels, Preprocess(side)), ["batch", FIGURES])
    return ort.InferenceSession(graph.model().SerializeToString(), providers=["CPUExecutionProvider"])


def normalized(values):
    """Pixel values `[n, 3, S, S]` of pixels in [0, 1]."""
    spec = Preprocess(values.shape[-1])
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (spec.mean, spec.std))
    return ((values - mean) / std).astype(np.float32)


def assert_same(values):
    pixels = normalized(values)
    (actual,) = session(pixels.shape[-1]).run(None, {"pixel_values": pixels})
    expected = defined(torch.from_numpy(pixels), Preprocess(pixels.shape[-1])).numpy()
    assert actual.shape == expected.shape == (len(values), FIGURES)
    # Of an image of one color next to nothing is at the next level: log(share + 0.01) makes 1,500 of a value's rounding.
    histograms = np.arange(FIGURES - 168, FIGURES - 120)
    np.testing.assert_allclose(actual[:, histograms], expected[:, histograms], rtol=0, atol=3e-3)
    np.testing.assert_allclose(np.delete(actual, histograms, 1), np.delete(expected, histograms, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_statistics_of_noise_are_those_of_pytorch(side) -> None:
    random = np.random.default_rng(side)
    for count in (1, 2, 7):
        assert_same(random.random((count, 3, side, side), dtype=np.float32))


@pytest.mark.parametrize("side", SIDES)
def test_statistics_of_plain_images_and_checkerboards_are_those_of_pytorch(side) -> None:
    plain = [np.full((3, side, side), value, np.float32) for value in PLAIN.values()]
    board = np.indices((side, side)).sum(0) % 2 * np.ones((3, 1, 1), np.float32)
    ramp = np.linspace(0, 1, side, dtype=np.float32) * np.ones((3, side, 1), np.float32)
    assert_same(np.stack([*plain, board.astype(np.float32), ramp, ramp.transpose(0, 2, 1)]))


@given(st.integers(0, 2**32 - 1), st.sampled_from(SIDES[:6]), st.floats(0, 1), st.floats(0, 1))
def test_statistics_of_any_contrast_are_those_of_pytorch(seed, side, brightness, contrast) -> None:
    random = np.random.default_rng(seed)
    coarse = random.random((2, 3, side, side), dtype=np.float32).cumsum(2).cumsum(3) % 1
    assert_same(np.clip(brightness + contrast * (coarse - 0.5), 0, 1).astype(np.float32))
