"""Merged models of random numbers, small enough to export in a second, written through the format's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.data.settings import Settings
from mingle_edge.merging.merged_model import MergedModel, TaskRecord, TaskTensors, commit_task, create
from mingle_edge.routing.features import router_features
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge.routing.wrong_experts import WrongExperts
from mingle_edge_runtime.bundle.index import Preprocess

# No two sizes are equal, so that no axis can be mistaken for another. The width is not 4096 / rank: pages need filling up.
ARCHITECTURE = VisionArchitecture(
    preprocess=Preprocess(32), patch_size=8, width=48, layers=3, heads=3, mlp_width=80, output_dim=24, activation="quick_gelu"
)


def write_merged(
    folder: Path,
    *,
    scope: str = "image",
    tasks: int = 3,
    rank: int = 5,
    layers: str = "attn+mlp",
    architecture: VisionArchitecture = ARCHITECTURE,
    router_blocks: int = 2,
    groups: tuple[str | None, ...] = (),
    seed: int = 0,
) -> MergedModel:
    """Write a merged model of tasks `task0`, `task1` ..., the first in these groups, into a new folder."""
    random = np.random.default_rng(seed)
    values = {"scope": scope, "rank": rank, "layers": layers, "router_blocks": router_blocks}
    settings = Settings.from_mapping(values)
    backbone = {name: _parameter(random, name, shape) for name, shape in architecture.parameter_shapes().items()}
    model = create(
        folder,
        backbone=backbone,
        architecture=architecture,
        settings=settings,
        logit_scale=100.0,
        source="random",
        sha256=f"{seed:064x}",
    )
    for t in range(tasks):
        record = TaskRecord(
            *(f"task{t}", [f"class {i}" for i in range(2 + t)], ["a {}"], "random", f"{t:064x}"),
            seeds=6,
            logit_scale=100.0,
            group=(*groups, *(None for _ in range(tasks)))[t],
            record=_routing(t) if scope == "image" else {},
        )
        model = commit_task(model, record, _task_tensors(random, t, backbone, architecture, settings))
    return model


def _task_tensors(
    random: np.random.Generator,
    task: int,
    backbone: dict[str, np.ndarray],
    architecture: VisionArchitecture,
    settings: Settings,
) -> TaskTensors:
    inside = [layer for layer in architecture.block_linears() if layer.rsplit(".", 1)[-1] in settings.carrying()]
    image_scope = settings.scope == "image"
    expert = {}
    for layer in settings.expert_layers(architecture):
        d_out, d_in = architecture.linear_shape(layer)
        rank = min(settings.rank, d_out, d_in)
        expert[f"{layer}.A"] = _normal(random, rank, d_in) / np.float32(d_in**0.5)
        expert[f"{layer}.B"] = _normal(random, d_out, rank) / np.float32(rank**0.5)
    if image_scope:
        expert |= {
            name: backbone[name] + np.float32(0.1) * _normal(random, *shape)
            for name, shape in architecture.vector_shapes().items()
        }
    head = _normal(random, 2 + task, architecture.output_dim)
    # Gate values well under 1, as adaptation leaves them: large ones would amplify float rounding from layer to layer.
    inputs = {layer: architecture.linear_shape(layer)[1] for layer in inside}
    gates = {
        layer: (_normal(random, d_in) / np.float32(d_in**0.5), np.float32(0.2) * _normal(random, 1))
        for layer, d_in in inputs.items()
    }
    return TaskTensors(
        expert=expert,
        head={"weight": head / np.linalg.norm(head, axis=1, keepdims=True)},
        router=_router_statistics(random, backbone, architecture, settings.router_blocks) if image_scope else None,
        gates={} if image_scope else gates,
    )


def _routing(task: int) -> dict[str, Any]:
    """What experts did to the task's seeds, and logits of its own, of which a judge knows what is typical."""
    random = np.random.default_rng(task)
    wrong = {f"task{older}": round(float(random.uniform(0.3, 0.9)), 3) for older in range(task)}
    return WrongExperts(min(0.3 + 0.1 * task, 1.0), wrong, tuple(random.normal(30, 8, 12).tolist())).record()


def _router_statistics(
    random: np.random.Generator, backbone: dict[str, np.ndarray], architecture: VisionArchitecture, blocks: int
) -> RouterStatistics:
    """Of 24 images of coarse noise, the same for all tasks but for a little of the mean colour: no task is ever certain."""
    cell = architecture.image_size // 4
    coarse = _normal(np.random.default_rng(0), 24, 3, 4, 4) + np.float32(0.1) * _normal(random, 1, 3, 1, 1)
    images = coarse.repeat(cell, axis=2).repeat(cell, axis=3)
    parameters = {name: torch.from_numpy(value) for name, value in backbone.items()}
    features = router_features(torch.from_numpy(images), parameters, architecture, blocks)
    return RouterStatistics.from_features(features.numpy().reshape(6, 4, -1))


def _parameter(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    scale = 0.1 if len(shape) == 1 or name == "positions" else shape[1] ** -0.5
    centre = 1 if len(shape) == 1 and name.endswith("weight") else 0  # of a LayerNorm
    return np.float32(centre) + np.float32(scale) * _normal(random, *shape)


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)
