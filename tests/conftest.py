"""Fixtures that several test files share: tiny task files and the models merged from them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import torch
from hypothesis import settings
from javascript import node
from threadpoolctl import threadpool_limits
from tiny_bundle import Weights, write_image_bundle, write_kinds

from mingle_edge.merging.merge import merge

# Tiny models gain nothing from a second thread and lose much where the cores are busy. Processes that tests start inherit it.
torch.set_num_threads(1)
threadpool_limits(1)
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")

LAYER_SETTINGS = {"scope": "layer", "rank": 8, "steps": 6, "learning_rate": 0.003}


@pytest.fixture(scope="session")
def task_file(tmp_path_factory):
    """Three tiny tasks for the image scope, with seeds and labelled test images."""
    return tiny_clip.write_task_file(tmp_path_factory.mktemp("image-tasks"), tasks=3, rank=8)


@pytest.fixture(scope="session")
def layer_task_file(tmp_path_factory):
    """Three tiny tasks for the layer scope."""
    return tiny_clip.write_task_file(tmp_path_factory.mktemp("layer-tasks"), tasks=3, **LAYER_SETTINGS)


@pytest.fixture(scope="session")
def image_model(task_file, tmp_path_factory):
    """The three tasks merged in the image scope."""
    return merge(task_file, tmp_path_factory.mktemp("image-model") / "merged")


@pytest.fixture(scope="session")
def layer_model(layer_task_file, tmp_path_factory):
    """The three tasks merged in the layer scope."""
    return merge(layer_task_file, tmp_path_factory.mktemp("layer-model") / "merged")


@pytest.fixture(params=["image", "layer"])
def merge_of_each_scope(request, image_model, task_file, layer_model, layer_task_file):
    """The three tasks merged in either scope, and their task file."""
    return {"image": (image_model, task_file), "layer": (layer_model, layer_task_file)}[request.param]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Sound bundles of tiny weights, not to be damaged, by scope and number of experts a route."""
    return write_kinds(tmp_path_factory.mktemp("bundles"), Weights())


@pytest.fixture(scope="session")
def image_bundle(bundles):
    """The one of the image scope with one expert a route."""
    return bundles["image", 1]


@pytest.fixture(scope="session")
def layer_bundle(bundles):
    """The one of the layer scope with one expert a layer."""
    return bundles["layer", 1]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """A function that runs a script which opens Chromium, and reads its JSON; Chromium, some 200 MB, is unpacked once."""
    folder = tmp_path_factory.mktemp("chromium")

    def run(script: Path, *arguments: object) -> Any:
        output, complaints = node(script, *arguments, environment={"TMPDIR": str(folder)})
        assert complaints == ""
        return json.loads(output)

    yield run
    shutil.rmtree(folder)


@pytest.fixture
def bundle(tmp_path):
    """One of the image scope with one expert a route that a test may damage."""
    return write_image_bundle(tmp_path / "bundle", Weights())
