"""Two thousand answers from four threads that evict, pin, submit, close and reopen; `benchmarks/soak.py` gives more."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from soak_threads import Soak

from mingle_edge_runtime import EdgeModel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")


def test_racing_threads_get_one_threads_answers(bundles) -> None:
    soak = Soak(list(bundles.values()))
    soak.run(2000, threads=4)
    assert soak.faults == []
    assert soak.answers >= 2000
    assert {"classify", "embed", "route", "submit", "stream", "pin", "prefetch", "change of budget"} <= soak.counts.keys()
    assert soak.counts["close and reopen"] > 0
    assert soak.counts["evictions"] > 0
    assert soak.samples[-1].descriptors <= soak.samples[0].descriptors + 16  # of what is open while a bundle is reopened


def test_an_answer_that_differs_is_found(bundles, monkeypatch) -> None:
    soak = Soak([bundles["image", 1]])
    right = EdgeModel.embed
    monkeypatch.setattr(EdgeModel, "embed", lambda *arguments, **options: np.nextafter(right(*arguments, **options), 2))
    soak.run(3000, threads=2)
    assert soak.faults
    assert "image1: embed" in soak.faults[0]
    assert soak.answers < 3000
