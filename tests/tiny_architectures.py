"""Architectures of every kind that a vision tower can be of, as small as `tiny_merged.ARCHITECTURE`."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from tiny_merged import ARCHITECTURE

from mingle_edge.clip.architecture import VisionArchitecture

POOLED_BY_ATTENTION = {"pooling": "attention", "pool_heads": 4, "pool_width": 40}
KINDS: dict[str, VisionArchitecture] = {
    name: replace(ARCHITECTURE, **changes)
    for name, changes in {
        "SigLIP": {
            **POOLED_BY_ATTENTION,
            "activation": "gelu_tanh",
            "class_token": False,
            "pre_norm": False,
            "patch_bias": True,
            "norm_tokens": True,
            "norm_pooled": False,
            "pool_mlp_width": 56,
            "projection": False,
            "output_dim": 40,
        },
        "CoCa": {**POOLED_BY_ATTENTION, "norm_tokens": True},
        "CLIPA": {"pooling": "average", "pre_norm": False, "activation": "gelu"},
        "EVA": {"pre_norm": False, "patch_bias": True, "projection_bias": True, "activation": "gelu"},
        "ViT": {"pre_norm": False, "patch_bias": True, "projection": False, "output_dim": 48, "normalized": False},
        "DeiT": {"registers": 1, "pre_norm": False, "patch_bias": True, "projection": False, "output_dim": 48},
        "DINOv2": {
            "registers": 4,
            "pre_norm": False,
            "patch_bias": True,
            "pooling": "class_and_average",
            "norm_tokens": True,
            "norm_pooled": False,
            "projection": False,
            "output_dim": 96,
            "normalized": False,
        },
    }.items()
}


@st.composite
def architectures(draw: st.DrawFn) -> VisionArchitecture:
    """Any combination of fields that has no fault."""
    class_token = draw(st.booleans())
    poolings = ["average", "attention", *(["class_token", "class_and_average"] if class_token else [])]
    pooling, projection = draw(st.sampled_from(poolings)), draw(st.booleans())
    attention = pooling == "attention"
    architecture = replace(
        ARCHITECTURE,
        layers=draw(st.integers(1, 2)),
        activation=draw(st.sampled_from(["quick_gelu", "gelu", "gelu_tanh"])),
        class_token=class_token,
        registers=draw(st.integers(0, 2)),
        pre_norm=draw(st.booleans()),
        patch_bias=draw(st.booleans()),
        pooling=pooling,
        norm_tokens=pooling != "class_token" and draw(st.booleans()),
        norm_pooled=draw(st.booleans()),
        pool_heads=4 if attention else 0,
        pool_width=40 if attention else 0,
        pool_mlp_width=draw(st.sampled_from([0, 56])) if attention else 0,
        projection=projection,
        projection_bias=projection and draw(st.booleans()),
        normalized=draw(st.booleans()),
    )
    return architecture if projection else replace(architecture, output_dim=architecture.pooled_width)
