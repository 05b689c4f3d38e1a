"""Architectures from the configuration files of both libraries, and the fields that the tower cannot express."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_clip import tiny_config, write_config, write_hugging_face

from mingle_edge.checkpoints import read_architecture
from mingle_edge.checkpoints.hugging_face_architecture import DEFAULTS
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, OPENAI_STD, Preprocess

TINY = VisionArchitecture(
    preprocess=Preprocess(32), patch_size=8, width=48, layers=3, heads=3, mlp_width=192, output_dim=32, activation="quick_gelu"
)


@pytest.mark.parametrize(
    ("name", "patch", "width", "layers", "heads", "output", "activation"),
    [
        ("ViT-B-32", 32, 768, 12, 12, 512, "gelu"),
        ("ViT-B-32-quickgelu", 32, 768, 12, 12, 512, "quick_gelu"),
        ("ViT-B-16", 16, 768, 12, 12, 512, "gelu"),
        ("ViT-L-14-quickgelu", 14, 1024, 24, 16, 768, "quick_gelu"),
    ],
)
def test_open_clip_names(
    tmp_path: Path, name: str, patch: int, width: int, layers: int, heads: int, output: int, activation: Any
) -> None:
    expected = VisionArchitecture(Preprocess(224), patch, width, layers, heads, 4 * width, output, activation)
    assert read_architecture(name, tmp_path) == expected


def test_a_tag_brings_its_own_normalisation(tmp_path: Path) -> None:
    tagged = read_architecture("ViT-L-14", tmp_path, "laion2b_s32b_b82k")
    assert tagged.preprocess.mean == (0.5, 0.5, 0.5)
    assert read_architecture("ViT-L-14", tmp_path).preprocess.mean == OPENAI_MEAN
    assert read_architecture("ViT-H-14", tmp_path, "dfn5b").preprocess.resize == "squash"


@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_both_libraries_describe_the_same_tower(tmp_path: Path, kind: str) -> None:
    write_config(tmp_path / "model.json")
    write_hugging_face(tmp_path / "folder", kind=kind)
    assert read_architecture("model.json", tmp_path) == TINY
    assert replace(read_architecture("folder", tmp_path), preprocess=TINY.preprocess) == TINY


def test_hub_configuration_with_preprocessing(tmp_path: Path) -> None:
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": tiny_config(), "preprocess_cfg": preprocess | {"size": [32, 32], "fill_color": 0}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    architecture = read_architecture("open_clip_config.json", tmp_path)
    assert (architecture.preprocess.mean, architecture.preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("unified", [False, True])
def test_image_processor_beside_the_model(tmp_path: Path, unified: bool) -> None:
    write_hugging_face(tmp_path, kind="CLIPVisionModel")
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path)
    if unified:  # as CLIPProcessor saves it from transformers 5 on
        record = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": record}))
    architecture = read_architecture(".", tmp_path)
    assert (architecture.preprocess.mean, architecture.preprocess.std) == ((0.5, 0.4, 0.3), OPENAI_STD)


def test_values_that_transformers_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    expected = transformers.CLIPVisionConfig()
    architecture = read_architecture(".", tmp_path)
    assert architecture == VisionArchitecture(
        preprocess=replace(architecture.preprocess, image_size=expected.image_size),
        patch_size=expected.patch_size,
        width=expected.hidden_size,
        layers=expected.num_hidden_layers,
        heads=expected.num_attention_heads,
        mlp_width=expected.intermediate_size,
        output_dim=expected.projection_dim,
        activation=expected.hidden_act,
        layer_norm_eps=expected.layer_norm_eps,
    )


def test_the_dictionaries_of_old_files_win(tmp_path: Path) -> None:
    vision = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
    record = {"model_type": "clip", "projection_dim": 768, "vision_config": {}, "vision_config_dict": vision}
    (tmp_path / "config.json").write_text(json.dumps(record))
    architecture = read_architecture(".", tmp_path)
    assert (architecture.width, architecture.patch_size, architecture.output_dim) == (1024, 14, 768)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("timm_model_name", "resnet50", "a plain vision transformer, and its ResNet consists of convolutions"),
        ("timm_model_name", "hf-hub:someone/something", "the name of a model of timm"),  # never leads to the network
        ("layers", [3, 4, 6, 3], "one number, for ResNets are not transformers"),
        ("layers", 0, "a whole number"),
        ("layers", 10**9, "a whole number"),
        ("width", True, "a whole number"),
        ("attentional_pool", "cascade", "False or None or True"),
        ("attentional_pool", "parallel", "False or None or True"),
        ("pool_type", "none", "'tok' or 'avg'"),
        ("no_ln_pre", "yes", "true or false"),
        ("pos_embed_type", "rope", "'learnable' or 'sin_cos_2d'"),
        ("ls_init_value", "small", "a positive number"),
        ("qk_norm", True, "False"),
        ("block_type", "custom", "None"),
        ("act_kwargs", {"approximate": "tanh"}, "absent, for QuickGELU has no options"),
        ("norm_kwargs", {"elementwise_affine": False}, "eps alone"),
        ("head_width", 20, "a divisor of the width, 48"),
        ("patch_size", [8, 4], "one number, or two equal ones"),
        ("image_size", [32, 40], "one number, or two equal ones"),
        ("mlp_ratio", -1, "a positive number"),
        ("mlp_ratoi", 4, "absent"),
    ],
)
def test_open_clip_field_that_cannot_be_expressed(tmp_path: Path, field: str, value: Any, rule: str) -> None:
    config = tiny_config()
    config["vision_cfg"][field] = value
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as refused:
        read_architecture("model.json", tmp_path)
    assert f"{field} is {value!r}, but must be {rule}" in str(refused.value)
    assert "model.json" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "silu"),
        ("num_channels", 4),
        ("image_size", 7),
        ("num_attention_heads", 5),
        ("hidden_size", "48"),
        ("layer_norm_eps", 0),
    ],
)
@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel"])
def test_hugging_face_field_that_cannot_be_expressed(tmp_path: Path, kind: str, field: str, value: Any) -> None:
    write_hugging_face(tmp_path, kind=kind)
    record = json.loads((tmp_path / "config.json").read_text())
    (record["vision_config"] if kind == "CLIPModel" else record)[field] = value
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"config\.json: .* must (be|divide|fit)"):
        read_architecture(".", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[1]", "must hold a JSON object, not a list"),
        ("{}", "needs embed_dim and vision_cfg"),
        ('{"embed_dim": 32, "vision_cfg": 3}', "vision_cfg is 3, but must be an object"),
        ('{"embed_dim": 32, "vision_cfg": {}, "quick_gelu": "yes"}', "quick_gelu is 'yes', but must be true or false"),
        ('{"model_cfg": [], "preprocess_cfg": {}}', "needs embed_dim and vision_cfg"),
        (
            '{"model_cfg": {"embed_dim": 8, "vision_cfg": {}}, "preprocess_cfg": {"std": [1, 0, 1]}}',
            "must be positive, from 0.001",
        ),
        pytest.param("[" * 100_000, "cannot be read as JSON", id="nested"),
    ],
)
def test_damaged_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_architecture("model.json", tmp_path)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'ViT-B/32' is neither .* the nearest names are ViT-B-32"):
        read_architecture("ViT-B/32", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_architecture("empty", tmp_path)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"model_type is 'bert', but must be one of clip, .*dinov2_with_registers"):
        read_architecture("empty", tmp_path)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    config = transformers.CONFIG_MAPPING[kind]()
    vision = getattr(config, "vision_config", config)
    assert DEFAULTS[kind] == {name: getattr(vision, name, 0) for name in DEFAULTS[kind]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "a siglip2 reads images of any shape"),
        ({"model_type": "dinov3_vit"}, "a dinov3_vit rotates queries and keys by position"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "use_swiglu_ffn is True, but must be false"),
        ({"model_type": "dinov2_with_registers", "num_register_tokens": -1}, "a whole number"),
        ({"model_type": "siglip_vision_model", "vision_use_head": False}, "vision_use_head is False, but must be true"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "vision_config.vision_use_head is False"),
        ({"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}, "a single classifier"),
        ({"model_type": "vit", "architectures": "ViTModel"}, "a list of names"),
        ({"model_type": "vit", "hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_hugging_face_models_of_other_kinds(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_architecture(".", tmp_path)
