"""Every pretrained model that open_clip lists: its tower is read, or refused with the reason. From configurations alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import open_clip
import pytest

from mingle_edge.checkpoints import read_architecture
from mingle_edge.core.errors import CheckpointError

REFUSED = {
    "ResNets are not transformers": 16,  # RN50 to RN50x64
    "its ConvNeXt consists of convolutions": 12,
    "its FastVit consists of convolutions": 6,  # MobileCLIP
    "its HybridEmbed begins with convolutions": 18,  # ViTamin, MobileCLIP-B
    "its RotaryEmbeddingCat rotates queries and keys by position": 8,  # EVA02, Perception Encoder
    "its EvaBlockPostNorm normalizes after a layer instead of before": 2,  # EVA02-E
}
"""Reason -> pairs of a model and a tag."""


def test_all_of_them(tmp_path: Path) -> None:
    pairs = open_clip.list_pretrained()
    found: Counter[str] = Counter()
    by_config: dict[str, str] = {}
    for model, tag in pairs:
        config = open_clip.get_model_config(model)
        tower = repr((config["vision_cfg"], config["embed_dim"], config.get("quick_gelu")))
        if tower not in by_config:
            try:
                read_architecture(model, tmp_path)
                by_config[tower] = "read"
            except CheckpointError as error:
                by_config[tower] = next((reason for reason in REFUSED if reason in str(error)), str(error))
        found[by_config[tower]] += 1
        del tag
    assert found == {"read": len(pairs) - sum(REFUSED.values()), **REFUSED}
    assert (len(pairs), found["read"]) == (196, 134)


@pytest.mark.parametrize(
    ("model", "tag"),
    [("ViT-B-16-SigLIP", "webli"), ("ViT-L-14-CLIPA", "datacomp1b"), ("EVA01-g-14", "laion400m_s11b_b41k")],
)
def test_a_tag_s_preprocessing_is_read_with_the_tower(tmp_path: Path, model: str, tag: str) -> None:
    preprocess = read_architecture(model, tmp_path, tag).preprocess
    expected = open_clip.get_pretrained_cfg(model, tag)
    assert preprocess.mean == tuple(expected.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    assert preprocess.resize == {"shortest": "shortest_edge", "squash": "squash"}[expected.get("resize_mode") or "shortest"]
