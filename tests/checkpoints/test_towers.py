"""Towers of every kind, as their libraries save them: read, they give the library's own embeddings, in PyTorch and in ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_towers import KINDS, SIDE, Kind
from torch import Tensor

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import embed_images, normalize
from mingle_edge.core.errors import CheckpointError
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tower, pixel_graph

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def images_for(architecture: VisionArchitecture) -> Tensor:
    side = architecture.image_size
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def read(
    folder: Path, names: tuple[str, str], architecture: VisionArchitecture | None = None
) -> tuple[VisionArchitecture, dict]:
    architecture = architecture or read_architecture(names[0], folder)
    checkpoint = open_checkpoint(names[1], base=folder, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    assert checkpoint.unexpected == []
    return architecture, dict(checkpoint.tensors())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_embeddings_are_the_library_s_own(tmp_path: Path, kind: Kind) -> None:
    model = kind.model()
    names = kind.write(tmp_path, model)
    architecture, parameters = read(tmp_path, names)
    assert {name: tuple(value.shape) for name, value in parameters.items()} == architecture.parameter_shapes()
    images = images_for(architecture)
    expected = kind.embed(model, images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(embed_images(images, parameters, architecture) / scale, expected / scale, **CLOSE)
    exported = run_exported(tmp_path, architecture, parameters, images) / scale
    torch.testing.assert_close(exported, normalize(expected, architecture) / scale, **CLOSE)


def run_exported(folder: Path, architecture: VisionArchitecture, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
    with (folder / "backbone.bin").open("wb") as file:
        arrays = {name: value.numpy() for name, value in parameters.items()}
        Tower(pixel_graph("dense", architecture), Backbone(architecture, arrays, WeightFile(file, "backbone.bin"))).write(
            folder / "dense.onnx"
        )
    session = ort.InferenceSession(folder / "dense.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {PIXELS: images.numpy()})[0])


# What a model's own embedding does not depend on: keys' biases, which a softmax takes away, and layers its head does not read.
UNREAD = {
    "CLIPForImageClassification": ("post_layernorm", "classifier"),
    "SiglipForImageClassification": (".head.", "classifier"),
    "ViTModel": ("pooler",),
    "DeiTModel": ("pooler",),
    "Dinov2ForImageClassification": ("mask_token", "classifier"),
    "Dinov2WithRegistersForImageClassification": ("mask_token", "classifier"),
}
SENSITIVE = [
    "open_clip, LayerScale", "open_clip, CoCa", "timm, SigLIP", "timm, registers", "timm, EVA", "SiglipVisionModel", "ViTModel",
    "DeiTModel", "Dinov2WithRegistersForImageClassification", "CLIPForImageClassification", "SiglipForImageClassification",
]  # fmt: skip


@pytest.mark.parametrize("name", SENSITIVE)
def test_every_tensor_counts_as_in_the_library(tmp_path: Path, name: str) -> None:
    """Change one tensor of the file after the other: the embedding changes as the library's does."""
    kind = KINDS[name]
    model = kind.model()
    names = kind.write(tmp_path, model)
    architecture, _ = read(tmp_path, names)
    images, path = images_for(architecture), kind.weights(tmp_path)
    before, state = kind.embed(model, images), load_file(path)
    generator = torch.Generator().manual_seed(1)
    for key in state:
        if key.startswith(("text", "logit")):
            continue
        changed = state[key] + 0.2 * torch.randn(state[key].shape, generator=generator)
        save_file(state | {key: changed}, path, metadata={"format": "pt"})
        kind.load(model, tmp_path)
        expected = kind.embed(model, images)
        scale = float(expected.abs().max())
        _, parameters = read(tmp_path, names, architecture)
        found = embed_images(images, parameters, architecture)
        torch.testing.assert_close(found / scale, expected / scale, **CLOSE, msg=lambda text, key=key: f"{key}: {text}")
        unread = key.endswith(("k_proj.bias", "key.bias")) or any(part in key for part in UNREAD.get(name, ()))
        assert ((expected - before).abs().max() > 1e-4 * scale) != unread, key


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel"])
@pytest.mark.parametrize("side", [16, 48])
def test_dinov2_reads_images_of_the_processor_s_size(tmp_path: Path, name: str, side: int) -> None:
    kind = KINDS[name]
    model = kind.model()
    names = kind.write(tmp_path, model)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    architecture, parameters = read(tmp_path, names)
    assert architecture.image_size == side != SIDE
    images = images_for(architecture)
    torch.testing.assert_close(embed_images(images, parameters, architecture), kind.embed(model, images), **CLOSE)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.config is None])
