"""The architecture of a vision tower, from the configuration files of open_clip and Hugging Face.

Whatever the tower of `mingle_edge.clip.vision_tower` cannot express exactly is refused, by field and value: a model that runs a
little differently from how it was trained is the failure nobody notices.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import open_clip

from mingle_edge.checkpoints.hugging_face_architecture import hugging_face_architecture
from mingle_edge.checkpoints.model_config import ModelConfig, is_tag, read_model_config
from mingle_edge.checkpoints.open_clip_architecture import open_clip_architecture
from mingle_edge.checkpoints.timm_architecture import timm_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError


def read_architecture(model: str, base: Path, weights: str | None = None) -> VisionArchitecture:
    """Read the vision tower that `model` describes.

    Args:
        model: an open_clip name, or relative to `base` an open_clip JSON config (bare, or as on the hub with
            `preprocess_cfg`) or a Hugging Face folder of one of `HUGGING_FACE_TYPES`.
        base: the folder that relative paths start from.
        weights: where the backbone's weights come from; if that is a pretrained tag of the open_clip name `model`, the
            tag's preprocessing is used.

    Raises:
        CheckpointError: no such model, or one with a field that the tower cannot express.
    """
    config = read_model_config(model, base)
    if config.kind == "open_clip" and weights is not None and is_tag(weights, base):
        config = dataclasses.replace(config, preprocess=open_clip.get_pretrained_cfg(model, weights))
    return architecture_of(config)


def architecture_of(config: ModelConfig) -> VisionArchitecture:
    """Return the vision tower that a configuration describes. Raises `CheckpointError` like `read_architecture`."""
    if config.kind == "hugging_face":
        architecture = hugging_face_architecture(config)
    elif isinstance(vision := config.model["vision_cfg"], dict) and vision.get("timm_model_name"):
        architecture = timm_architecture(config)
    else:
        architecture = open_clip_architecture(config)
    if fault := architecture.fault():
        raise CheckpointError(f"{config.source}: {fault}; restore the configuration")
    return architecture
