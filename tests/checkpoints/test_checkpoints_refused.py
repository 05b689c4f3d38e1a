"""Checkpoints that must not be merged: other architectures, damaged values, and files that are not what they claim to be."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import tiny_model, write_config, write_hugging_face, write_open_clip
from torch import Tensor

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


def refused(tmp_path: Path, name: str, architecture: VisionArchitecture, *, backbone: bool = False) -> str:
    with pytest.raises(CheckpointError) as error:
        check_checkpoint(open_checkpoint(name, base=tmp_path, architecture=architecture), architecture, backbone=backbone)
    return str(error.value)


def visual(**changes: Tensor | None) -> dict[str, Tensor]:
    """The tiny visual tower with some tensors replaced, or left out where None."""
    state: dict[str, Tensor | None] = dict(tiny_model().visual.state_dict()) | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


class TestDifference:
    def test_of_another_architecture(self, tmp_path: Path) -> None:
        shapes = read_architecture("ViT-B-16", tmp_path).parameter_shapes()
        state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        names = {"patch_embedding.weight": "conv1.weight", "projection.weight": "proj"}
        names |= {"positions": "positional_embedding", "class_token": "class_embedding"}
        b16 = {names.get(name, name): tensor for name, tensor in state.items() if not name.startswith("blocks")}
        b16["conv1.weight"] = torch.zeros(1).expand(768, 3, 16, 16)
        b16["proj"] = torch.zeros(1).expand(768, 512)
        for i in range(12):
            mlp = f"transformer.resblocks.{i}.mlp.c_fc.weight"
            b16[mlp] = torch.zeros(1).expand(3072, 768)
        torch.save(b16, tmp_path / "b16.pt")
        lines = refused(tmp_path, "b16.pt", read_architecture("ViT-B-32", tmp_path)).splitlines()
        assert "b16.pt looks like ViT-B-16 (width 768, patch_size 16, layers 12, image_size 224" in lines[0]
        assert "but the backbone is ViT-B-32 (width 768, patch_size 32" in lines[0]
        assert len(lines) == 14
        assert lines[-1].startswith("  ... and ")

    def test_names_missing_unexpected_and_misshapen_tensors(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        state = visual(
            **{
                "ln_pre.weight": None,
                "positional_embedding": torch.zeros(18, 48),
                "transformer.resblocks.0.attn.in_proj_bias": torch.zeros(100),
                "transformer.resblocks.3.ln_1.bias": torch.zeros(48),
                "transformer.resblocks.0.attn.logit_scale": torch.zeros(48),
            }
        )
        save_file(state, tmp_path / "odd.safetensors")
        message = refused(tmp_path, "odd.safetensors", architecture)
        assert "  missing     ln_pre.weight [48]" in message
        assert "  unexpected  transformer.resblocks.0.attn.logit_scale" in message
        assert "  unexpected  blocks.3.ln_1.bias (transformer.resblocks.3.ln_1.bias) [48]" in message
        assert "  shape       positions (positional_embedding) is [18, 48], expected [17, 48]" in message
        assert "blocks.0.q.bias (transformer.resblocks.0.attn.in_proj_bias) is [100], expected [48]" in message

    def test_a_backbone_needs_its_projection(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        message = refused(tmp_path, "folder", architecture, backbone=True)
        assert "without visual_projection.weight" in message
        assert "CLIPVisionModelWithProjection" in message

    def test_an_open_clip_tower_needs_its_projection_always(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        save_file(visual(proj=None), tmp_path / "odd.safetensors")
        assert "  missing     projection.weight [32, 48]" in refused(tmp_path, "odd.safetensors", architecture)

    def test_a_classifier_on_top_is_another_model(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        path = tmp_path / "folder" / "model.safetensors"
        save_file(load_file(path) | {"classifier.weight": torch.zeros(10, 48)}, path)
        assert "looks like a CLIPForImageClassification of transformers" in refused(tmp_path, "folder", architecture)


class TestValues:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_not_finite(self, tmp_path: Path, architecture: VisionArchitecture, value: float, suffix: str) -> None:
        weight = visual()["transformer.resblocks.1.mlp.c_fc.weight"].clone()
        weight[3, 4:6] = value
        state = visual(**{"transformer.resblocks.1.mlp.c_fc.weight": weight})
        path = tmp_path / f"diverged{suffix}"
        if suffix == ".pt":
            torch.save(state, path)
        else:
            save_file(state, path)
        message = refused(tmp_path, path.name, architecture)
        assert "2 of 9216 values of transformer.resblocks.1.mlp.c_fc.weight (blocks.1.fc1.weight) are NaN" in message

    @pytest.mark.parametrize(
        ("replacement", "said"),
        [
            (torch.zeros(17, 48, dtype=torch.int8), "positional_embedding is int8"),
            (torch.zeros(17, 48, dtype=torch.float8_e4m3fn), "positional_embedding is float8_e4m3fn"),
            (torch.zeros(17, 48).to_sparse(), "'positional_embedding' is a sparse tensor"),
        ],
    )
    def test_not_plain_floating_point(
        self, tmp_path: Path, architecture: VisionArchitecture, replacement: Tensor, said: str
    ) -> None:
        torch.save(visual(positional_embedding=replacement), tmp_path / "quantized.pt")
        assert said in refused(tmp_path, "quantized.pt", architecture)

    def test_integers_in_safetensors(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        save_file(visual(positional_embedding=torch.zeros(17, 48, dtype=torch.int8)), tmp_path / "q.safetensors")
        assert "positional_embedding is I8" in refused(tmp_path, "q.safetensors", architecture)


class TestConfiguration:
    """What weights cannot tell: activation, heads, epsilon."""

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("hidden_act", "gelu", "activation gelu instead of quick_gelu"),
            ("num_attention_heads", 6, "heads 6 instead of 3"),
            ("layer_norm_eps", 1e-6, "layer_norm_eps 1e-06 instead of 1e-05"),
        ],
    )
    @pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel"])
    def test_of_a_folder(
        self, tmp_path: Path, architecture: VisionArchitecture, kind: str, field: str, value: Any, said: str
    ) -> None:
        write_hugging_face(tmp_path / "folder", kind=kind)
        path = tmp_path / "folder" / "config.json"
        record = json.loads(path.read_text())
        (record["vision_config"] if kind == "CLIPModel" else record)[field] = value
        path.write_text(json.dumps(record))
        assert f"describes another model than the backbone: {said}" in refused(tmp_path, "folder", architecture)

    def test_a_projection_nobody_stored_is_not_compared(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        path = tmp_path / "folder" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 512}))
        check_checkpoint(open_checkpoint("folder", base=tmp_path, architecture=architecture), architecture, backbone=False)

    def test_of_a_tag(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match="trained with quick_gelu, but 'ViT-B-32' runs gelu; name the model ViT-B-32-q"
        ):
            open_checkpoint("openai", base=tmp_path, architecture=read_architecture("ViT-B-32", tmp_path), model="ViT-B-32")
        with pytest.raises(CheckpointError, match=r"on images prepared otherwise: mean \(0.5, 0.5, 0.5\)"):
            open_checkpoint(
                "laion2b_s32b_b82k",
                base=tmp_path,
                architecture=read_architecture("ViT-L-14", tmp_path),
                model="ViT-L-14",
            )


class TestSources:
    def test_that_do_not_exist(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        assert "there is no checkpoint" in refused(tmp_path, "gone.safetensors", architecture)
        assert "neither a path in" in refused(tmp_path, "gone", architecture)
        with pytest.raises(CheckpointError, match="the tags of ViT-B-32 are openai, "):
            open_checkpoint("opneai", base=tmp_path, architecture=architecture, model="ViT-B-32")

    def test_download_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(cfg: dict[str, object]) -> str:
            raise FileNotFoundError("no route to host")

        monkeypatch.setattr(open_clip, "download_pretrained", download)
        architecture = read_architecture("ViT-B-32-quickgelu", tmp_path)
        with pytest.raises(CheckpointError, match=r"could not download .* \(no route to host\); check the network"):
            open_checkpoint("openai", base=tmp_path, architecture=architecture, model="ViT-B-32-quickgelu")

    def test_folder_without_weights(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        (tmp_path / "folder" / "model.safetensors").unlink()
        assert "holds none of model.safetensors" in refused(tmp_path, "folder", architecture)

    def test_other_suffixes_and_names(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        (tmp_path / "weights.ckpt").write_bytes(b"x")
        assert "is damaged, or neither a safetensors file nor" in refused(tmp_path, "weights.ckpt", architecture)
        save_file({"backbone.stem.weight": torch.zeros(3)}, tmp_path / "odd.safetensors")
        assert "it begins with 'backbone.stem.weight'" in refused(tmp_path, "odd.safetensors", architecture)
        save_file({}, tmp_path / "none.safetensors")
        assert "it begins with no tensor at all" in refused(tmp_path, "none.safetensors", architecture)

    @pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/shard.safetensors", 3, "shard.bin"])
    def test_shards_elsewhere(self, tmp_path: Path, architecture: VisionArchitecture, name: Any) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "outside.safetensors")
        index = {"weight_map": {"embeddings.class_embedding": name}}
        (tmp_path / "folder" / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "shards are .safetensors files beside it" in refused(tmp_path, "folder", architecture)

    @pytest.mark.parametrize(
        "index", ["{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": {}}}', pytest.param("[" * 100_000, id="nested")]
    )
    def test_damaged_index(self, tmp_path: Path, architecture: VisionArchitecture, index: str) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        (tmp_path / "folder" / "model.safetensors").unlink()
        (tmp_path / "folder" / "model.safetensors.index.json").write_text(index)
        assert "is not an index of shards" in refused(tmp_path, "folder", architecture)

    def test_missing_shard(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_hugging_face(tmp_path / "folder", kind="CLIPVisionModel")
        (tmp_path / "folder" / "model.safetensors").unlink()
        index = {"weight_map": {"embeddings.class_embedding": "model-00001-of-00002.safetensors"}}
        (tmp_path / "folder" / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "model-00001-of-00002.safetensors, which is missing" in refused(tmp_path, "folder", architecture)


class CodeRanError(Exception):
    """Code from a checkpoint was run."""


def run() -> None:
    raise CodeRanError


class Payload:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return run, ()


class TestHostile:
    def test_no_code_is_run(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        """What lies beside the weights is passed by, and what takes the place of a weight is refused."""
        torch.save({"state_dict": tiny_model().state_dict(), "hook": Payload()}, tmp_path / "beside.pt")
        torch.save(visual(proj=None) | {"proj": Payload()}, tmp_path / "within.pt")
        for name in ("beside.pt", "within.pt"):
            with pytest.raises(CodeRanError):
                torch.load(tmp_path / name, weights_only=False)
        checkpoint = open_checkpoint("beside.pt", base=tmp_path, architecture=architecture)
        check_checkpoint(checkpoint, architecture, backbone=True)
        assert checkpoint.outside == ["hook"]
        assert "'proj' is an object of test_checkpoints_refused.run" in refused(tmp_path, "within.pt", architecture)

    @pytest.mark.parametrize("content", [[1, 2], {"weight": 3}, {3: torch.zeros(1)}, torch.zeros(3)])
    def test_what_is_no_state_dict(self, tmp_path: Path, architecture: VisionArchitecture, content: object) -> None:
        torch.save(content, tmp_path / "odd.pt")
        assert "odd.pt holds no vision transformer" in refused(tmp_path, "odd.pt", architecture)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("keep", [0, 1, 9, 200, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, architecture: VisionArchitecture, suffix: str, keep: float) -> None:
        path = tmp_path / f"cut{suffix}"
        write_open_clip(path, visual_only=True)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
        assert str(path) in refused(tmp_path, path.name, architecture)

    @pytest.mark.parametrize(
        "header",
        [b"[]", b'{"a": 1}', b'{"conv1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1000000]}}', b"\xff\xfe"],
    )
    def test_safetensors_header(self, tmp_path: Path, architecture: VisionArchitecture, header: bytes) -> None:
        path = tmp_path / "odd.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        assert "is damaged or not a safetensors file" in refused(tmp_path, path.name, architecture)

    def test_any_flipped_byte_is_an_error_or_harmless(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        """Flips bytes of the pickle and the zip directory: whatever torch raises must come out as CheckpointError."""
        path = tmp_path / "flipped.pt"
        write_open_clip(path, visual_only=True)
        content = path.read_bytes()
        generator = torch.Generator().manual_seed(0)
        messages = []
        for attempt in range(80):
            offset, flip = torch.randint(1, 4000, (2,), generator=generator).tolist()
            place = content.index(b"data.pkl") + offset if attempt % 2 else -offset
            flip = flip % 255 + 1
            damaged = bytearray(content)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                checkpoint = open_checkpoint(path.name, base=tmp_path, architecture=architecture)
                check_checkpoint(checkpoint, architecture, backbone=True)
            except CheckpointError as error:
                messages.append(str(error))
        assert len(messages) > 20
        assert all(str(path) in message for message in messages)
