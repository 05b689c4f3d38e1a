"""A vision tower on disk under the internal names, read tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from mingle_edge.checkpoints.architectures import architecture_of
from mingle_edge.checkpoints.model_config import read_model_config
from mingle_edge.checkpoints.preprocessing import preprocess_differences
from mingle_edge.checkpoints.stored_parameters import StoredParameter, hugging_face_parameters, open_clip_parameters
from mingle_edge.checkpoints.stored_tensors import StoredTensors, open_tensors, without_module
from mingle_edge.checkpoints.weights import check_tag, find_weights
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError
from mingle_edge.files.plain_file import refusal

Naming = Literal["open_clip", "hugging_face"]


@dataclass(frozen=True)
class Checkpoint:
    """The vision tower of one checkpoint. Opening it reads names and shapes; tensors are read when asked for, never kept."""

    path: Path  # the file or folder
    naming: Naming
    has_text_tower: bool
    unexpected: list[str]  # names in the file that belong to no parameter of a CLIP vision tower
    _tensors: StoredTensors
    _parameters: dict[str, StoredParameter]

    def names(self) -> list[str]:
        """Return the internal names of the parameters that the file holds."""
        return list(self._parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the parameter with this internal name."""
        parameter = self._parameters[name]
        return parameter.shape(self._tensors.shape(parameter.key))

    def dtype(self, name: str) -> str:
        """Return the element type in the file, such as `float16`."""
        return self._tensors.dtype(self._parameters[name].key)

    def stored_name(self, name: str) -> str:
        """Return what the file calls the tensor that holds this parameter."""
        return self._parameters[name].key

    def tensor(self, name: str) -> Tensor:
        """Read one parameter by its internal name: float32, contiguous, on the CPU, in memory of its own.

        Raises:
            CheckpointError: the file cannot be read.
            KeyError: the file holds no such parameter.
        """
        return self._parameters[name].read(self._tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter in turn, as `tensor` returns it; only one is in memory at a time."""
        for name in self._parameters:
            yield name, self.tensor(name)

    def sha256(self) -> str:
        """Return the SHA-256 over the bytes of the file, or of the shards in order of their names. Raises `CheckpointError`."""
        digest = hashlib.sha256()
        for path in self._tensors.files:
            try:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
            except OSError as error:
                raise CheckpointError(f"{path} {refusal(error)}") from error
        return digest.hexdigest()


def open_checkpoint(path_or_tag: str, *, base: Path, architecture: VisionArchitecture, model: str | None = None) -> Checkpoint:
    """Open the vision tower of a checkpoint; `check_checkpoint` then compares it with the architecture, shape by shape.

    Args:
        path_or_tag: relative to `base`, a `.safetensors` file or PyTorch archive of an open_clip or Hugging Face state dict
            (a whole model or its vision tower alone) or a Hugging Face folder; or a pretrained tag of `model`.
        base: the folder that relative paths start from.
        architecture: what the tower must be. A folder whose config.json differs, or a tag trained with another
            activation, is refused.
        model: the open_clip name whose tags `path_or_tag` may name.

    Raises:
        CheckpointError: nothing there, not readable without running code, not a CLIP vision tower, or configured otherwise.
    """
    check_tag(path_or_tag, base, model, architecture)
    path = find_weights(path_or_tag, base, model)
    tensors = open_tensors(path)
    if path.is_dir():
        _check_config(path, tensors, architecture)
    naming, names = _recognize(path, tensors.names())
    parameters: dict[str, StoredParameter] = {}
    unexpected = []
    for key, name in names.items():
        within = open_clip_parameters(name, key) if naming == "open_clip" else hugging_face_parameters(name, key)
        parameters |= {parameter.name: parameter for parameter in within}
        if not within:
            unexpected.append(key)
    has_text_tower = any("token_embedding.weight" in key for key in tensors.names())
    return Checkpoint(path, naming, has_text_tower, unexpected, tensors, parameters)


def _recognize(path: Path, keys: list[str]) -> tuple[Naming, dict[str, str]]:
    """Return the naming a file follows and, by the names in the file, those of its vision tower without prefixes."""
    names = without_module(keys)
    if any(name.startswith("visual.") for name in names.values()):
        return "open_clip", {k: n.removeprefix("visual.") for k, n in names.items() if n.startswith("visual.")}
    if any(name.startswith(("vision_model.", "encoder.layers.", "embeddings.")) for name in names.values()):
        text = ("text_model.", "text_projection.", "logit_scale")
        vision = {k: n.removeprefix("vision_model.") for k, n in names.items() if not n.startswith(text)}
        return "hugging_face", {k: n for k, n in vision.items() if n != "embeddings.position_ids"}
    if "conv1.weight" in names.values() or "class_embedding" in names.values():
        return "open_clip", names
    first = ", ".join(keys[:3]) or "no tensor at all"
    raise CheckpointError(
        f"{path} holds no CLIP vision tower in the names of open_clip or Hugging Face (it begins with {first}); "
        "convert it to one of these"
    )


def _check_config(folder: Path, tensors: StoredTensors, architecture: VisionArchitecture) -> None:
    """Compare a Hugging Face folder's config.json with the architecture: weights alone do not tell the activation."""
    config = read_model_config(str(folder), Path())
    trained = architecture_of(config)
    ours, theirs = asdict(architecture), asdict(trained)
    ignored = {"preprocess"}
    if not any(name.endswith("visual_projection.weight") for name in tensors.names()):
        ignored.add("output_dim")  # config.json then states a default that no tensor has
    fields = [field for field in ours if field not in ignored and ours[field] != theirs[field]]
    different = [f"{field} {theirs[field]} instead of {ours[field]}" for field in fields]
    # Without a processor's file the folder says nothing of images but their size.
    images = trained.preprocess if config.preprocess else replace(architecture.preprocess, image_size=trained.image_size)
    different += preprocess_differences(images, architecture.preprocess)
    if different:
        raise CheckpointError(
            f"{config.source} describes another model than the backbone: {', '.join(different)}; name the model this "
            "checkpoint was fine-tuned from"
        )
