"""What lies beside a tower: named where it changes nothing, refused where it does, chosen from where it is a tower, too."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from saved_towers import assert_embeds, opened, prefixed, run_command
from tiny_clip import tiny_model, write_config
from torch import Tensor

from mingle_edge.checkpoints import read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


class TestOutside:
    def test_everything_beside_the_tower_is_named(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        content = {
            "model": tiny_model().state_dict() | {"prompt_learner.ctx": torch.zeros(4, 32), "head.weight": torch.zeros(3, 32)},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1)}}, "param_groups": [{"lr": 1.0}]},
            "centers": np.zeros(3),
            "args": argparse.Namespace(lr=1.0),
        }
        torch.save(content, tmp_path / "run.pt")
        checkpoint = opened(tmp_path / "run.pt", architecture)
        assert_embeds(checkpoint, architecture)
        assert checkpoint.outside == [
            *("model.prompt_learner.ctx", "model.head.weight", "optimizer.state.0.exp_avg", "optimizer.state.0.step"),
            "centers",
        ]

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("model.visual.transformer.resblocks.0.mlp.c_fc.lora_A", "LoRA"),
            ("model.visual.transformer.resblocks.0.attn.lora_q.weight", "LoRA"),
            ("model.visual.transformer.resblocks.1.adaptmlp.down_proj.weight", "an adapter"),
            ("model.visual.transformer.resblocks.1.VPT_shallow", "visual prompts"),
            ("model.image_adapter.fc.0.weight", "an adapter"),
            ("model.adapter.fc.0.weight", "an adapter"),
            ("model.visual_prompt", "visual prompts"),
            ("model.prompt_learner.compound_prompt_projections.0.weight", "visual prompts"),
            ("vpt.prompt_embeddings", "visual prompts"),
        ],
    )
    def test_what_changes_embeddings_is_refused(
        self, tmp_path: Path, architecture: VisionArchitecture, name: str, what: str
    ) -> None:
        torch.save(prefixed("model.") | {name: torch.zeros(3)}, tmp_path / "run.pt")
        with pytest.raises(CheckpointError, match=rf"run\.pt holds {what} \('{name[:50]}"):
            opened(tmp_path / "run.pt", architecture)

    def test_a_head_within_the_tower_is_refused(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        torch.save(prefixed("model.") | {"model.visual.head.weight": torch.zeros(3)}, tmp_path / "run.pt")
        with pytest.raises(CheckpointError, match=r"is of the backbone's size(.|\n)*unexpected  model\.visual\.head\.weight"):
            opened(tmp_path / "run.pt", architecture)

    @pytest.mark.parametrize("name", ["text_adapter.weight", "transformer.resblocks.0.attn.lora_A", "text_encoder.lora_B"])
    def test_what_changes_only_text_is_named(self, tmp_path: Path, architecture: VisionArchitecture, name: str) -> None:
        torch.save(tiny_model().state_dict() | {name: torch.zeros(3)}, tmp_path / "run.pt")
        assert_embeds(opened(tmp_path / "run.pt", architecture), architecture)


def averaged() -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in tiny_model().state_dict().items()}


class TestTwoTowers:
    """A model and its moving average: which of them is meant is not guessed, and the command in the message chooses."""

    @pytest.mark.parametrize(
        ("name", "content", "prefixes"),
        [
            (
                "run.pt",
                {"model": averaged(), "ema": prefixed("module."), "args": argparse.Namespace(lr=1.0)},
                ("model.visual.", "ema.module.visual."),
            ),
            (
                "run.pt",
                {"state_dict": prefixed("a.", averaged()) | prefixed("b.")},
                ("state_dict.a.visual.", "state_dict.b.visual."),
            ),
            ("run.safetensors", prefixed("a.", averaged()) | prefixed("b."), ("a.visual.", "b.visual.")),
        ],
    )
    def test_are_both_named(
        self, tmp_path: Path, architecture: VisionArchitecture, name: str, content: Any, prefixes: tuple[str, str]
    ) -> None:
        path = tmp_path / name
        (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
        with pytest.raises(CheckpointError, match="holds 2 vision towers, under ") as raised:
            opened(path, architecture)
        assert f"under {prefixes[0]!r} and {prefixes[1]!r}" in str(raised.value)
        saved = run_command(str(raised.value), tmp_path)
        assert_embeds(opened(saved, architecture), architecture)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_not_plain(tmp_path: Path, architecture: VisionArchitecture) -> None:
    state = {name: tensor.detach() for name, tensor in tiny_model().visual.state_dict().items()}
    quantized = torch.quantize_per_tensor(state["positional_embedding"], 0.01, 0, torch.qint8)
    odd = {"proj": state["proj"].to_sparse(), "class_embedding": state["class_embedding"].numpy()}
    for name, value, said in (
        ("proj", odd["proj"], "a sparse tensor"),
        ("class_embedding", odd["class_embedding"], r"an object of numpy\.ndarray"),
        ("positional_embedding", quantized, "a quantized tensor"),
    ):
        torch.save({"state_dict": prefixed("m.", state | {name: value})}, tmp_path / "one.pt")
        with pytest.raises(CheckpointError, match=rf"{name}' is {said}, not a plain tensor, and mingle-edge runs no code"):
            opened(tmp_path / "one.pt", architecture)
    odd |= {"positional_embedding": quantized}
    torch.save({"state_dict": prefixed("m.", state | odd)}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError) as raised:
        opened(tmp_path / "run.pt", architecture)
    checkpoint = opened(run_command(str(raised.value), tmp_path), architecture)
    assert torch.equal(checkpoint.tensor("projection.weight"), state["proj"].T)
    assert torch.equal(checkpoint.tensor("class_token"), state["class_embedding"])
    assert torch.equal(checkpoint.tensor("positions"), quantized.dequantize())
