"""Architectures whose cost is measured, and a tiny one for tests and for figures that do not depend on size; random weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_runtime.bundle.index import Preprocess

MODELS = {
    "tiny": VisionArchitecture(Preprocess(64), 16, 96, 4, 4, 384, 64, "quick_gelu"),
    "ViT-B-32": VisionArchitecture(Preprocess(224), 32, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-B-16": VisionArchitecture(Preprocess(224), 16, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-L-14": VisionArchitecture(Preprocess(224), 14, 1024, 24, 16, 4096, 768, "quick_gelu"),
}


def random_backbone(architecture: VisionArchitecture) -> dict[str, NDArray[np.float32]]:
    """Draw parameters at the scale of a trained tower: weights of 0.02, those of LayerNorms near 1."""
    random = np.random.default_rng(0)
    return {
        name: normal(random, *shape) + np.float32(len(shape) == 1 and name.endswith("weight"))
        for name, shape in architecture.parameter_shapes().items()
    }


def normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Draw numbers of 0.02."""
    return random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
