"""Heads that come ready-made: class embeddings, or the linear layer that a training wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mingle_edge.checkpoints.finite_tensors import read_finite
from mingle_edge.checkpoints.npz_head import NpzTensors
from mingle_edge.checkpoints.stored_tensors import StoredTensors, open_tensors
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge_runtime.bundle.head import LARGEST

UNIT = 1e-3
"""How far from 1 the lengths of rows may be that are called unit vectors."""
SAME = 1e-10
"""Two class embeddings point the same way, up to rounding, where their cosine is at most this far below 1."""
_AT_ONCE = 1024  # rows compared with all others at a time
_FORMS = "weight [classes, dim] with an optional bias [classes] and logit_scale, or class embeddings called embeddings"


def read_head(path: Path, classes: Sequence[str], architecture: VisionArchitecture, logit_scale: float) -> Head:
    """Read the head of a task from a file, in the order of `classes`.

    The file is one of these, docs/data.md has the whole of it:
    - `embeddings [classes, output_dim]`, alone or with `logit_scale`: zero-shot. Rows are scaled to unit length. A file whose
      only tensor, of any name, has rows of unit length to `UNIT` is the same, where embeddings of images have unit length, too;
    - one linear layer as it was trained: `weight`, `bias`, `logit_scale`, all under no prefix or one, such as `classifier.`;
    - `.npz` with `coef_`, `intercept_` and `classes_` of scikit-learn.

    Args:
        path: a `.safetensors` or `.npz` file, or a state dict saved by `torch.save`.
        classes: names of the task's classes.
        architecture: of the tower, whose embeddings the head reads.
        logit_scale: of class embeddings whose file has none.

    Raises:
        CheckpointError: of another form or shape, with values that no head has, or two classes that no answer could tell apart.
    """
    tensors: StoredTensors = NpzTensors(path, classes) if path.suffix == ".npz" else open_tensors(path)
    names = {name: name for name in tensors.names()}
    if "embeddings" in names:
        if odd := sorted(names.keys() - {"embeddings", "logit_scale"}):
            raise CheckpointError(
                f"{path} holds {shown(odd[0])} beside embeddings, which have a logit_scale at most; call the rows of a "
                "linear layer weight"
            )
        weight_key, bias_key, scale_key = names["embeddings"], None, names.get("logit_scale")
    else:
        weight_key, bias_key, scale_key = _linear_layer(path, names)
    weight = read_rows(path, tensors, weight_key, classes, architecture)
    scale = logit_scale if scale_key is None else _scale(path, tensors, scale_key)
    if "embeddings" in names or (len(names) == 1 and architecture.normalized and _are_unit(weight)):
        if not architecture.normalized:
            raise CheckpointError(
                f"{path}: embeddings are compared by their cosine, and this tower's have no unit length; train a linear layer "
                f"on them and save it as {_FORMS.partition(', or')[0]}"
            )
        return Head(unit_rows(path, weight, classes, shown(weight_key)), None, scale)
    bias = None if bias_key is None else read_bias(path, tensors, bias_key, classes)
    head = Head(weight, bias, 1.0 if scale_key is None else scale)
    check_layer(path, head, classes)
    return head


def read_rows(path: Path, tensors: StoredTensors, key: str, classes: Sequence[str], architecture: VisionArchitecture) -> Tensor:
    """Read the weight `[classes, output_dim]` of a head. Raises `CheckpointError` where it is not of this shape."""
    shape, wanted = tensors.shape(key), (len(classes), architecture.output_dim)
    if shape != wanted:
        where = f"{path}: {shown(key)} is {list(shape)}"
        rule = f"{wanted[0]} classes and embeddings of {wanted[1]} need {list(wanted)}, a row per class"
        if shape == wanted[::-1]:
            raise CheckpointError(f"{where}, transposed: {rule}; save {key}.T")
        if len(shape) == 2 and shape[1] == wanted[1]:
            raise CheckpointError(f"{where}, {shape[0]} classes, but the task has {wanted[0]}; name the classes of its rows")
        if len(shape) == 2 and shape[0] == wanted[0]:
            raise CheckpointError(
                f"{where}, for embeddings of {shape[1]}, but the tower's have {wanted[1]}; use a head of this model"
            )
        raise CheckpointError(f"{where}, but {rule}; use a head of this model and these classes")
    return read_finite(path, tensors, key)


def read_bias(path: Path, tensors: StoredTensors, key: str, classes: Sequence[str]) -> Tensor:
    """Read the bias `[classes]` of a head. Raises `CheckpointError` where it is not of this shape."""
    if tensors.shape(key) != (len(classes),):
        raise CheckpointError(
            f"{path}: {shown(key)} is {list(tensors.shape(key))}, but {len(classes)} classes need [{len(classes)}]; use the "
            "bias that belongs to the weight"
        )
    return read_finite(path, tensors, key)


def unit_rows(path: Path, rows: Tensor, classes: Sequence[str], name: str) -> Tensor:
    """Scale class embeddings `[classes, dim]` to unit length.

    Raises:
        CheckpointError: a row has no direction, or two have the same.
    """
    head = rows.double()
    lengths: Tensor = torch.linalg.vector_norm(head, dim=1)
    if not lengths.min() > 0:
        row = int(lengths.argmin())
        raise CheckpointError(f"{path}: row {row} of {name} ({classes[row]}) is zero; compute this head again")
    head /= lengths[:, None]
    for start in range(0, len(head), _AT_ONCE):
        cosines = head[start : start + _AT_ONCE] @ head.T
        same = (cosines >= 1 - SAME).triu(start + 1).nonzero()
        if len(same):
            raise _same(path, "embedding", start + int(same[0, 0]), int(same[0, 1]), classes)
    return head.float()


def check_layer(path: Path, head: Head, classes: Sequence[str]) -> None:
    """Check the values of a linear layer.

    Raises:
        CheckpointError: one is beyond what heads have, or two classes have the same row and bias.
    """
    rows = head.weight if head.bias is None else torch.cat([head.weight, head.bias[:, None]], dim=1)
    if (largest := float(rows.abs().max())) > LARGEST:
        raise CheckpointError(
            f"{path}: a value of the head is {largest:.3g}, and none may be beyond {LARGEST:g}; use one from before the "
            "training diverged"
        )
    seen: dict[bytes, int] = {}
    for number, row in enumerate(rows.numpy()):
        if (other := seen.setdefault(row.tobytes(), number)) != number:
            raise _same(path, "weight and bias", other, number, classes)


def _same(path: Path, what: str, first: int, second: int, classes: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{path}: the classes {shown(classes[first])} and {shown(classes[second])} have the same {what} (rows {first} and "
        f"{second}), so nothing could ever be told to be the second; compute this head again"
    )


def _linear_layer(path: Path, names: dict[str, str]) -> tuple[str, str | None, str | None]:
    """Return the keys of weight, bias and logit scale among `names`, those in the file by name."""
    if len(names) == 1:
        return next(iter(names.values())), None, None
    weights = [name for name in names if name.rpartition(".")[2] == "weight"]
    prefix = weights[0].removesuffix("weight") if len(weights) == 1 else ""
    wanted = {f"{prefix}weight", f"{prefix}bias", f"{prefix}logit_scale", "logit_scale"}
    odd = sorted(name for name in names if name not in wanted)
    if len(weights) != 1 or odd:
        found = f"{len(weights)} layers with a weight" if len(weights) != 1 else f"{shown(odd[0])} beside {shown(weights[0])}"
        raise CheckpointError(f"{path} holds {len(names)} tensors, {found}; a head is one linear layer: save {_FORMS}")
    scale = names.get(f"{prefix}logit_scale", names.get("logit_scale"))
    return names[weights[0]], names.get(f"{prefix}bias"), scale


def _scale(path: Path, tensors: StoredTensors, key: str) -> float:
    value = read_finite(path, tensors, key)
    scale = float(value) if value.numel() == 1 else 0.0
    if not 0 < scale <= LARGEST:
        raise CheckpointError(
            f"{path}: {shown(key)} must be one number above 0, at most {LARGEST:g}, the factor itself and not its logarithm; "
            "correct it"
        )
    return scale


def _are_unit(rows: Tensor) -> bool:
    return bool(((rows.double().norm(dim=1) - 1).abs() <= UNIT).all())
