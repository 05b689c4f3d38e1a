"""Which pretrained model the checkpoints of a first task file came from, and how `[backbone]` names it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip

from mingle_edge.checking.found_checkpoints import FoundCheckpoint, middle_one
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.core.errors import MingleError
from mingle_edge.data.hub import SCHEME, is_hub_reference, parse_hub_reference
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG


@dataclass(frozen=True)
class BackboneLines:
    """What `[backbone]` says."""

    model: str | None  # None: it could not be found
    weights: str | None = None
    comment: str = ""  # where the model was found, or what to give
    example: str = "ViT-B-32-quickgelu"
    lacks_weights: bool = False
    checkpoint: FoundCheckpoint | None = None  # the one among those found that is no task


def backbone_lines(
    checkpoints: Sequence[FoundCheckpoint], model: str | None, weights: str | None, folder: Path
) -> BackboneLines:
    """Return what `[backbone]` says in a file in `folder`, from what a user gave or from what was found."""
    if model is not None:
        there = Path(os.path.abspath(model))
        own = next((c for c in checkpoints if c.path == there or (weights and c.path == Path(os.path.abspath(weights)))), None)
        if weights is None and own is None and not is_hub_reference(model) and not there.is_dir():
            own, _ = _pretrained(checkpoints)
            weights = None if own is None else str(own.path)
        lacks = weights is None and not is_hub_reference(model) and not there.is_dir()
        return BackboneLines(_named(model, folder), weights and _named(weights, folder), lacks_weights=lacks, checkpoint=own)
    own, comment = _pretrained(checkpoints)
    if own is None:
        bases = {checkpoint.base_model for checkpoint in checkpoints} - {None}
        base = bases.pop() if len(bases) == 1 else None
        if base is not None and os.path.isdir(base):
            return BackboneLines(_named(base, folder), comment="what the checkpoints say they were fine-tuned from")
        if base is not None and _is_on_hub(f"{SCHEME}{base}"):
            return BackboneLines(f"{SCHEME}{base}", comment="what the checkpoints say they were fine-tuned from")
        return BackboneLines(None, comment="the pretrained model that all were fine-tuned from, and its weights")
    path = own.path
    if path.is_dir() and any((path / name).is_file() for name in (HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG)):
        return BackboneLines(_named(str(path), folder), comment=comment, checkpoint=own)
    file = _named(str(path), folder)
    if (config := _config_beside(own)) is not None:
        return BackboneLines(_named(str(config), folder), file, comment, checkpoint=own)
    names = _open_clip_names(own)
    what = f"one of {', '.join(names)}" if names else "an open_clip name or JSON config"
    comment = f"{what}; its weights do not tell the activation (OpenAI's are quickgelu)"
    return BackboneLines(None, file, comment, names[0] if names else "model.json", checkpoint=own)


def _pretrained(checkpoints: Sequence[FoundCheckpoint]) -> tuple[FoundCheckpoint | None, str]:
    """Return the pretrained one of several checkpoints, and why it is taken for that."""
    towers = [checkpoint for checkpoint in checkpoints if checkpoint.tower is not None]
    called = [checkpoint for checkpoint in towers if checkpoint.called_pretrained]
    if len(called) == 1:
        return called[0], "by its name"
    if len(called) > 1:
        return None, ""
    if (middle := middle_one(towers)) is not None:
        return (
            middle,
            "the one that all others differ from in directions of their own; correct it if it is not the pretrained one",
        )
    return None, ""


def _named(text: str, folder: Path) -> str:
    """Return a path relative to the task file's folder; a name or tag as it is."""
    if is_hub_reference(text) or not os.path.lexists(text):
        return text
    return os.path.relpath(text, folder).replace(os.sep, "/")


def _is_on_hub(text: str) -> bool:
    try:
        return not parse_hub_reference(text).dataset
    except MingleError:
        return False


def _config_beside(own: FoundCheckpoint) -> Path | None:
    """Return the one open_clip JSON config beside a file of weights that describes its tower."""
    fitting = []
    for path in sorted(own.path.parent.glob("*.json")):
        try:
            architecture = read_architecture(str(path), own.path.parent)
            checkpoint = open_checkpoint(str(own.path), base=own.path.parent, architecture=architecture)
            shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
        except MingleError:
            continue
        if shapes == architecture.parameter_shapes():
            fitting.append(path)
    return fitting[0] if len(fitting) == 1 else None


def _open_clip_names(own: FoundCheckpoint) -> list[str]:
    """Return the open_clip names of plain CLIP towers of a checkpoint's sizes."""
    if own.tower is None:
        return []
    parameters = own.tower.parameters
    patches = parameters["patch_embedding.weight"].shape(own.tensors)
    layers = sum(name.endswith(".fc1.weight") for name in parameters)
    tokens = parameters["positions"].shape(own.tensors)[0] if "positions" in parameters else 0
    patch = math.isqrt(patches[1] // 3) if len(patches) == 2 else 0
    names = []
    for name in open_clip.list_models():
        tower = open_clip.get_model_config(name)["vision_cfg"]
        sizes = (tower.get("width"), tower.get("layers"), tower.get("patch_size"), tower.get("image_size"))
        if sizes == (patches[0], layers, patch, patch * math.isqrt(max(tokens - 1, 0))):
            names.append(name)
    return sorted(names, key=lambda name: (len(name.removesuffix("-quickgelu")), name))[:4]
