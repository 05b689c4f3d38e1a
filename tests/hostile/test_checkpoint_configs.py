"""Configurations with values of every type in every field: an architecture, or one short error that names the file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_clip import tiny_config, write_open_clip

from mingle_edge.checkpoints import read_architecture
from mingle_edge.checkpoints.config_fields import MOST_LAYERS
from mingle_edge.checkpoints.text_tower import build_text_tower
from mingle_edge.core.errors import CheckpointError

# As JSON: Python reads and writes NaN and Infinity, too.
VALUES = (None, True, 0, -1, 10**400, 1.5, 1e300, float("nan"), float("inf"), "", "x" * 10**5, [], [1, 2], [[]], {}, {"a": {}})
HUGGING_FACE = {
    "model_type": "clip_vision_model",
    "hidden_size": 48,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("configs")
    write_open_clip(base / "whole.safetensors")
    (base / "hub").mkdir()
    return base


def is_read(base: Path, name: str, **files: Any) -> bool:
    """Whether the model `name` is read once files in its folder hold these values; if not, the error is of our kind."""
    for file, record in files.items():
        (base / (f"hub/{file}.json" if name == "hub" else f"{file}.json")).write_text(json.dumps(record))
    try:
        read_architecture(name, base)
    except CheckpointError as error:
        message = str(error)
    else:
        return True
    assert str(base / name) in message
    assert len(message) < 1000
    return False


VISION = [field.name for field in fields(open_clip.CLIPVisionCfg) if not field.name.startswith("timm")]
FREE = {"patch_dropout", "final_ln_after_pool", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "patch_drop"}
"""What matters in training only, or is the same for the class token."""


def vision(**changes: Any) -> dict[str, Any]:
    """The tiny configuration of open_clip with other fields of its tower."""
    record = tiny_config()
    return record | {"vision_cfg": record["vision_cfg"] | changes}


@pytest.mark.parametrize("name", VISION)
def test_vision_fields_of_open_clip(base: Path, name: str) -> None:
    assert sum(is_read(base, "model.json", model=vision(**{name: value})) for value in VALUES) <= 5 or name in FREE


@pytest.mark.parametrize(("name", "value"), [("layers", MOST_LAYERS + 1), ("mlp_ratio", 65000.0), ("width", 1 << 17)])
def test_towers_too_large_to_be_any(base: Path, name: str, value: float) -> None:
    assert not is_read(base, "model.json", model=vision(**{name: value}))


@pytest.mark.parametrize("name", ["timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias", "image_size"])
def test_fields_of_timm(base: Path, name: str) -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
    assert is_read(base, "model.json", model={"embed_dim": 24, "vision_cfg": vision})
    for value in VALUES:
        taken = is_read(base, "model.json", model={"embed_dim": 24, "vision_cfg": vision | {name: value}})
        sound = {"timm_model_name": not value, "timm_pool": not value, "timm_proj": not value, "timm_proj_bias": value is True}
        assert taken == sound.get(name, False), value


def test_the_rest_of_open_clip(base: Path) -> None:
    for value in VALUES:
        for name in ("embed_dim", "vision_cfg", "quick_gelu", "model_cfg"):
            sound = [("quick_gelu", True), ("vision_cfg", {})]  # all defaults
            assert is_read(base, "model.json", model=tiny_config() | {name: value}) == ((name, value) in sound)
    triples = [[True, 1, 1], [1, 1, 10**400], [1, 1, float("nan")], [1, 1, "1"], [1e-45, 1, 1]]  # no pixels are divided by
    for name in ("mean", "std", "size", "mode", "interpolation", "resize_mode"):
        for value in [*VALUES, *(triples if name == "std" else [])]:
            wrapped = {"model_cfg": tiny_config(), "preprocess_cfg": {name: value}}
            assert is_read(base, "model.json", model=wrapped) == (value is None)  # which is nothing said


def test_fields_of_hugging_face(base: Path) -> None:
    assert is_read(base, "hub", config=HUGGING_FACE, preprocessor_config={})
    for name in HUGGING_FACE:  # None is no value; an epsilon may be 1.5
        assert sum(is_read(base, "hub", config=HUGGING_FACE | {name: value}) for value in VALUES) <= 3
    for name in ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor", "do_resize"):
        taken = [is_read(base, "hub", config=HUGGING_FACE, preprocessor_config={name: value}) for value in VALUES]
        assert sum(taken) <= 2  # None, and True where that is right


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 1 << 16, "heads": 1},  # of 206 GB, had it been built for the file to be compared with
        {"layers": MOST_LAYERS + 1},
        {"layers": 10**400},
        {"mlp_ratio": float("inf")},
        {"norm_kwargs": {"eps": "small"}},
        {"norm_kwargs": 3},
        {"ls_init_value": "x"},
        {"x" * 1000: 1},
    ],
    ids=lambda changes: next(iter(changes))[:20],
)
def test_text_towers(base: Path, changes: dict[str, Any]) -> None:
    record = tiny_config()
    (base / "text.json").write_text(json.dumps(record | {"text_cfg": record["text_cfg"] | changes}))
    with pytest.raises(CheckpointError, match=r"text\.json|whole\.safetensors"):
        build_text_tower("text.json", "whole.safetensors", base)


def test_a_text_tower_leaves_the_default_device(base: Path) -> None:
    (base / "text.json").write_text(json.dumps(tiny_config()))
    build_text_tower("text.json", "whole.safetensors", base)
    assert torch.zeros(1).device.type == "cpu"
