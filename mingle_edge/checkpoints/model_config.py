"""Finding the configuration of a model: an open_clip name, an open_clip JSON config, or a Hugging Face folder."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import open_clip

from mingle_edge.core.errors import CheckpointError, FileError, shown
from mingle_edge.data.hub import is_hub_reference, local_path
from mingle_edge.data.weights_folder import OPEN_CLIP_CONFIG, is_open_clip_folder
from mingle_edge.files.plain_file import find_file
from mingle_edge.files.text_file import read_json

HUGGING_FACE_TYPES = (
    *("clip", "clip_vision_model", "chinese_clip", "chinese_clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
    *("siglip", "siglip_vision_model", "vit", "deit", "dinov2", "dinov2_with_registers"),
)
_NAFLEX = "reads images of any shape (NaFlex); name a SigLIP 2 of one size, whose model_type is siglip"
_OTHER_TYPES = {
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "dinov3_vit": "rotates queries and keys by position",
    "dinov3_convnext": "consists of convolutions",
    "convnext": "consists of convolutions",
    "resnet": "consists of convolutions",
    "swin": "attends within windows",
    "beit": "adds a bias of relative positions to attention",
}


@dataclass(frozen=True)
class ModelConfig:
    """One configuration as its library wrote it, not yet checked."""

    source: str  # the name or path, for messages
    kind: Literal["open_clip", "hugging_face"]
    model: dict[str, Any]  # open_clip's model_cfg, or Hugging Face's config.json
    preprocess: dict[str, Any] = field(default_factory=dict)  # empty where nothing is said


def read_model_config(model: str, base: Path) -> ModelConfig:
    """Return the configuration that `model` names: on the hub, a path relative to `base` if there is one, else an open_clip
    name.

    Raises:
        CheckpointError: neither exists, or the file is not a configuration of a model that is read.
    """
    path = local_path(model, base)
    try:
        if find_file(path) is not None:
            if path.is_dir() and not is_open_clip_folder(path):
                return _hugging_face(path)
            return _open_clip_json(path / OPEN_CLIP_CONFIG if path.is_dir() else path)
    except FileError as error:
        raise CheckpointError(str(error)) from error
    # get_model_config would go to the network for names with a scheme such as "hf-hub:".
    record = None if ":" in model else open_clip.get_model_config(model)
    if record is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        hint = f"the nearest names are {', '.join(near)}" if near else "open_clip.list_models() lists the names"
        raise CheckpointError(
            f"model {shown(model)} is neither an open_clip name, nor an open_clip JSON config or Hugging Face folder in "
            f"{base}; {hint}"
        )
    return ModelConfig(model, "open_clip", record)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `CheckpointError` when there is none."""
    try:
        record = read_json(path)
    except FileError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: it {error.reason}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(record).__name__}; restore the file")
    return record


def _open_clip_json(path: Path) -> ModelConfig:
    record = read_json_object(path)
    model, preprocess = record.get("model_cfg", record), record.get("preprocess_cfg", {})
    if not isinstance(model, dict) or not isinstance(preprocess, dict) or not {"embed_dim", "vision_cfg"} <= model.keys():
        raise CheckpointError(
            f"{path} is not an open_clip config: it needs embed_dim and vision_cfg, at the top or under model_cfg "
            "(for a Hugging Face model name its folder)"
        )
    return ModelConfig(str(path), "open_clip", model, preprocess)


def _hugging_face(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    if find_file(path) is None:
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a Hugging Face folder; "
            "for an open_clip model name its JSON config instead"
        )
    record = read_json_object(path)
    if (kind := record.get("model_type")) not in HUGGING_FACE_TYPES:
        known = f"one of {', '.join(HUGGING_FACE_TYPES)}"
        what = _OTHER_TYPES.get(kind) if isinstance(kind, str) else None
        raise CheckpointError(
            f"{path}: model_type is {shown(kind)}, but must be {known}"
            + (f"; a {kind} {what}" if what else "; mingle-edge runs plain vision transformers, such as those of CLIP")
        )
    preprocess: Any = None  # where transformers looks for it, in its order
    if find_file(file := folder / "processor_config.json") is not None:
        preprocess = read_json_object(file).get("image_processor")
    if preprocess is None:
        found = find_file(file := folder / "preprocessor_config.json") is not None
        preprocess = read_json_object(file) if found else {}
    if not isinstance(preprocess, dict):
        raise CheckpointError(f"{file}: image_processor must be an object; restore the file")
    return ModelConfig(str(path), "hugging_face", record, preprocess)


def is_there(path: Path) -> bool:
    """Say whether there is anything at a path. Raises `CheckpointError` where it may not be looked at."""
    try:
        return find_file(path) is not None
    except FileError as error:
        raise CheckpointError(str(error)) from error


def is_tag(name: str, base: Path) -> bool:
    """Say whether weights are named by a tag: by nothing on the hub, and by no path relative to `base`."""
    return not is_hub_reference(name) and not is_there(base / name)
