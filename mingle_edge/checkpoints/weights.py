"""Where weights come from: a path, the Hugging Face hub, or a pretrained tag of open_clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip

from mingle_edge.checkpoints.architectures import read_architecture
from mingle_edge.checkpoints.model_config import is_tag, is_there
from mingle_edge.checkpoints.preprocessing import preprocess_differences
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.data.hub import local_path, way_to_path
from mingle_edge.data.weights_folder import SUFFIXES


def find_weights(path_or_tag: str, base: Path, model: str | None) -> Path:
    """Return the file or folder that `path_or_tag` names, downloaded if it is on the hub or a tag of the open_clip name
    `model`.

    Raises:
        CheckpointError: neither a path relative to `base` nor a tag of `model`, or the download of a tag failed.
        HubError: the hub, or the cache where there is no network, does not have it.
    """
    path = local_path(path_or_tag, base)
    if is_there(path):
        return path
    tag = _tag(path_or_tag, base, model)
    try:
        downloaded = open_clip.download_pretrained(tag)
    except Exception as error:  # of whichever HTTP client its version of the hub's library uses
        raise CheckpointError(
            f"open_clip could not download {model!r} {path_or_tag!r} ({error}); check the network, or download the file and "
            "name its path"
        ) from error
    return Path(downloaded)


def check_tag(path_or_tag: str, base: Path, model: str | None, architecture: VisionArchitecture) -> None:
    """Check that a pretrained tag was trained as `architecture` runs. Does nothing when `path_or_tag` is a path.

    Raises:
        CheckpointError: another activation, or images prepared otherwise.
    """
    if model is None or not is_tag(path_or_tag, base):
        return
    tag = _tag(path_or_tag, base, model)
    activation = "quick_gelu" if tag.get("quick_gelu") else "gelu"
    # Where open_clip has a model with one activation alone, all its weights were trained with it, whatever their tags say.
    twin = model.removesuffix("-quickgelu") if model.endswith("-quickgelu") else f"{model}-quickgelu"
    if activation != architecture.activation and twin in open_clip.list_models():
        raise CheckpointError(
            f"the weights {path_or_tag!r} were trained with {activation}, but {model!r} runs {architecture.activation}; name "
            f"the model {twin}"
        )
    trained = replace(read_architecture(model, base, path_or_tag).preprocess, image_size=architecture.image_size)
    if different := preprocess_differences(trained, architecture.preprocess):
        raise CheckpointError(
            f"the weights {path_or_tag!r} were trained on images prepared otherwise: {', '.join(different)}; "
            "read the architecture with these weights"
        )


def _tag(path_or_tag: str, base: Path, model: str | None) -> dict[str, Any]:
    if "/" in path_or_tag or path_or_tag.endswith(SUFFIXES):
        raise CheckpointError(f"there is no checkpoint {base / path_or_tag}; {way_to_path(path_or_tag)}")
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, path_or_tag) if model is not None else {}
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(model) if model is not None else []
        tags = f"the tags of {model} are {', '.join(known)}" if known else "name a checkpoint's path"
        raise CheckpointError(f"{shown(path_or_tag)} is neither a path in {base} nor a pretrained tag of the model; {tags}")
    return tag
