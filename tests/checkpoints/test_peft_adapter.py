"""Adapters that PEFT wrote, against the model that PEFT merges them into."""

from __future__ import annotations

import copy
import json

import pytest
import tiny_clip
import torch
from peft import LoHaConfig, LoraConfig, get_peft_model

from mingle_edge.checkpoints.peft_adapter import AdaptedTensors
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.core.errors import CheckpointError

OPTIONS = {
    "q and v": {"target_modules": ["q_proj", "v_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "rsLoRA": {"target_modules": ["q_proj"], "use_rslora": True},
    "DoRA": {"target_modules": ["q_proj", "fc2", "patch_embedding"], "use_dora": True},
    "patterns of rank and alpha": {
        "target_modules": ["q_proj", "k_proj", "fc1"],
        "rank_pattern": {"fc1": 5, r"^vision_model.encoder.layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"k_proj": 3.5, r"layers.0.*q_proj": 7},
    },
    "projection saved whole": {"target_modules": ["v_proj"], "modules_to_save": ["visual_projection", "post_layernorm"]},
    "biases": {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
    "biases of adapters": {"target_modules": ["q_proj"], "bias": "lora_only", "lora_bias": True},
    "the patch embedding": {"target_modules": ["patch_embedding", "fc1"]},
}


def written(folder, config, kind="CLIPModel"):
    """Write a model and an adapter of it whose every value is random; return the model that PEFT merges them into."""
    model = tiny_clip.hugging_face_model(0, kind)
    model.save_pretrained(folder / "base")
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                scale = 0.1 if "magnitude" not in name else 0.5
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder / "adapter")
    return adapted.merge_and_unload()


@pytest.mark.filterwarnings("ignore")
class TestLora:
    @pytest.mark.parametrize("name", OPTIONS)
    @pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel"])
    def test_the_merged_model_is_read(self, tmp_path, name, kind):
        options = OPTIONS[name]
        if kind == "CLIPVisionModel":
            options = options | {"modules_to_save": [m for m in options.get("modules_to_save", ()) if m != "visual_projection"]}
        merged = written(tmp_path, LoraConfig(r=4, lora_alpha=6, **options), kind)
        base = open_tensors(tmp_path / "base")
        tensors = AdaptedTensors(tmp_path / "adapter", base)
        merged.save_pretrained(tmp_path / "merged")
        expected = open_tensors(tmp_path / "merged")
        assert set(tensors.names()) == set(expected.names())
        changed = 0
        for key in tensors.names():
            torch.testing.assert_close(tensors.read(key), expected.read(key), rtol=0, atol=2e-6, msg=key)
            changed += not torch.equal(expected.read(key), base.read(key))
        assert changed > 2

    def test_the_factors_are_those_of_the_file(self, tmp_path):
        merged = written(tmp_path, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "fc1"], rank_pattern={"fc1": 7}))
        merged.save_pretrained(tmp_path / "merged")
        expected, base = open_tensors(tmp_path / "merged"), open_tensors(tmp_path / "base")
        tensors = AdaptedTensors(tmp_path / "adapter", base)
        for key in base.names():
            if base.read(key).ndim < 2:
                continue
            B, A = tensors.factors(key)
            assert len(A) == (7 if "fc1" in key else 4 if "q_proj" in key else 0)
            torch.testing.assert_close(base.read(key).flatten(1) + B @ A, expected.read(key).flatten(1), rtol=0, atol=2e-6)

    def test_open_clips_attention_is_refused(self, tmp_path):
        """PEFT changes the attention's out_proj twice, and one day once: nobody can know which was trained."""
        model = copy.deepcopy(tiny_clip.tiny_model())
        torch.save(model.state_dict(), tmp_path / "base.pt")
        adapted = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=r"visual\..*attn"))
        adapted.save_pretrained(tmp_path / "adapter")
        with pytest.raises(CheckpointError, match=r"whose out_proj PEFT changes twice.*merge_and_unload"):
            AdaptedTensors(tmp_path / "adapter", open_tensors(tmp_path / "base.pt"))

    def test_open_clips_other_layers(self, tmp_path):
        model = copy.deepcopy(tiny_clip.tiny_model())
        torch.save(model.state_dict(), tmp_path / "base.pt")
        adapted = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=r"visual\..*(c_fc|conv1)"))
        adapted.save_pretrained(tmp_path / "adapter")
        expected = adapted.merge_and_unload().state_dict()
        tensors = AdaptedTensors(tmp_path / "adapter", open_tensors(tmp_path / "base.pt"))
        assert len(tensors.factors("visual.conv1.weight")[1]) == 4
        for key in tensors.names():
            torch.testing.assert_close(tensors.read(key), expected[key], rtol=0, atol=2e-6, msg=key)


def changed_config(folder, **members):
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"init_lora_weights": "pissa"}, "took a part of the backbone into the adapter; merge it: PeftModel"),
        ({"use_qalora": True}, "use_qalora is True, which is not read; merge the adapter"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is .* not read"),
        ({"lora_alpha": "many"}, "lora_alpha and alpha_pattern must be numbers"),
        ({"alpha_pattern": {"(a*)*b": 1}}, "names modules by .*, and only names with"),
    ],
)
def test_options_that_are_not_read(tmp_path, members, message):
    written(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    changed_config(tmp_path, **members)
    with pytest.raises(CheckpointError, match=message):
        AdaptedTensors(tmp_path / "adapter", open_tensors(tmp_path / "base"))


@pytest.mark.filterwarnings("ignore")
def test_other_adapters_are_named(tmp_path):
    written(tmp_path, LoHaConfig(r=4, target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match=r"peft_type is 'LOHA', but only LORA.*merge_and_unload"):
        AdaptedTensors(tmp_path / "adapter", open_tensors(tmp_path / "base"))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_backbone_is_refused(tmp_path):
    written(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    tiny_clip.write_open_clip(tmp_path / "open_clip.pt")
    with pytest.raises(CheckpointError, match=r"the backbone's file has not .*in the form that the adapter was trained on"):
        AdaptedTensors(tmp_path / "adapter", open_tensors(tmp_path / "open_clip.pt"))
