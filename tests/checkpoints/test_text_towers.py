"""Text towers whose tokenizer lies in their own folder: class embeddings are those of the libraries that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file, save_file
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor

from mingle_edge.checkpoints.class_embeddings import class_embeddings
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.checkpoints.text_tower import build_text_tower
from mingle_edge.checkpoints.transformers_text_tower import build_transformers_text_tower
from mingle_edge.core.errors import CheckpointError, TaskFileError

CLASSES, TEMPLATES = ["cat", "dog", "owl"], ["a {}", "the {} owl"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "cat", "dog", "owl", "##s"]
TEXT = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"max_position_embeddings": 9, "projection_dim": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}
VISION |= {"image_size": 16, "patch_size": 8}


def write_tokenizer(folder: Path, **options: Any) -> None:
    """Words in lower case between two special tokens, as transformers stores any fast tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options).save_pretrained(folder)


def random_model(kind: str) -> Any:
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VISION, projection_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def head(features: Tensor) -> Tensor:
    """What zero-shot CLIP makes of text features `[classes * templates, dim]`."""
    return F.normalize(F.normalize(features, dim=-1).reshape(len(CLASSES), len(TEMPLATES), -1).mean(1), dim=-1)


PROMPTS = [template.replace("{}", name) for name in CLASSES for template in TEMPLATES]


@pytest.mark.parametrize(
    ("kind", "padding", "given"),
    [
        ("Siglip", {"padding": "max_length", "max_length": 9}, ["input_ids"]),
        ("ChineseCLIP", {"padding": True}, ["input_ids", "attention_mask", "token_type_ids"]),
        ("MetaClip2", {"padding": True}, ["input_ids", "attention_mask"]),
    ],
)
def test_a_folder_of_transformers(tmp_path: Path, kind: str, padding: dict[str, Any], given: list[str]) -> None:
    model = random_model(kind)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, model_input_names=given)
    path = tmp_path / "model.safetensors"
    tower = build_transformers_text_tower(tmp_path, path, open_tensors(path))
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(PROMPTS, return_tensors="pt", **padding)
    assert set(tokens) == set(given)
    expected = head(model.get_text_features(**tokens).pooler_output)
    torch.testing.assert_close(class_embeddings(tower, CLASSES, TEMPLATES), expected, rtol=0, atol=1e-6)
    with pytest.raises(TaskFileError, match="'Cat' and 'cat' are the same tokens to the tokenizer in "):
        class_embeddings(tower, ["Cat", "cat"], TEMPLATES)
    with pytest.raises(CheckpointError, match="has 10 tokens, the text tower reads 9; shorten it"):
        tower.encode(["cat " * 8])


def test_weights_outside_the_folder(tmp_path: Path) -> None:
    """A task's whole model may be a file, whose text tower the backbone's folder describes."""
    model = random_model("Siglip")
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    weights = tmp_path / "model.safetensors"
    before = build_transformers_text_tower(tmp_path, weights, open_tensors(weights)).encode(["a cat"])
    state = load_file(weights)
    state["text_model.head.bias"] = state["text_model.head.bias"] + 1
    save_file(state, tmp_path / "task.safetensors")
    task = tmp_path / "task.safetensors"
    after = build_transformers_text_tower(tmp_path, task, open_tensors(task)).encode(["a cat"])
    torch.testing.assert_close(after, before + 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text_model.head.weight", None, "lacks text_model.head.weight of the text tower; name the whole model's weights, or"),
        ("text_model.head.weight", torch.zeros(16, 8), r"is \[16, 8\], but the text tower of config.json needs \[16, 16\]"),
        ("text_model.head.bias", torch.full((16,), torch.nan), "NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, name: str, value: Tensor | None, message: str) -> None:
    random_model("Siglip").save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    path = tmp_path / "model.safetensors"
    state = {key: tensor for key, tensor in load_file(path).items() if key != name}
    save_file(state if value is None else state | {name: value}, path)
    with pytest.raises(CheckpointError, match=message):
        build_transformers_text_tower(tmp_path, path, open_tensors(path))


def test_folders_that_transformers_cannot_build_from(tmp_path: Path) -> None:
    random_model("Siglip").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = open_tensors(path)
    with pytest.raises(
        CheckpointError, match=r"holds no tokenizer \(tokenizer.json, .* copy it there, or give each task a head"
    ):
        build_transformers_text_tower(tmp_path, path, tensors)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"transformers cannot read the tokenizer .*; correct the files, or give each task"
    ):
        build_transformers_text_tower(tmp_path, path, tensors)
    write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="transformers cannot build the text tower "):
        build_transformers_text_tower(tmp_path, path, tensors)


def test_a_vocabulary_larger_than_the_tower_s(tmp_path: Path) -> None:
    random_model("Siglip").save_pretrained(tmp_path)
    write_tokenizer(tmp_path, extra_special_tokens=["<x>", "<y>", "<z>"])
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="vocabulary has 12 entries, the tokenizer 13; give each task a head"):
        build_transformers_text_tower(tmp_path, path, open_tensors(path))


SIGLIP_TEXT = {"context_length": 9, "vocab_size": 12, "width": 16, "heads": 2, "layers": 2, "no_causal_mask": True}
SIGLIP_TEXT |= {"proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "hf_tokenizer_name": "somewhere/else"}
SIGLIP_TEXT |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "act_kwargs": {"approximate": "tanh"}}


def test_siglip_of_open_clip_with_the_tokenizer_in_its_folder(tmp_path: Path) -> None:
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}}
    config |= {"custom_text": True, "text_cfg": SIGLIP_TEXT}
    (tmp_path / "model.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = {name: value for name, value in config.items() if name != "custom_text"}
        model = open_clip.CustomTextCLIP(**built).eval().requires_grad_(False)
        for parameter in model.text.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    tower = build_text_tower("model.json", "whole.safetensors", tmp_path)
    tokens = HFTokenizer(str(tmp_path), 9, clean="canonicalize")(PROMPTS)
    expected = head(model.encode_text(tokens))
    torch.testing.assert_close(class_embeddings(tower, CLASSES, TEMPLATES), expected, rtol=0, atol=1e-6)
    with pytest.raises(TaskFileError, match="'cat!' and 'cat' are the same tokens"):  # canonical text has no punctuation
        class_embeddings(tower, ["cat!", "cat"], TEMPLATES)
