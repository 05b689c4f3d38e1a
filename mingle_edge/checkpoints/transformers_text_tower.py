"""Text towers that transformers builds and whose tokenizer lies in the model's own folder, such as those of SigLIP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mingle_edge.checkpoints.class_embeddings import TextTower
from mingle_edge.checkpoints.finite_tensors import read_finite
from mingle_edge.checkpoints.stored_tensors import StoredTensors
from mingle_edge.checkpoints.tower_names import model_names
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.data.hub import TOKENIZER_FILES

TEXT_TYPES = ("siglip", "chinese_clip", "metaclip_2")
"""Values of model_type in config.json."""
GIVE_A_HEAD = "give each task a head of ready-made class embeddings"

_FULL_LENGTH = ("siglip",)  # trained on prompts padded to the whole context, with no mask


def build_transformers_text_tower(folder: Path, path: Path, tensors: StoredTensors) -> TextTower:
    """Build the text tower that config.json in a folder describes, from weights in transformers' names.

    SigLIP's logit bias is the same for all classes, so that a softmax over them is without it.

    Args:
        folder: with config.json and the tokenizer.
        path: of the weights, for messages.
        tensors: the weights.

    Raises:
        CheckpointError: no tokenizer, transformers does not build or run the tower, or the weights do not fit it.
    """
    transformers = _transformers(folder)
    with _explained(folder, "read the tokenizer"):
        tokenizer = load_tokenizer(folder)
    with _explained(folder, "build the text tower"), torch.random.fork_rng(devices=[]):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.vision_config.num_hidden_layers = 1  # of the vision tower, which is built with it, nothing is used
        model = transformers.AutoModel.from_config(config, trust_remote_code=False).float().eval().requires_grad_(False)
    _load(model, path, tensors)
    context, entries = config.text_config.max_position_embeddings, config.text_config.vocab_size
    if len(tokenizer) > entries:
        raise CheckpointError(
            f"{folder}: the text tower's vocabulary has {entries} entries, the tokenizer {len(tokenizer)}; {GIVE_A_HEAD}"
        )
    full = config.model_type in _FULL_LENGTH

    def embed(prompts: list[str]) -> Tensor:
        padding = {"padding": "max_length", "max_length": context} if full else {"padding": True}
        tokens = tokenizer(prompts, return_tensors="pt", **padding)
        given = {"input_ids": tokens["input_ids"]} if full else dict(tokens)
        features = model.get_text_features(**given)
        return features if isinstance(features, Tensor) else features.pooler_output  # a tensor before transformers 5

    def tokens(prompt: str) -> list[int]:
        ids: list[int] = tokenizer(prompt)["input_ids"]
        return ids

    tower = TextTower(embed, tokens, context, f"the tokenizer in {folder}")
    with _explained(folder, "run the text tower"):
        tower.encode([""])
    return tower


def load_tokenizer(folder: Path) -> Any:
    """Return transformers' tokenizer of a folder, from the files there alone.

    Raises:
        CheckpointError: it holds none, or transformers is not there to read it.
    """
    transformers = _transformers(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # of which transformers would make an empty one
        raise CheckpointError(f"{folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); copy it there, or {GIVE_A_HEAD}")
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _load(model: torch.nn.Module, path: Path, tensors: StoredTensors) -> None:
    """Fill all of a model but its vision tower, every parameter from its own tensor."""
    keys = {name: key for key, name in model_names(tensors.names()).items()}
    for name, parameter in model.named_parameters():
        if name.startswith(("vision_model.", "visual_projection.")):
            continue
        if name not in keys:
            raise CheckpointError(f"{path} lacks {name} of the text tower; name the whole model's weights, or {GIVE_A_HEAD}")
        if tensors.shape(keys[name]) != tuple(parameter.shape):
            raise CheckpointError(
                f"{path}: {shown(keys[name])} is {list(tensors.shape(keys[name]))}, but the text tower of config.json needs "
                f"{list(parameter.shape)}; name the weights that belong to it"
            )
        parameter.copy_(read_finite(path, tensors, keys[name]))


def _transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{folder}: this text tower is built by transformers, which cannot be imported ({error}); pip install "
            f"transformers, or {GIVE_A_HEAD}"
        ) from error
    return transformers


@contextmanager
def _explained(folder: Path, what: str) -> Iterator[None]:
    """Raise `CheckpointError` for whatever transformers raises within the block."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # of any type, for files that may hold anything
        raise CheckpointError(
            f"{folder}: transformers cannot {what} ({' '.join(str(error).split()):.200}); correct the files, or {GIVE_A_HEAD}"
        ) from error
