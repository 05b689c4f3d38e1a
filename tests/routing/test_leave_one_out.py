"""Leave-one-out in closed form against leaving one out."""

import numpy as np
from correlated_tasks import exactly, images, scatter
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.routing.leave_one_out import left_out_scores
from mingle_edge.routing.statistics import oas_shrinkage


def left_out(parts):
    """By dense algebra from the images that remain: task, seed, inverse covariance of unscaled features, means of tasks.

    Scale and shrinkage are those of all seeds.
    """
    degrees = sum(len(part) - 1 for part in parts)
    pooled = sum(map(scatter, parts)) / degrees
    scale = np.sqrt(np.diag(pooled) + 1e-6 * np.diag(pooled).mean())
    correlation = pooled / np.outer(scale, scale)
    shrinkage = oas_shrinkage(np.trace(correlation), (correlation**2).sum(), len(scale), degrees)
    for t, part in enumerate(parts):
        for i in range(len(part)):
            rest = [np.delete(part, i, axis=0) if s == t else other for s, other in enumerate(parts)]
            remaining = (1 - shrinkage) * sum(map(scatter, rest)) / (degrees - 1)
            inverse = np.linalg.inv(remaining + shrinkage * np.diag(scale**2))
            yield t, i, inverse, np.stack([other.mean((0, 1)) for other in rest])


@given(st.integers(0, 999), st.sampled_from([1, 4]), st.sampled_from([5, 60]))
def test_scores_of_left_out_seeds_equal_those_of_a_router_without_them(seed, each, F):
    parts = images(seed, each=each, F=F)
    closed_form = dict(left_out_scores([exactly(part) for part in parts]))
    for t, i, inverse, means in left_out(parts):
        towards = inverse @ means.T  # [F, T]
        scores = parts[t][i] @ towards - (means.T * towards).sum(0) / 2
        # Scores are defined up to what all tasks have in common.
        np.testing.assert_allclose(
            closed_form[t][i] - closed_form[t][i][:, :1], scores - scores[:, :1], rtol=1e-8, atol=1e-8 * np.abs(scores).max()
        )
