"""Classification heads from class names: text embeddings of prompts, as zero-shot CLIP makes them (arXiv 2103.00020, 3.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.checkpoints.architectures import MOST_LAYERS, hugging_face_activation, open_clip_activation, positive, size
from mingle_edge.checkpoints.finite_tensors import read_finite
from mingle_edge.checkpoints.model_config import ModelConfig, read_model_config
from mingle_edge.checkpoints.stored_parameters import hugging_face_text_keys
from mingle_edge.checkpoints.stored_tensors import StoredTensors, open_tensors, without_module
from mingle_edge.checkpoints.weights import find_weights
from mingle_edge.core.errors import CheckpointError, TaskFileError, shown
from mingle_edge.data.hub import local_path

CLIP_LOGIT_SCALE = 100.0
"""What CLIP's logit scale is clipped to, and reaches, in training."""

BATCH = 256  # prompts encoded at a time

# open_clip builds a text tower only as part of a model; this is the smallest vision tower to go with it.
_LEAST_VISION = {"image_size": 1, "patch_size": 1, "width": 1, "layers": 1, "head_width": 1}
# transformers leaves values equal to its defaults out of config.json.
_HUGGING_FACE_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_TEXT_KEYS = ("text_model.", "text_projection", "token_embedding.", "positional_embedding", "transformer.", "ln_final.")


@dataclass(frozen=True)
class TextTower:
    """A CLIP text tower, open_clip's own, with its tokenizer."""

    transformer: torch.nn.Module
    tokenizer: open_clip.SimpleTokenizer

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """Return text embeddings `[n, dim]` of `prompts`, not normalized.

        Raises:
            CheckpointError: a prompt has more tokens than the tower's context; cut short, classes could become equal.
        """
        context: int = self.tokenizer.context_length
        for prompt in prompts:
            tokens = len(self.tokenizer.encode(prompt)) + 2  # start and end
            if tokens > context:
                raise CheckpointError(
                    f"the prompt {shown(prompt)} has {tokens} tokens, the text tower reads {context}; shorten it"
                )
        batches = (prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH))
        return torch.cat([self.transformer(self.tokenizer(batch)) for batch in batches])


