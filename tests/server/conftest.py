"""Servers of tiny bundles that tests of one file share."""

from __future__ import annotations

import pytest
from running_server import running

from mingle_edge_runtime import EdgeModel


@pytest.fixture(scope="session")
def model(image_bundle):
    """A bundle of three tasks, one expert a route."""
    with EdgeModel.open(image_bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(model):
    """It, served."""
    with running(model) as served:
        yield served
