"""What the figures of a check are, computed by numpy from the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damages import Arrays
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tiny_clip import LAYERS, WIDTH


def layers_of(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The linear layers of open_clip's file, by the names that the report has."""
    state = load_file(path)
    yield "patch_embedding", state["visual.conv1.weight"].reshape(WIDTH, -1)
    for block in range(LAYERS):
        prefix = f"visual.transformer.resblocks.{block}"
        yield from zip(
            [f"blocks.{block}.{name}" for name in "qkv"], np.split(state[f"{prefix}.attn.in_proj_weight"], 3), strict=True
        )
        yield f"blocks.{block}.out", state[f"{prefix}.attn.out_proj.weight"]
        yield f"blocks.{block}.fc1", state[f"{prefix}.mlp.c_fc.weight"]
        yield f"blocks.{block}.fc2", state[f"{prefix}.mlp.c_proj.weight"]
    yield "projection", state["visual.proj"].T


def task_vectors(folder: Path, task: str) -> Arrays:
    plain = dict(layers_of(folder / "backbone.safetensors"))
    return {name: weight.astype(np.float64) - plain[name] for name, weight in layers_of(folder / f"{task}.safetensors")}


def explained(vectors: Arrays, rank: int) -> float:
    spectra = [np.linalg.svd(vector, compute_uv=False) ** 2 for vector in vectors.values()]
    return float(sum(s[:rank].sum() for s in spectra) / sum(s.sum() for s in spectra))
