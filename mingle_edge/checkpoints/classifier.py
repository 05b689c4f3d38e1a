"""The classifier that a checkpoint holds beside its vision tower, as image classifiers are saved."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mingle_edge.checkpoints.checkpoint import Checkpoint
from mingle_edge.checkpoints.class_names import check_order, stored_class_names
from mingle_edge.checkpoints.head_file import check_layer, read_bias, read_rows
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG

CLASSIFIER = re.compile(r"((?:.*\.)?(?:classifier|classification_head|head|fc))\.(.+)")
"""Names of tensors that belong to a classifier: what it is called, and within it."""


def has_classifier(checkpoint: Checkpoint) -> bool:
    """Say whether a checkpoint holds a classifier beside its vision tower."""
    return any(CLASSIFIER.fullmatch(key) for key in checkpoint.outside)


def read_classifier(checkpoint: Checkpoint, classes: Sequence[str], architecture: VisionArchitecture) -> Head:
    """Read the one linear layer that a checkpoint's classifier is.

    Args:
        checkpoint: one of which `has_classifier` is true.
        classes: names of the task's classes, which must be those that a config.json beside the weights gives its rows.
        architecture: of the tower, whose embeddings it reads.

    Raises:
        CheckpointError: several layers, another shape, or values that no head has.
        TaskFileError: other classes, or another order.
    """
    path = checkpoint.path
    layers: dict[str, dict[str, str]] = {}
    for key in checkpoint.outside:
        if match := CLASSIFIER.fullmatch(key):
            name, within = match.groups()
            number, _, rest = within.rpartition(".")  # a Sequential of one layer has it under a number
            layers.setdefault(f"{name}.{number}" if number.isdigit() else name, {})[rest if number.isdigit() else within] = key
    odd = [key for keys in layers.values() for name, key in keys.items() if name not in ("weight", "bias")]
    if len(layers) != 1 or odd or "weight" not in next(iter(layers.values())):
        listed = " and ".join(shown(name) for name in layers)
        raise CheckpointError(
            f"{path} holds a classifier of more than one linear layer ({shown(odd[0]) if odd else listed}); give the task a "
            "head: one linear layer on the tower's embeddings, or class embeddings"
        )
    keys, tensors = next(iter(layers.values())), checkpoint.stored
    weight = read_rows(path, tensors, keys["weight"], classes, architecture)
    bias = read_bias(path, tensors, keys["bias"], classes) if "bias" in keys else None
    head = Head(weight, bias, 1.0)
    check_layer(path, head, classes)
    if path.is_dir() and (stored := stored_class_names(path)) is not None:
        check_order(classes, stored, f"{path / HUGGING_FACE_CONFIG}: id2label")
    return head
