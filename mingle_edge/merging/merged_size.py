"""How many bytes a merge will write, so that none starts that the disk has no room for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.settings import Settings
from mingle_edge.merging.merged_model import GATES, NULL_SPACE, ROUTER, MergedModel
from mingle_edge.routing.depth import deepest
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.statistics import KEPT_SEEDS, MAX_FACTOR_ROWS

if TYPE_CHECKING:
    from mingle_edge.merging.merge_inputs import MergeInputs

_FLOAT = 4  # bytes
_OVERHEAD = 1 << 20  # bytes for the index, headers, and what a file system rounds up


def bytes_to_write(inputs: MergeInputs, existing: MergedModel | None) -> int:
    """Return the most bytes that a merge will take of the disk at any moment, beside what is there. Each may be a little less.

    Files that hold rows of every task are written anew with each task, so that the last but one is there beside the last.
    """
    architecture, settings = inputs.architecture, inputs.settings
    merged = existing.task_names if existing is not None else []
    missing = [task for task in inputs.tasks if task.source.name not in merged]
    if not missing:
        return 0
    backbone = 0 if existing is not None else elements(architecture.parameter_shapes().values())
    own = sum(
        expert_elements(architecture, settings) + len(task.source.classes) * (architecture.output_dim + 1) for task in missing
    )
    rows = [row_elements(architecture, settings, len(task.calibration_images)) for task in missing]
    return _FLOAT * (backbone + own + sum(rows) + sum(rows[:-1])) + _stored_rows(existing) + _OVERHEAD


def expert_elements(architecture: VisionArchitecture, settings: Settings) -> int:
    """Count the elements of one expert, or the most that it may have where layers were left as they are."""
    shapes = [architecture.linear_shape(layer) for layer in settings.expert_layers(architecture)]
    factors = sum(min(settings.largest_rank, *shape) * sum(shape) for shape in shapes)
    return factors if settings.scope == "layer" else factors + elements(architecture.vector_shapes().values())


def row_elements(architecture: VisionArchitecture, settings: Settings, seeds: int) -> int:
    """Count the elements that a task of so many calibration images adds to files of all tasks: the router's statistics, gates,
    protected directions.
    """
    if settings.scope == "layer":
        gate_inputs = sum(architecture.linear_shape(layer)[1] + 1 for layer in settings.expert_layers(architecture))
        return (1 + settings.subspace_directions) * gate_inputs
    each = 1 + settings.router_augmentations
    features = Layout.of(architecture, deepest(settings.router_blocks, architecture.layers)).features
    factor = min(each * seeds, features, MAX_FACTOR_ROWS)
    return features * (1 + factor) + min(seeds, KEPT_SEEDS) * each * factor


def _stored_rows(existing: MergedModel | None) -> int:
    """Count the bytes of the files that hold rows of every task, as they are: they are copied into the new ones."""
    if existing is None:
        return 0
    paths = [existing.path / name for name in (ROUTER, GATES, NULL_SPACE)]
    return sum(path.stat().st_size for path in paths if path.is_file())


def elements(shapes: Iterable[tuple[int, ...]]) -> int:
    """Count the elements of arrays of these shapes."""
    return sum(math.prod(shape) for shape in shapes)
