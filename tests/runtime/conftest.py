"""What several files of tests measure together: a profile takes seconds."""

from __future__ import annotations

from functools import cache

import pytest
from tiny_bundle import images

from mingle_edge_runtime.profile import BASELINES, profile


@pytest.fixture(scope="session")
def profile_of(bundles):
    """A function of the scope that returns the report of everything and the progress that was told, measured once."""

    @cache
    def measured(scope):
        ticks = []
        sweep = {"batch": [1, 2], "top-k": [], "budget": [], "precision": [bundles[scope, 2]]}
        settings = {"against": BASELINES, "operators": True, "sweep": sweep, "switch_every": 2, "batch_sizes": (1, 3)}
        progress = {"progress": lambda *tick: ticks.append(tick)}
        return profile(bundles[scope, 1], images(0, 1, 3), runs=8, threads=1, **settings, **progress), ticks

    return measured
