"""The text tower of a model and its logit scale, which make a head of class names."""

from __future__ import annotations

import math
from pathlib import Path

from mingle_edge.checkpoints.class_embeddings import TextTower
from mingle_edge.checkpoints.clip_text_tower import build_clip_text_tower
from mingle_edge.checkpoints.finite_tensors import read_finite
from mingle_edge.checkpoints.model_config import read_model_config
from mingle_edge.checkpoints.stored_tensors import StoredTensors, open_tensors
from mingle_edge.checkpoints.tower_names import model_names
from mingle_edge.checkpoints.transformers_text_tower import TEXT_TYPES, build_transformers_text_tower
from mingle_edge.checkpoints.weights import find_weights
from mingle_edge.core.errors import CheckpointError
from mingle_edge.data.hub import local_path

CLIP_LOGIT_SCALE = 100.0
"""What CLIP's logit scale is clipped to, and reaches, in training."""


def build_text_tower(model: str, weights: str | None, base: Path, tensors: StoredTensors | None = None) -> TextTower:
    """Build the text tower of a model.

    Args:
        model: an open_clip name, or relative to `base` an open_clip JSON config, or a folder of open_clip or of a model of
            transformers with both towers.
        weights: the whole model's weights, a path relative to `base` or an open_clip tag; not needed for a folder.
        base: the folder that relative paths start from.
        tensors: those of the weights, where they are open already.

    Raises:
        CheckpointError: no text tower there, one whose tokenizer is not there, or weights that do not fit it.
    """
    config = read_model_config(model, base)
    path, tensors = _open(model, weights, base, tensors)
    if config.kind == "hugging_face" and config.model["model_type"] in TEXT_TYPES:
        return build_transformers_text_tower(local_path(model, base), path, tensors)
    return build_clip_text_tower(config, path, tensors)


def logit_scale(model: str, weights: str | None, base: Path, tensors: StoredTensors | None = None) -> float | None:
    """Return what multiplies cosines before a softmax, exp(logit_scale) of the weights; None where they have none.

    Arguments are those of `build_text_tower`.

    Raises:
        CheckpointError: it is not one number, or too large.
    """
    path, tensors = _open(model, weights, base, tensors)
    keys = {name: key for key, name in model_names(tensors.names()).items()}
    if "logit_scale" not in keys:
        return None
    value = read_finite(path, tensors, keys["logit_scale"])
    scale = math.exp(value.item()) if value.numel() == 1 and value.item() < math.log(1e6) else math.inf
    if not 0 < scale < math.inf:
        raise CheckpointError(f"{path}: logit_scale must be one number of at most log(1e6); use an undamaged checkpoint")
    return scale


def _open(model: str, weights: str | None, base: Path, tensors: StoredTensors | None) -> tuple[Path, StoredTensors]:
    if tensors is not None:
        return tensors.files[0], tensors
    if weights is None and not local_path(model, base).is_dir():
        raise CheckpointError(f"the model {model!r} comes without weights; name them in [backbone] weights")
    path = find_weights(weights or model, base, model)
    return path, open_tensors(path)