def test_a_state_dict_of_transformers_is_read_as_its_file(tmp_path: Path, name: str) -> None:
    """Of torch.save, in the names of memory, which are others than those of the file."""
    kind = KINDS[name]
    model = kind.model()
    architecture, expected = read(tmp_path, kind.write(tmp_path, model))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    _, parameters = read(tmp_path, ("", "state.pt"), architecture)
    assert parameters.keys() == expected.keys()
    for parameter, value in expected.items():
        assert torch.equal(parameters[parameter], value), parameter


def test_both_libraries_siglip_are_one_tower(tmp_path: Path) -> None:
    """What open_clip and Hugging Face store of the same SigLIP gives the same parameters."""
    kind = KINDS["SiglipVisionModel"]
    model = kind.model()
    kind.write(tmp_path, model)
    architecture, parameters = read(tmp_path, ("model", "model"))
    state = model.state_dict()
    timm_state: dict[str, Tensor] = {}
    blocks = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(2):
        for theirs, ours in blocks.items():
            for part in ("weight", "bias"):
                timm_state[f"blocks.{i}.{ours}.{part}"] = state[f"encoder.layers.{i}.{theirs}.{part}"]
        for part in ("weight", "bias"):
            parts = [state[f"encoder.layers.{i}.self_attn.{x}_proj.{part}"] for x in "qkv"]
            timm_state[f"blocks.{i}.attn.qkv.{part}"] = torch.cat(parts)
    for part in ("weight", "bias"):
        timm_state[f"patch_embed.proj.{part}"] = state[f"embeddings.patch_embedding.{part}"]
        timm_state[f"norm.{part}"] = state[f"post_layernorm.{part}"]
        q, kv = state[f"head.attention.in_proj_{part}"].tensor_split([48])
        timm_state |= {f"attn_pool.q.{part}": q, f"attn_pool.kv.{part}": kv}
        pool = {"attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        timm_state |= {f"attn_pool.{ours}.{part}": state[f"head.{theirs}.{part}"] for theirs, ours in pool.items()}
    timm_state |= {"pos_embed": state["embeddings.position_embedding.weight"][None], "attn_pool.latent": state["head.probe"]}
    save_file({f"visual.trunk.{name}": value.contiguous() for name, value in timm_state.items()}, tmp_path / "timm.safetensors")
    _, others = read(tmp_path, ("", "timm.safetensors"), architecture)
    assert parameters.keys() == others.keys()
    for name, value in parameters.items():
        np.testing.assert_array_equal(others[name].numpy(), value.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("pretrained", "finetuned"), [("CLIPModel", "CLIPForImageClassification"), ("SiglipModel", "SiglipForImageClassification")]
)
def test_image_classifiers_of_a_model_with_a_text_tower(tmp_path: Path, pretrained: str, finetuned: str) -> None:
    """They pool otherwise: the architecture is the classifier's, and the backbone's weights are the pretrained model's."""
    for name in (pretrained, finetuned):
        (tmp_path / name).mkdir()
        KINDS[name].write(tmp_path / name, KINDS[name].model())
    theirs, ours = (f"{name}/model" for name in (pretrained, finetuned))
    with pytest.raises(CheckpointError, match=r"pooling average instead of .*; let \[backbone\] model name "):
        open_checkpoint(ours, base=tmp_path, architecture=read_architecture(theirs, tmp_path))
    architecture = read_architecture(ours, tmp_path)
    opened = open_checkpoint(theirs, base=tmp_path, architecture=architecture, model=ours)
    check_checkpoint(opened, architecture, backbone=True)
    images, model = images_for(architecture), KINDS[pretrained].model()
    hidden = model.vision_model(pixel_values=images).last_hidden_state
    expected = (hidden[:, 1:] if "CLIP" in pretrained else hidden).mean(1)
    torch.testing.assert_close(embed_images(images, dict(opened.tensors()), architecture), expected, **CLOSE)
