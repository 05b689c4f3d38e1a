"""CLIP's text tower as open_clip builds it, filled from weights in the names of open_clip or Hugging Face."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from mingle_edge.checkpoints.class_embeddings import TextTower
from mingle_edge.checkpoints.config_fields import MOST_LAYERS, positive, size
from mingle_edge.checkpoints.finite_tensors import read_finite
from mingle_edge.checkpoints.hugging_face_architecture import hugging_face_activation
from mingle_edge.checkpoints.hugging_face_text_names import hugging_face_text_keys
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.open_clip_architecture import open_clip_activation
from mingle_edge.checkpoints.stored_tensors import StoredTensors
from mingle_edge.checkpoints.tower_names import model_names
from mingle_edge.checkpoints.transformers_text_tower import GIVE_A_HEAD, load_tokenizer
from mingle_edge.core.errors import CheckpointError, shown

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


def build_clip_text_tower(config: ModelConfig, path: Path, tensors: StoredTensors) -> TextTower:
    """Build the text tower that open_clip makes of a configuration, in its own names or Hugging Face's, from these weights.

    Raises:
        CheckpointError: no text tower there, one whose tokenizer is not there, or weights that do not fit it.
    """
    text = _open_clip_text(config) if config.kind == "open_clip" else _hugging_face_text(config)
    for name in ("context_length", "vocab_size", "width", "heads"):
        size(text["text_cfg"], name, config.source, "text_cfg.")
    layers = size(text["text_cfg"], "layers", config.source, "text_cfg.", MOST_LAYERS)
    tokenize, tokens, entries, called = _tokenizer(config, text["text_cfg"])
    if text["text_cfg"]["vocab_size"] < entries:
        raise CheckpointError(
            f"{config.source}: the text tower's vocabulary has {text['text_cfg']['vocab_size']} entries, {called} "
            f"{entries}; {GIVE_A_HEAD}"
        )
    hollow = _build(text, config.source, "meta")
    _load(hollow, (path, tensors), layers, _hollow)  # weights that do not fit are found before a tower of any size takes memory
    transformer = _build(text, config.source, "cpu")
    _load(transformer, (path, tensors), layers, read_finite)
    transformer.eval().requires_grad_(False)
    tower = TextTower(lambda prompts: transformer(tokenize(prompts)), tokens, text["text_cfg"]["context_length"], called)
    try:
        tower.encode([""])
    except Exception as error:  # open_clip looks at some fields only when it runs
        raise CheckpointError(f"{config.source}: open_clip cannot run the text tower ({error}); correct text_cfg") from error
    return tower


def _tokenizer(
    config: ModelConfig, text: dict[str, Any]
) -> tuple[Callable[[list[str]], Tensor], Callable[[str], list[int]], int, str]:
    """Return a tokenizer: n prompts -> tokens `[n, context]`; one prompt -> tokens; its entries; what messages call it."""
    context: int = text["context_length"]
    if not text.get("hf_tokenizer_name"):
        clip = open_clip.SimpleTokenizer(context_length=context)
        return (
            clip,
            lambda prompt: [clip.sot_token_id, *clip.encode(prompt), clip.eot_token_id],
            clip.vocab_size,
            "CLIP's tokenizer",
        )
    folder, kwargs = Path(config.source).parent, text.get("tokenizer_kwargs") or {}
    vocabulary = load_tokenizer(folder)
    try:
        own = open_clip.tokenizer.HFTokenizer(str(folder), context, local_files_only=True, **kwargs)
    except Exception as error:  # of open_clip and transformers, for arguments that may be anything
        raise CheckpointError(
            f"{config.source}: open_clip cannot read the tokenizer in {folder} with text_cfg.tokenizer_kwargs {shown(kwargs)} "
            f"({error}); correct them, or {GIVE_A_HEAD}"
        ) from error
    return (
        own,
        lambda prompt: list(vocabulary(own.clean_fn(prompt))["input_ids"]),
        len(vocabulary),
        f"the tokenizer in {folder}",
    )


def _open_clip_text(config: ModelConfig) -> dict[str, Any]:
    text = config.model.get("text_cfg")
    if not isinstance(text, dict):
        raise CheckpointError(f"{config.source} describes no text tower (text_cfg); give each task a head")
    names = ["hf_model_name", "tokenizer_mode", *([] if text.get("hf_tokenizer_name") else ["tokenizer_kwargs"])]
    for name in names:
        if text.get(name):
            raise CheckpointError(
                f"{config.source}: text_cfg.{name} is {shown(text[name])}, but only open_clip's own text towers are read, with "
                f"CLIP's tokenizer or one in the model's folder; {GIVE_A_HEAD}"
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
            f"{GIVE_A_HEAD}"
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
            "act_kwargs": {"approximate": "tanh"} if activation == "gelu_tanh" else None,
        },
    }


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
    keys = {name: key for key, name in model_names(tensors.names()).items()}
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
