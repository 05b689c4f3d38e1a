"""Values of a model's configuration, checked one by one; what is wrong is said by field, value and rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mingle_edge.core.errors import CheckpointError, shown

LARGEST = 1 << 16
"""No size in a configuration may exceed this; it keeps a damaged file from asking for endless memory."""
MOST_LAYERS = 1 << 10


def size(fields: Mapping[str, Any], name: str, source: str, where: str = "", most: int = LARGEST) -> int:
    """Return a size in a configuration, `fields[name]`. Raises `CheckpointError` unless it is an integer from 1 to `most`."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise refusal(source, where + name, value, f"a whole number from 1 to {most}")
    return value


def square(fields: Mapping[str, Any], name: str, source: str, where: str = "") -> int:
    """Return the side of a square, which may be given twice. Raises `CheckpointError` like `size`."""
    value = fields[name]
    if isinstance(value, list | tuple):
        if len(value) != 2 or value[0] != value[1]:
            raise refusal(source, where + name, value, "one number, or two equal ones: images and patches are square")
        value = value[0]
    return size({name: value}, name, source, where)


def positive(value: object, field: str, source: str) -> float:
    """Return a number of a configuration. Raises `CheckpointError` unless it is positive and below `LARGEST`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < LARGEST:
        raise refusal(source, field, value, "a positive number")
    return float(value)


def flag(fields: Mapping[str, Any], name: str, source: str, where: str = "") -> bool:
    """Return a truth value of a configuration. Raises `CheckpointError` for anything else."""
    value = fields[name]
    if not isinstance(value, bool):
        raise refusal(source, where + name, value, "true or false")
    return value


def refusal(source: str, field: str, value: object, rule: str) -> CheckpointError:
    """Return the error for a field whose value is none that a tower of mingle-edge can have."""
    return CheckpointError(
        f"{source}: {field} is {shown(value)}, but must be {rule}; mingle-edge runs plain vision transformers, such as those "
        "of CLIP, SigLIP and DINOv2"
    )
