"""Comparing a checkpoint with the architecture it must have, and saying readably where they differ."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import open_clip

from mingle_edge.checkpoints.architectures import architecture_of
from mingle_edge.checkpoints.checkpoint import Checkpoint
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.stored_tensors import FLOATS
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError

LINES = 12
"""Lines of a difference that are shown; the rest is counted."""
LARGEST_WEIGHT = 1e6
"""No trained weight comes near it; sums of squares and products of such weights are still finite in float32."""

Shapes = Mapping[str, tuple[int, ...]]


def check_checkpoint(checkpoint: Checkpoint, architecture: VisionArchitecture, *, backbone: bool) -> None:
    """Check names, shapes, element types and, reading tensor by tensor, that every value is finite and one a weight may have.

    A fine-tuned Hugging Face tower may come without `projection.weight`; the backbone's is then the right one, for a tower
    saved without it was trained without changing it. The backbone itself may not.

    Raises:
        CheckpointError: with a difference of at most `LINES` lines, or the first tensor with a value that is not finite or
            beyond `LARGEST_WEIGHT`.
    """
    expected = architecture.parameter_shapes()
    stored_shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
    if architecture.projection and checkpoint.naming == "hugging_face" and "projection.weight" not in stored_shapes:
        if backbone:
            raise CheckpointError(
                f"{checkpoint.path} is a vision tower without visual_projection.weight, which maps images into the space "
                "shared with text; take the backbone from the whole CLIPModel, or a CLIPVisionModelWithProjection"
            )
        del expected["projection.weight"]
    if lines := _difference(checkpoint, stored_shapes, expected):
        shown = lines[:LINES] + ([f"  ... and {len(lines) - LINES} more"] if len(lines) > LINES else [])
        raise CheckpointError("\n".join([_headline(checkpoint, stored_shapes, architecture), *shown]))
    for name in expected:
        if checkpoint.dtype(name) not in FLOATS:
            raise CheckpointError(
                f"{checkpoint.path}: {checkpoint.stored_name(name)} is {checkpoint.dtype(name)}, but weights must be one of "
                f"{', '.join(FLOATS)}; use the checkpoint before quantization"
            )
    for name, tensor in checkpoint.tensors():
        if broken := tensor.numel() - int(tensor.isfinite().sum()):
            raise CheckpointError(
                f"{checkpoint.path}: {broken} of {tensor.numel()} values of {checkpoint.stored_name(name)} ({name}) are NaN or "
                "infinite; use a checkpoint from before the training diverged"
            )
        if (largest := float(tensor.abs().max())) > LARGEST_WEIGHT:
            raise CheckpointError(
                f"{checkpoint.path}: a value of {checkpoint.stored_name(name)} ({name}) is {largest:.3g}, and no weight is "
                f"larger than {LARGEST_WEIGHT:g}; use a checkpoint from before the training diverged"
            )


def _difference(checkpoint: Checkpoint, stored_shapes: Shapes, expected: Shapes) -> list[str]:
    lines = [f"  missing     {name} {list(shape)}" for name, shape in expected.items() if name not in stored_shapes]
    lines += [f"  unexpected  {key}" for key in checkpoint.unexpected]
    for name, shape in stored_shapes.items():
        stored = f"{name} ({checkpoint.stored_name(name)})"
        if name not in expected:
            lines.append(f"  unexpected  {stored} {list(shape)}")
        elif shape != expected[name]:
            lines.append(f"  shape       {stored} is {list(shape)}, expected {list(expected[name])}")
    return lines


def _headline(checkpoint: Checkpoint, stored_shapes: Shapes, architecture: VisionArchitecture) -> str:
    theirs = _sizes(stored_shapes, architecture)
    ours = {field: getattr(architecture, field) for field in theirs}
    if theirs == ours:
        return (
            f"{checkpoint.path} is of the backbone's size, but its parameters are not those of the backbone; use the whole "
            "state dict of a model that is the backbone in everything but its values:"
        )
    return (
        f"{checkpoint.path} looks like {_describe(theirs)}, but the backbone is {_describe(ours)}; "
        "use a checkpoint fine-tuned from this backbone:"
    )


def _sizes(stored_shapes: Shapes, architecture: VisionArchitecture) -> dict[str, int]:
    """Return the sizes that the shapes imply in a tower otherwise like the architecture; without what no tensor tells."""
    sizes: dict[str, int] = {}
    if len(patches := stored_shapes.get("patch_embedding.weight", ())) == 2:
        sizes |= {"width": patches[0], "patch_size": math.isqrt(patches[1] // 3)}
    if blocks := [int(match[1]) for name in stored_shapes if (match := re.match(r"blocks\.(\d+)\.", name))]:
        sizes["layers"] = max(blocks) + 1
    if "patch_size" in sizes and len(positions := stored_shapes.get("positions", ())) == 2:
        grid = math.isqrt(max(positions[0] - architecture.prefix_tokens, 0))
        same = grid == architecture.grid and sizes["patch_size"] == architecture.patch_size
        sizes["image_size"] = architecture.image_size if same else sizes["patch_size"] * grid
    if len(fc1 := stored_shapes.get("blocks.0.fc1.weight", ())) == 2:
        sizes["mlp_width"] = fc1[0]
    if len(projection := stored_shapes.get("projection.weight", ())) == 2:
        sizes["output_dim"] = projection[0]
    return sizes


def _describe(sizes: Mapping[str, int]) -> str:
    """Say sizes in words, after the shortest open_clip name that has them all."""
    text = ", ".join(f"{field} {size}" for field, size in sizes.items())
    for name in sorted(open_clip.list_models(), key=len):
        config = ModelConfig(name, "open_clip", open_clip.get_model_config(name))
        if config.model["vision_cfg"].get("timm_model_name"):  # which would have to be built
            continue
        try:
            architecture = architecture_of(config)
        except CheckpointError:
            continue
        if len(sizes) > 3 and all(getattr(architecture, field) == size for field, size in sizes.items()):
            return f"{name} ({text})"
    return f"a tower of {text}"
