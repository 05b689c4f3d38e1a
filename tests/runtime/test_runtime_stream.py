"""One camera's frames: when a route is kept, that a cut and a slow drift are noticed, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import TASKS, images

from mingle_edge_runtime import EdgeError, EdgeModel, Route, StreamStats, UnknownTaskError
from mingle_edge_runtime.scopes.route_reuse import RouteReuse

NEVER = 10**9
COLORS = (0, 0, 0, 2, 2, 2, 3, 3, 1, 1, 1, 1)
FRAMES = [images(color, seed=i)[0] for i, color in enumerate(COLORS)]


class Router:
    """Routes that name the frame they were found for: the value of its first pixel, rounded."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: np.ndarray) -> Route:
        self.asked += 1
        return Route((str(round(float(pixels[0, 0, 0, 0]))),), (1.0,))


def still(value: float, side: int = 16) -> np.ndarray:
    """`[1, 3, side, side]` of the same picture, shifted by `value`."""
    picture = np.linspace(-1, 1, side * side, dtype=np.float32).reshape(side, side)
    return np.broadcast_to(picture + np.float32(value + 1), (1, 3, side, side))


@pytest.mark.parametrize("kind", ["image_bundle", "layer_bundle"])
def test_without_reuse_a_stream_gives_what_single_images_give(request, kind: str) -> None:
    with EdgeModel.open(request.getfixturevalue(kind), threads=1) as model:
        stream = model.stream()
        for frame in FRAMES:
            assert stream.classify(frame, top=3) == model.classify(frame, top=3)[0]
            np.testing.assert_array_equal(stream.embed(frame), model.embed(frame)[0])
        assert stream.stats() == StreamStats(frames=2 * len(FRAMES))
        assert stream.stats().disagreement is None


def test_a_still_picture_is_routed_once_and_a_cut_at_once(image_bundle) -> None:
    with EdgeModel.open(image_bundle, threads=1) as model:
        stream = model.stream(reuse=True, threshold=0.5, audit_every=NEVER)
        for frame, color in zip(FRAMES, COLORS, strict=True):
            prediction = stream.classify(frame)
            assert prediction.route.tasks == (() if color == 3 else (TASKS[color],))
        assert 6 <= stream.stats().reused <= len(FRAMES) - 4
        assert stream.stats().frames == len(FRAMES)


def test_a_reused_route_runs_the_experts_of_the_routed_frame_bit_for_bit(image_bundle) -> None:
    with EdgeModel.open(image_bundle, threads=1) as model:
        stream = model.stream(reuse=True, threshold=1e9, audit_every=NEVER)
        for i, frame in enumerate(FRAMES):
            prediction = stream.classify(frame, head="red")
            assert prediction.route == model.route(FRAMES[0])[0]
            np.testing.assert_array_equal(stream.embed(frame), model.embed(frame, task="red")[0])
            assert stream.stats() == StreamStats(frames=2 * i + 2, reused=2 * i + 1)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30), st.floats(0, 2), st.integers(1, 5))
def test_every_decision_follows_from_the_frame_that_was_routed_last(values, threshold: float, audit_every: int) -> None:
    router = Router()
    reuse = RouteReuse(router, threshold, audit_every)
    contrast = float(np.std(still(0).reshape(3, 8, 2, 8, 2).mean((2, 4))))  # the same for every shift
    anchor, due, audits, disagreed = None, 0, 0, 0
    previous = Route((), ())
    for number, value in enumerate(values, 1):
        before, route = router.asked, reuse.route(still(value))
        change = abs(np.float64(np.float32(value + 1)) - np.float64(np.float32((anchor or 0) + 1)))
        if anchor is not None and abs(change - threshold * contrast) < 1e-4:
            return  # a matter of rounding
        would = anchor is not None and change < threshold * contrast
        due += would
        audit = would and due % audit_every == 0
        assert router.asked - before == (audit or not would)
        if audit:
            audits += 1
            disagreed += route.tasks != previous.tasks
        if audit or not would:
            anchor, previous = value, route
        assert route == previous
        stats = reuse.stats()
        assert (stats.frames, stats.audited, stats.disagreed) == (number, audits, disagreed)
        assert stats.reused == number - router.asked


@pytest.mark.parametrize(
    ("tasks", "posterior", "allowed"),
    [
        (1, (1.0, 0.0, 0.0), 1.0),
        (1, (0.98, 0.02, 0.0), 0.96**16),
        (1, (0.5, 0.5, 0.0), 0.0),
        (1, (0.4, 0.6, 0.0), 0.0),  # another task is more probable: only less loss was expected of this one
        (2, (0.5, 0.4, 0.1), 0.3**16),
        (3, (0.1, 0.5, 0.4), 1.0),  # all tasks: there is no other
        (0, (0.1, 0.5, 0.4), 1.0),  # the plain backbone: the posterior does not tell
    ],
)
def test_an_unsure_route_allows_less_change(tasks: int, posterior: tuple[float, ...], allowed: float) -> None:
    contrast = float(np.std(still(0).reshape(3, 8, 2, 8, 2).mean((2, 4))))
    for change in (0.5, 0.9, 1.1, 2):
        asked: list[int] = []

        def find(_: np.ndarray, asked: list[int] = asked) -> Route:
            asked.append(1)
            return Route(("a", "b", "c")[:tasks], (1.0,) * tasks, posterior, 1.0, candidates=("a", "b", "c"))

        reuse = RouteReuse(find, 0.8, NEVER)
        reuse.route(still(0))
        reuse.route(still(0.8 * contrast * allowed * change))
        assert len(asked) == 1 + (change > 1 and allowed > 1e-4)


@pytest.mark.parametrize("side", [1, 7, 8, 30, 224])
def test_a_picture_without_contrast_is_routed_again_when_it_changes_at_all(side: int) -> None:
    router = Router()
    reuse = RouteReuse(router, 0.5, NEVER)
    for value in (0, 0, 0, 1, 1):
        reuse.route(np.full((1, 3, side, side), value, np.float32))
    assert router.asked == 2


def test_audits_measure_the_error_rate_of_reuse() -> None:
    """A router that changes its mind in a tenth of the frames, under a picture that never changes."""
    random = np.random.default_rng(0)
    reuse = RouteReuse(lambda _: Route((str(int(random.uniform() < 0.1)),), (1.0,)), 1.0, 5)
    for _ in range(10_000):
        reuse.route(still(0))
    stats = reuse.stats()
    assert stats.audited == 2000 - 1
    assert stats.reused + stats.audited == 9999
    assert stats.disagreement == pytest.approx(2 * 0.1 * 0.9, abs=0.03)  # of two independent routes


def test_what_cannot_be_is_refused(image_bundle, layer_bundle) -> None:
    with EdgeModel.open(layer_bundle) as model, pytest.raises(EdgeError, match="cannot be reused in the layer scope, whose"):
        model.stream(reuse=True)
    with EdgeModel.open(image_bundle) as model:
        for arguments in ({"threshold": -0.1}, {"threshold": float("nan")}, {"audit_every": 0}):
            with pytest.raises(EdgeError, match=r"threshold is .* audit_every is"):
                model.stream(reuse=True, **arguments)
        stream = model.stream(reuse=True)
        with pytest.raises(UnknownTaskError, match="head 'rde'"):
            stream.classify(FRAMES[0], head="rde")
    with pytest.raises(EdgeError, match="is closed"):
        stream.embed(FRAMES[0])
