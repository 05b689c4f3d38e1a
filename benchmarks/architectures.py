"""Architectures whose cost is measured, and a tiny one for tests and for figures that do not depend on size."""

from __future__ import annotations

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_runtime.bundle.index import Preprocess

MODELS = {
    "tiny": VisionArchitecture(Preprocess(64), 16, 96, 4, 4, 384, 64, "quick_gelu"),
    "ViT-B-32": VisionArchitecture(Preprocess(224), 32, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-B-16": VisionArchitecture(Preprocess(224), 16, 768, 12, 12, 3072, 512, "quick_gelu"),
    "ViT-L-14": VisionArchitecture(Preprocess(224), 14, 1024, 24, 16, 4096, 768, "quick_gelu"),
}
