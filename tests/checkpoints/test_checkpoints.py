"""Checkpoints as open_clip and transformers write them: every value in its place, so that the tower gives their embeddings."""

import hashlib
import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import (
    hugging_face_model,
    tiny_config,
    tiny_model,
    write_config,
    write_hugging_face,
    write_open_clip,
    write_task,
)
from torch import Tensor

from mingle_edge.checkpoints import Checkpoint, check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import embed_images

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KINDS = ("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


def embedded(checkpoint: Checkpoint, architecture: VisionArchitecture) -> Tensor:
    return embed_images(IMAGES, dict(checkpoint.tensors()), architecture)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize(("visual_only", "prefix"), [(False, "visual."), (True, "visual."), (True, "")])
def test_open_clip_file(tmp_path: Path, architecture: VisionArchitecture, suffix: str, visual_only: bool, prefix: str) -> None:
    write_open_clip(tmp_path / f"tower{suffix}", visual_only=visual_only, prefix=prefix)
    checkpoint = open_checkpoint(f"tower{suffix}", base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    assert set(checkpoint.names()) == set(architecture.parameter_shapes())
    assert checkpoint.unexpected == []
    assert checkpoint.has_text_tower is not visual_only
    assert checkpoint.path == tmp_path / f"tower{suffix}"
    torch.testing.assert_close(embedded(checkpoint, architecture), tiny_model().encode_image(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_names_from_training_on_several_devices(tmp_path: Path, architecture: VisionArchitecture, suffix: str) -> None:
    state = {f"module.{name}": tensor for name, tensor in tiny_model().state_dict().items()}
    path = tmp_path / f"epoch{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    else:
        save_file(state, path)
    checkpoint = open_checkpoint(path.name, base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    torch.testing.assert_close(embedded(checkpoint, architecture), tiny_model().encode_image(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", [None, True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_folder(tmp_path: Path, architecture: VisionArchitecture, kind: str, prefix: bool | None) -> None:
    write_hugging_face(tmp_path / "folder", kind=kind, prefix=prefix)
    model = hugging_face_model(kind=kind)
    checkpoint = open_checkpoint("folder", base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=kind != "CLIPVisionModel")
    parameters = dict(checkpoint.tensors())
    if kind == "CLIPModel":
        features = model.get_image_features(pixel_values=IMAGES)
        expected = getattr(features, "pooler_output", features)  # a plain tensor before transformers 5
    elif kind == "CLIPVisionModel":
        assert set(architecture.parameter_shapes()) - set(checkpoint.names()) == {"projection.weight"}
        parameters["projection.weight"] = torch.eye(architecture.width)
        expected = model(IMAGES).pooler_output
    else:
        expected = model(IMAGES).image_embeds
    assert checkpoint.has_text_tower is (kind == "CLIPModel")
    torch.testing.assert_close(embed_images(IMAGES, parameters, architecture), expected, rtol=1e-5, atol=1e-5)


def test_hugging_face_file_outside_a_folder(tmp_path: Path, architecture: VisionArchitecture) -> None:
    write_hugging_face(tmp_path / "folder", kind="CLIPVisionModelWithProjection")
    (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "tower.safetensors")
    checkpoint = open_checkpoint("tower.safetensors", base=tmp_path, architecture=architecture)
    expected = hugging_face_model(kind="CLIPVisionModelWithProjection")(IMAGES).image_embeds
    torch.testing.assert_close(embedded(checkpoint, architecture), expected, rtol=1e-5, atol=1e-5)


def test_shards(tmp_path: Path, architecture: VisionArchitecture) -> None:
    model = hugging_face_model(kind="CLIPVisionModelWithProjection")
    model.save_pretrained(tmp_path / "folder", max_shard_size="100KB")
    shards = sorted((tmp_path / "folder").glob("*.safetensors"))
    assert len(shards) > 1
    checkpoint = open_checkpoint("folder", base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    torch.testing.assert_close(embedded(checkpoint, architecture), model(IMAGES).image_embeds, rtol=1e-5, atol=1e-5)
    assert checkpoint.sha256() == hashlib.sha256(b"".join(shard.read_bytes() for shard in shards)).hexdigest()


def test_old_hugging_face_archive_with_position_ids(tmp_path: Path, architecture: VisionArchitecture) -> None:
    folder = tmp_path / "folder"
    write_hugging_face(folder, prefix=True)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, folder / "pytorch_model.bin")
    checkpoint = open_checkpoint("folder", base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    assert set(checkpoint.names()) == set(architecture.parameter_shapes())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_other_precisions_become_float32(
    tmp_path: Path, architecture: VisionArchitecture, dtype: torch.dtype, suffix: str
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in tiny_model().visual.state_dict().items()}
    path = tmp_path / f"tower{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    checkpoint = open_checkpoint(path.name, base=tmp_path, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=True)
    q, k, v = state["transformer.resblocks.1.attn.in_proj_weight"].float().chunk(3)
    for name, expected in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(checkpoint.tensor(f"blocks.1.{name}.weight"), expected)


def test_tensors_are_the_callers_own(tmp_path: Path, architecture: VisionArchitecture) -> None:
    write_open_clip(tmp_path / "tower.pt")
    checkpoint = open_checkpoint("tower.pt", base=tmp_path, architecture=architecture)
    before = checkpoint.sha256()
    for name, tensor in checkpoint.tensors():
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.float32
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name  # no view of a larger tensor kept alive
        tensor.zero_()
    assert float(checkpoint.tensor("blocks.0.q.weight").abs().sum()) > 0
    assert checkpoint.sha256() == before == hashlib.sha256((tmp_path / "tower.pt").read_bytes()).hexdigest()


def test_task_differs_from_its_backbone_by_a_low_rank_everywhere(tmp_path: Path, architecture: VisionArchitecture) -> None:
    write_open_clip(tmp_path / "backbone.safetensors")
    write_task(tmp_path / "task.safetensors", tmp_path / "backbone.safetensors", seed=1, linear_rank=2)
    backbone, task = (
        open_checkpoint(f"{name}.safetensors", base=tmp_path, architecture=architecture) for name in ("backbone", "task")
    )
    for name in architecture.parameter_shapes():
        difference = (task.tensor(name) - backbone.tensor(name)).double()
        assert difference.abs().max() > 0
        if name.removesuffix(".weight") in architecture.linear_layers():
            values = torch.linalg.svdvals(difference)
            assert values[2] < 1e-4 * values[0], name


def test_pretrained_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip resolves the tag; only its download is replaced."""
    config = tiny_config() | {"quick_gelu": True}
    (tmp_path / "ViT-B-32-quickgelu.json").write_text(json.dumps(config))
    write_open_clip(tmp_path / "cached.safetensors")
    asked = []

    def download(cfg: dict[str, object]) -> str:
        asked.append(cfg["hf_hub"])
        return str(tmp_path / "cached.safetensors")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    architecture = read_architecture("ViT-B-32-quickgelu.json", tmp_path)
    checkpoint = open_checkpoint("openai", base=tmp_path, architecture=architecture, model="ViT-B-32-quickgelu")
    assert asked == ["timm/vit_base_patch32_clip_224.openai/"]
    torch.testing.assert_close(embedded(checkpoint, architecture), tiny_model().encode_image(IMAGES), rtol=1e-5, atol=1e-5)
