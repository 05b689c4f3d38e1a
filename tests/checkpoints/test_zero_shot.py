"""Heads from class names: the text towers of both libraries, and what open_clip's own zero-shot classifier makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import hugging_face_model, tiny_config, tiny_model, write_config, write_hugging_face, write_open_clip
from torch import Tensor

from mingle_edge.checkpoints.class_embeddings import class_embeddings
from mingle_edge.checkpoints.text_tower import build_text_tower, logit_scale
from mingle_edge.core.errors import CheckpointError

PROMPTS = ["a photo of a cat.", "annual crop land", "", "Ω ünïcode!", "a " * 14]
TOKENS = open_clip.SimpleTokenizer(context_length=16)(PROMPTS)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_config(tmp_path / "model.json")
    return tmp_path


def change_config(path: Path, table: str, **values: Any) -> None:
    record = json.loads(path.read_text())
    record[table] |= values
    path.write_text(json.dumps(record))


class TestTextTower:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_of_open_clip(self, base: Path, suffix: str) -> None:
        write_open_clip(base / f"whole{suffix}")
        tower = build_text_tower("model.json", f"whole{suffix}", base)
        torch.testing.assert_close(tower.encode(PROMPTS), tiny_model().encode_text(TOKENS))

    def test_of_open_clip_with_a_tower_of_its_own(self, base: Path) -> None:
        model = open_clip.CustomTextCLIP(**tiny_config()).eval()
        save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, base / "custom.safetensors")
        tower = build_text_tower("model.json", "custom.safetensors", base)
        torch.testing.assert_close(tower.encode(PROMPTS), model.encode_text(TOKENS).detach())

    @pytest.mark.parametrize("prefix", [None, True, False])
    def test_of_hugging_face(self, base: Path, prefix: bool | None) -> None:
        write_hugging_face(base / "folder", prefix=prefix)
        features = hugging_face_model().get_text_features(input_ids=TOKENS)
        expected = getattr(features, "pooler_output", features)  # a plain tensor before transformers 5
        encoded = build_text_tower("folder", None, base).encode(PROMPTS)
        torch.testing.assert_close(encoded, expected, rtol=1e-4, atol=1e-5)

    def test_of_hugging_face_with_weights_elsewhere_and_its_own_activation(self, base: Path) -> None:
        write_hugging_face(base / "folder")
        quick = build_text_tower("folder", None, base).encode(PROMPTS)
        (base / "folder" / "model.safetensors").rename(base / "weights.safetensors")
        change_config(base / "folder" / "config.json", "text_config", hidden_act="gelu")
        exact = build_text_tower("folder", "weights.safetensors", base).encode(PROMPTS)
        assert 1e-5 < float((exact - quick).abs().max()) < 1

    def test_keeps_the_random_state(self, base: Path) -> None:
        write_open_clip(base / "whole.safetensors")
        before = torch.get_rng_state()
        build_text_tower("model.json", "whole.safetensors", base)
        assert torch.equal(torch.get_rng_state(), before)

    def test_prompt_longer_than_its_context(self, base: Path) -> None:
        write_open_clip(base / "whole.safetensors")
        tower = build_text_tower("model.json", "whole.safetensors", base)
        with pytest.raises(CheckpointError, match="has 17 tokens, the text tower reads 16; shorten it"):
            tower.encode(["a " * 15])


class TestTextTowerRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"hf_tokenizer_name": "bert-base-uncased"},
                r"holds no tokenizer \(tokenizer.json, .* copy it there, or give each task a head",
            ),
            ({"hf_model_name": "roberta-base"}, "text_cfg.hf_model_name is 'roberta-base'"),
            ({"vocab_size": 1000}, "vocabulary has 1000 entries, CLIP's tokenizer 49408"),
            ({"width": "32"}, "text_cfg.width is '32', but must be a whole number"),
            ({"heads": 5}, "open_clip cannot build the text tower"),
            ({"depth": 3}, "open_clip cannot build the text tower"),
            ({"pool_type": "mean"}, "open_clip cannot build the text tower"),
            ({"layers": 3}, "12 tensors are missing, 0 unexpected, such as transformer.resblocks.2"),
            ({"layers": 1}, "0 tensors are missing, 12 unexpected, such as transformer.resblocks.1"),
            ({"context_length": 20}, "positional_embedding does not fit the text tower"),
        ],
    )
    def test_configuration_that_does_not_fit(self, base: Path, changes: dict[str, Any], message: str) -> None:
        write_open_clip(base / "whole.safetensors")
        change_config(base / "model.json", "text_cfg", **changes)
        with pytest.raises(CheckpointError, match=message):
            build_text_tower("model.json", "whole.safetensors", base)

    def test_no_text_configuration(self, base: Path) -> None:
        write_open_clip(base / "whole.safetensors")
        (base / "vision.json").write_text(json.dumps({k: v for k, v in tiny_config().items() if k != "text_cfg"}))
        with pytest.raises(CheckpointError, match=r"describes no text tower \(text_cfg\); give each task a head"):
            build_text_tower("vision.json", "whole.safetensors", base)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"eos_token_id": 102}, "eos_token_id is 102"),
            ({"hidden_act": "relu"}, "text_config.hidden_act is 'relu'"),
            ({"num_hidden_layers": 3}, "16 tensors are missing"),
        ],
    )
    def test_hugging_face_configuration(self, base: Path, changes: dict[str, Any], message: str) -> None:
        write_hugging_face(base / "folder")
        change_config(base / "folder" / "config.json", "text_config", **changes)
        with pytest.raises(CheckpointError, match=message):
            build_text_tower("folder", None, base)

    def test_vision_towers_alone(self, base: Path) -> None:
        write_hugging_face(base / "folder", kind="CLIPVisionModel")
        with pytest.raises(CheckpointError, match="describes a vision tower alone"):
            build_text_tower("folder", None, base)
        write_open_clip(base / "visual.safetensors", visual_only=True)
        with pytest.raises(CheckpointError, match="holds no text tower"):
            build_text_tower("model.json", "visual.safetensors", base)

    def test_a_name_brings_no_weights(self, base: Path) -> None:
        with pytest.raises(CheckpointError, match="'ViT-B-32' comes without weights; name them"):
            build_text_tower("ViT-B-32", None, base)

    @pytest.mark.parametrize(
        ("value", "message"),
        [(torch.zeros(32, dtype=torch.int32), "ln_final.bias is I32"), (torch.full((32,), math.nan), "NaN or infinite")],
    )
    def test_values(self, base: Path, value: Tensor, message: str) -> None:
        save_file(tiny_model().state_dict() | {"ln_final.bias": value}, base / "odd.safetensors")
        with pytest.raises(CheckpointError, match=message):
            build_text_tower("model.json", "odd.safetensors", base)


def test_class_embeddings_are_those_of_open_clip(base: Path) -> None:
    write_open_clip(base / "whole.safetensors")
    classes = ["annual crop", "river {delta}", "sea"]
    templates = ["a photo of a {}.", "{} seen from above", "{} {}"]
    head = class_embeddings(build_text_tower("model.json", "whole.safetensors", base), classes, templates)
    expected = open_clip.build_zero_shot_classifier(
        tiny_model(),
        open_clip.SimpleTokenizer(context_length=16),
        classes,
        [lambda name, template=template: template.replace("{}", name) for template in templates],
    )
    torch.testing.assert_close(head, expected.T)
    torch.testing.assert_close(head.norm(dim=1), torch.ones(3))


class TestLogitScale:
    def test_of_both_libraries(self, base: Path) -> None:
        write_open_clip(base / "whole.safetensors")
        assert logit_scale("model.json", "whole.safetensors", base) == pytest.approx(1 / 0.07)
        write_hugging_face(base / "folder")
        expected = math.exp(load_file(base / "folder" / "model.safetensors")["logit_scale"].item())
        assert logit_scale("folder", None, base) == pytest.approx(expected)

    def test_a_vision_tower_has_none(self, base: Path) -> None:
        write_open_clip(base / "visual.safetensors", visual_only=True)
        assert logit_scale("model.json", "visual.safetensors", base) is None

    @pytest.mark.parametrize("value", [torch.tensor([1.0, 2.0]), torch.tensor(1000.0), torch.tensor(-1000.0)])
    def test_refused(self, base: Path, value: Tensor) -> None:
        save_file({"logit_scale": value}, base / "odd.safetensors")
        with pytest.raises(CheckpointError, match="logit_scale must be one number"):
            logit_scale("model.json", "odd.safetensors", base)
