"""A vision tower on disk under the internal names, read tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from mingle_edge.checkpoints.architectures import architecture_of
from mingle_edge.checkpoints.conversion_commands import save_dense, save_part
from mingle_edge.checkpoints.folding import NAMINGS, fold
from mingle_edge.checkpoints.foreign_names import changes_embedding, foreign_names
from mingle_edge.checkpoints.model_config import read_model_config
from mingle_edge.checkpoints.peft_adapter import AdaptedTensors, ModelTensors, adapted_factors, is_adapter
from mingle_edge.checkpoints.preprocessing import preprocess_differences
from mingle_edge.checkpoints.stored_parameters import StoredParameter
from mingle_edge.checkpoints.stored_tensors import FLOATS, open_tensors
from mingle_edge.checkpoints.tower_names import NamedTower, find_towers, names_beside
from mingle_edge.checkpoints.weights import check_tag, find_weights
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG
from mingle_edge.files.plain_file import refusal

_OUTPUT = (
    *("output_dim", "pooling", "norm_tokens", "norm_pooled", "pool_heads", "pool_width", "pool_mlp_width"),
    *("projection", "projection_bias", "normalized"),
)
"""Fields of an architecture from the tokens to the embedding."""


@dataclass(frozen=True)
class Checkpoint:
    """The vision tower of one checkpoint. Opening it reads names and shapes; tensors are read when asked for, never kept."""

    path: Path  # the file or folder
    naming: str  # of `mingle_edge.checkpoints.folding.NAMINGS`
    has_text_tower: bool
    unexpected: list[str]  # names in the file that lie in the vision tower and belong to no parameter of it
    outside: list[str]  # names in the file that belong neither to the vision tower nor to the model around it
    stored: ModelTensors  # everything in the file, by its names there
    _parameters: dict[str, StoredParameter]

    @property
    def files(self) -> list[Path]:
        """Return the files that hold it, in order of their names."""
        return self.stored.files

    def names(self) -> list[str]:
        """Return the internal names of the parameters that the file holds."""
        return list(self._parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the parameter with this internal name."""
        return self._parameters[name].shape(self.stored)

    def dtype(self, name: str) -> str:
        """Return the element type in the file, such as `float16`; of several tensors of the first that is not floating."""
        types = [self.stored.dtype(key) for key in self._parameters[name].keys] or ["float32"]
        return next((dtype for dtype in types if dtype not in FLOATS), types[0])

    def stored_name(self, name: str) -> str:
        """Return what the file calls the tensors that this parameter is made of."""
        return " and ".join(self._parameters[name].keys) or "absent"

    def tensor(self, name: str) -> Tensor:
        """Read one parameter by its internal name: float32, contiguous, on the CPU, in memory of its own.

        Raises:
            CheckpointError: the file cannot be read.
            KeyError: the file holds no such parameter.
        """
        return self._parameters[name].read(self.stored)

    def factors(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """Return B `[d_out, r]` and A `[r, d_in]` whose product is what an adapter adds to the weight of a linear layer.

        None where that is not known to be such a product: in a checkpoint that is no adapter, or where it changes more.
        """
        if not isinstance(self.stored, AdaptedTensors):
            return None
        return adapted_factors(self._parameters[f"{layer}.weight"], self.stored)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter in turn, as `tensor` returns it; only one is in memory at a time."""
        for name in self._parameters:
            yield name, self.tensor(name)

    def sha256(self) -> str:
        """Return the SHA-256 over the bytes of the file, or of the shards in order of their names. Raises `CheckpointError`."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
            except OSError as error:
                raise CheckpointError(f"{path} {refusal(error)}") from error
        return digest.hexdigest()


def open_checkpoint(
    path_or_tag: str,
    *,
    base: Path,
    architecture: VisionArchitecture,
    model: str | None = None,
    backbone: Checkpoint | None = None,
) -> Checkpoint:
    """Open the vision tower of a checkpoint; `check_checkpoint` then compares it with the architecture, shape by shape.

    The tower may lie under any one prefix, such as trainings put before names, and beside anything that leaves the image's
    embedding as it is; of that, the names are kept in `outside`.

    Args:
        path_or_tag: relative to `base`, a file of safetensors or PyTorch that holds a vision tower, alone or within a model, in
            the names of open_clip or Hugging Face; a folder of such files; or a pretrained tag of `model`.
        base: the folder that relative paths start from.
        architecture: what the tower must be. A folder whose configuration differs, or a tag trained with another
            activation, is refused.
        model: of the backbone, what the architecture was read from: an open_clip name whose tags `path_or_tag` may name. The
            weights then need not pool as it does: image classifiers pool otherwise than the model they were fine-tuned from.
        backbone: what an adapter folder of PEFT changes; without it none is read.

    Raises:
        CheckpointError: nothing there, no or several vision towers, something that changes the image's embedding, or configured
            otherwise.
    """
    check_tag(path_or_tag, base, model, architecture)
    path = find_weights(path_or_tag, base, model)
    if backbone is not None and path.is_dir() and is_adapter(path):
        tensors: ModelTensors = AdaptedTensors(path, backbone.stored)
    else:
        tensors = open_tensors(path)
    if path.is_dir() and any((path / name).exists() for name in (HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG)):
        _check_config(path, tensors, architecture, is_backbone=model is not None)
    names = [*tensors.names(), *tensors.others]
    tower = _one_tower(path, tensors, names)
    parameters = fold(tower.parameters, NAMINGS[tower.naming], architecture)
    beside, outside = names_beside(names, tower)
    _check_plain(path, tensors, tower, outside)
    _check_pooling(path, tower, outside, architecture)
    has_text_tower = any(name.endswith(("token_embedding.weight", "word_embeddings.weight")) for name in beside)
    if isinstance(tensors, AdaptedTensors):  # the text tower of an adapter that leaves it alone is the backbone's
        has_text_tower = has_text_tower and any(tensors.changes(name) for name in beside)
    return Checkpoint(path, tower.naming, has_text_tower, tower.unexpected, outside, tensors, parameters)


def _one_tower(path: Path, tensors: ModelTensors, names: list[str]) -> NamedTower:
    """Return the one vision tower of a file; several whose tensors are the very same are one under several names."""
    towers = find_towers(names)
    if not towers:
        first = ", ".join(shown(name) for name in names[:3]) or "no tensor at all"
        said = foreign_names(names) or (
            "holds no vision transformer in the names of open_clip, timm or Hugging Face; save the image encoder's state dict "
            "in these"
        )
        raise CheckpointError(f"{path} {said} (it begins with {first})")
    if len({_places(tensors, tower) for tower in towers}) > 1:
        prefixes = [tower.prefix for tower in towers]
        listed = " and ".join(f"{prefix or 'no prefix'!r}" for prefix in prefixes)
        raise CheckpointError(
            f"{path} holds {len(towers)} vision towers, under {listed}, such as a model and its moving average; save the one "
            f"to use in a file of its own: {save_part(path, prefixes[-1])}"
        )
    return towers[0]


def _places(tensors: ModelTensors, tower: NamedTower) -> frozenset[tuple[str, Path, int]]:
    """Return where the values of each parameter are, by internal name."""
    stored = [(n, p.key) for n, p in tower.parameters.items() if p.key not in tensors.others]
    locations = [(name, tensors.location(key)) for name, key in stored]
    return frozenset((name, location.path, location.start) for name, location in locations)


def _check_plain(path: Path, tensors: ModelTensors, tower: NamedTower, outside: list[str]) -> None:
    """Check that a tower consists of tensors with values, and that nothing beside it changes what it makes of an image."""
    if changing := changes_embedding([*tower.unexpected, *outside]):
        name, what, step = changing
        raise CheckpointError(f"{path} holds {what} ({shown(name)}); {step}")
    keys = [parameter.key for parameter in tower.parameters.values()]
    for key in keys:
        if key in tensors.others:
            raise CheckpointError(
                f"{path}: {shown(key)} is {tensors.others[key]}, not a plain tensor, and mingle-edge runs no code from a "
                f"checkpoint; if you trust it, save plain tensors: {save_dense(path, tower.prefix)}"
            )
    empty = [key for key in keys if tensors.shape(key) == (0,)]
    if empty:
        raise CheckpointError(
            f"{path}: {shown(empty[0])} and {len(empty) - 1} others are empty, as DeepSpeed's ZeRO-3 leaves tensors that it "
            "has spread over devices; put them together with the zero_to_fp32.py beside the checkpoint, or train with "
            "stage3_gather_16bit_weights_on_model_save"
        )


def _check_pooling(path: Path, tower: NamedTower, outside: list[str], architecture: VisionArchitecture) -> None:
    """Refuse transformers' image classifiers on CLIP, which pool otherwise than CLIP, where no configuration says so."""
    classifier = f"{tower.model_prefix}classifier.weight"
    if tower.naming == "hugging_face" and classifier in outside and architecture.pooling != "average":
        raise CheckpointError(
            f"{path} looks like a CLIPForImageClassification of transformers ({shown(classifier)}), whose embedding is the "
            "mean over all patches, and the backbone's is not; fine-tune a CLIPModel or CLIPVisionModelWithProjection instead"
        )


def _check_config(folder: Path, tensors: ModelTensors, architecture: VisionArchitecture, *, is_backbone: bool) -> None:
    """Compare a Hugging Face folder's config.json with the architecture: weights alone do not tell the activation."""
    config = read_model_config(str(folder), Path())
    trained = architecture_of(config)
    ours, theirs = asdict(architecture), asdict(trained)
    ignored = {"preprocess", *(_OUTPUT if is_backbone else ())}
    if not any(name.endswith("visual_projection.weight") for name in tensors.names()):
        ignored.add("output_dim")  # config.json then states a default that no tensor has
    fields = [field for field in ours if field not in ignored and ours[field] != theirs[field]]
    different = [f"{field} {theirs[field]} instead of {ours[field]}" for field in fields]
    step = "name the model this checkpoint was fine-tuned from"
    if different and not set(fields) - set(_OUTPUT):
        step = f"let [backbone] model name {folder}, whose head pools so, and [backbone] weights the pretrained model"
    if config.preprocess:  # without a processor's file the folder says nothing of images
        different += preprocess_differences(trained.preprocess, architecture.preprocess)
    if different:
        raise CheckpointError(f"{config.source} describes another model than the backbone: {', '.join(different)}; {step}")