def class_embeddings(text_tower: TextTower, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the head `[classes, dim]`: per class the mean of its prompts' unit embeddings, scaled to unit length.

    `{}` in a template stands for the class name.

    Raises:
        TaskFileError: the tokenizer makes the same tokens of two classes; it knows no capital letters, takes several spaces
            for one and an HTML entity for its character.
        CheckpointError: see `TextTower.encode`.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    tokens = [tuple(text_tower.tokenizer.encode(prompt)) for prompt in prompts]
    known: dict[tuple[tuple[int, ...], ...], str] = {}
    for number, name in enumerate(classes):
        of_class = tuple(tokens[number * len(templates) : (number + 1) * len(templates)])
        if (other := known.setdefault(of_class, name)) is not name:
            raise TaskFileError(
                f"the classes {other!a} and {name!a} are the same tokens to CLIP's tokenizer, which knows no capital "
                "letters and joins spaces, so nothing could ever be told to be the second; give names that differ, or a head"
            )
    embeddings = F.normalize(text_tower.encode(prompts), dim=-1)
    per_class = embeddings.reshape(len(classes), len(templates), -1)
    return F.normalize(per_class.mean(dim=1), dim=-1)


def build_text_tower(model: str, weights: str | None, base: Path) -> TextTower:
    """Build the text tower of the backbone.

    Args:
        model: an open_clip name, or relative to `base` an open_clip JSON config or a Hugging Face CLIPModel folder.
        weights: the whole model's weights, a path relative to `base` or an open_clip tag; not needed for a folder.
        base: the folder that relative paths start from.

    Raises:
        CheckpointError: no text tower there, one with another tokenizer than CLIP's, or weights that do not fit it.
    """
    config = read_model_config(model, base)
    text = _open_clip_text(config) if config.kind == "open_clip" else _hugging_face_text(config)
    for name in ("context_length", "vocab_size", "width", "heads"):
        size(text["text_cfg"], name, config.source, "text_cfg.")
    layers = size(text["text_cfg"], "layers", config.source, "text_cfg.", MOST_LAYERS)
    tokenizer = open_clip.SimpleTokenizer(context_length=text["text_cfg"]["context_length"])
    if text["text_cfg"]["vocab_size"] < tokenizer.vocab_size:
        raise CheckpointError(
            f"{config.source}: the text tower's vocabulary has {text['text_cfg']['vocab_size']} entries, CLIP's tokenizer "
            f"{tokenizer.vocab_size}; give each task a head of ready-made class embeddings"
        )
    hollow = _build(text, config.source, "meta")
    source = _open(model, weights, base)
    _load(hollow, source, layers, _hollow)  # weights that do not fit are found before a tower of any size takes memory
    transformer = _build(text, config.source, "cpu")
    _load(transformer, source, layers, read_finite)
    tower = TextTower(transformer.eval().requires_grad_(False), tokenizer)
    try:
        tower.encode([""])
    except Exception as error:  # open_clip looks at some fields only when it runs
        raise CheckpointError(f"{config.source}: open_clip cannot run the text tower ({error}); correct text_cfg") from error
    return tower


def logit_scale(model: str, weights: str | None, base: Path) -> float:
    """Return what multiplies cosines before a softmax: exp(logit_scale) of the backbone's file, CLIP's 100 without one."""
    path, tensors = _open(model, weights, base)
    keys = {name: key for key, name in without_module(tensors.names()).items()}
    if "logit_scale" not in keys:
        return CLIP_LOGIT_SCALE
    value = read_finite(path, tensors, keys["logit_scale"])
    scale = math.exp(value.item()) if value.numel() == 1 and value.item() < math.log(1e6) else math.inf
    if not 0 < scale < math.inf:
        raise CheckpointError(f"{path}: logit_scale must be one number of at most log(1e6); use an undamaged checkpoint")
    return scale


def _open_clip_text(config: ModelConfig) -> dict[str, Any]:
    text = config.model.get("text_cfg")
    if not isinstance(text, dict):
        raise CheckpointError(f"{config.source} describes no text tower (text_cfg); give each task a head")
    for name in ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"):
        if text.get(name):
            raise CheckpointError(
                f"{config.source}: text_cfg.{name} is {shown(text[name])}, but only CLIP's own text tower and tokenizer are "
                "read; give each task a head of ready-made class embeddings"
            )
    defaults = {field.name: field.default for field in dataclasses.fields(open_clip.CLIPTextCfg)}
    return {
        "embed_dim": size(config.model, "embed_dim", config.source),
        "quick_gelu": open_clip_activation(config) == "quick_gelu",
        "text_cfg": defaults | text | {"output_tokens": False},
    }


def _hugging_face_text(config: ModelConfig) -> dict[str, Any]:
    """Describe a Hugging Face text tower in the words of open_clip's configuration."""
    record, source = config.model, config.source
    if record["model_type"] != "clip":
        raise CheckpointError(f"{source} describes a vision tower alone; name the whole CLIPModel, or give each task a head")
    text = record.get("text_config_dict") or record.get("text_config") or {}
    if not isinstance(text, dict):
        raise CheckpointError(f"{source}: text_config is {shown(text)}, but must be an object; restore the file")
    fields = _HUGGING_FACE_TEXT_DEFAULTS | {name: value for name, value in text.items() if value is not None}
    if fields["eos_token_id"] not in (2, 49407):  # 2 is what transformers wrote before it was corrected
        raise CheckpointError(
            f"{source}: text_config.eos_token_id is {shown(fields['eos_token_id'])}, but CLIP's tokenizer ends with 49407; "
            "give each task a head of ready-made class embeddings"
        )
    width, mlp_width = (size(fields, name, source, "text_config.") for name in ("hidden_size", "intermediate_size"))
    activation = hugging_face_activation(fields["hidden_act"], "text_config.hidden_act", source)
    return {
        "embed_dim": size({"projection_dim": 512} | record, "projection_dim", source),
        "quick_gelu": activation == "quick_gelu",
        "text_cfg": {
            "context_length": fields["max_position_embeddings"],
            "vocab_size": fields["vocab_size"],
            "width": width,
            "heads": fields["num_attention_heads"],
            "layers": fields["num_hidden_layers"],
            "mlp_ratio": (mlp_width + 0.5) / width,  # open_clip rounds the product down
            "norm_kwargs": {"eps": positive(fields["layer_norm_eps"], "text_config.layer_norm_eps", source)},
        },
    }


def _open(model: str, weights: str | None, base: Path) -> tuple[Path, StoredTensors]:
    if weights is None and not local_path(model, base).is_dir():
        raise CheckpointError(f"the model {model!r} comes without weights; name them in [backbone] weights")
    path = find_weights(weights or model, base, model)
    return path, open_tensors(path)


def _build(text: dict[str, Any], source: str, device: str) -> torch.nn.Module:
    """Build open_clip's text tower with any values, or on the device `meta` without values, whatever its size."""
    try:
        # Its random initial values are replaced, and nobody else's may change.
        with torch.random.fork_rng(devices=[]), torch.device(device):
            tower: torch.nn.Module = open_clip.CustomTextCLIP(vision_cfg=dict(_LEAST_VISION), **text).text
    except Exception as error:  # open_clip checks few fields, and fails wherever a wrong one is used
        raise CheckpointError(f"{source}: open_clip cannot build the text tower ({error}); correct text_cfg") from error
    return tower


def _load(
    transformer: torch.nn.Module,
    source: tuple[Path, StoredTensors],
    layers: int,
    read: Callable[[Path, StoredTensors, str], Tensor],
) -> None:
    """Fill open_clip's text tower from a file in open_clip's or Hugging Face's names, every parameter from its own tensor."""
    path, tensors = source
    keys = {name: key for key, name in without_module(tensors.names()).items()}
    if any(name.startswith("text_model.") for name in keys):
        wanted = hugging_face_text_keys(layers)
    else:
        prefix = "text." if "text.token_embedding.weight" in keys else ""
        keys = {name.removeprefix(prefix): key for name, key in keys.items() if name.startswith(prefix)}
        wanted = {name: (name,) for name in transformer.state_dict()}
    there = {name for name in keys if name.startswith(_TEXT_KEYS) and not name.endswith("position_ids")}
    if not there:
        raise CheckpointError(f"{path} holds no text tower; name the whole model's weights, or give each task a head")
    needed = {key for parts in wanted.values() for key in parts}
    if odd := sorted(needed ^ there):
        raise CheckpointError(
            f"{path} does not fit the text tower of the configuration: {len(needed - there)} tensors are missing, "
            f"{len(there - needed)} unexpected, such as {odd[0]}; name the configuration these weights were trained with"
        )
    for name, parameter in transformer.state_dict().items():
        parts = [read(path, tensors, keys[key]) for key in wanted[name]]
        if wanted[name] == ("text_projection.weight",) and name == "text_projection" and parts[0].ndim == 2:
            parts = [parts[0].T]  # a Linear's weight in Hugging Face, a plain matrix in open_clip
        each = (parameter.shape[0] // len(parts), *parameter.shape[1:])
        if any(part.shape != each for part in parts):
            raise CheckpointError(
                f"{path}: {keys[wanted[name][0]]} does not fit the text tower, whose {name} is {list(parameter.shape)}; name "
                "the configuration these weights were trained with"
            )
        parameter.copy_(torch.cat(parts))


def _hollow(path: Path, tensors: StoredTensors, key: str) -> Tensor:
    return torch.empty(tensors.shape(key), device="meta")
