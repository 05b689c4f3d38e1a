"""Folders of weights as the libraries write them, and those whose own library must first put the tensors together."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import accelerate
import huggingface_hub
import open_clip
import pytest
import torch
from hub_cache import write_folder
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import load_file, save_file
from saved_towers import IMAGES, assert_embeds, opened
from tiny_clip import hugging_face_model, tiny_config, tiny_model, write_config, write_hugging_face, write_open_clip
from torch import nn

from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


def refused(folder: Path, architecture: VisionArchitecture) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(folder), base=folder, architecture=architecture)
    return str(error.value)


def write_open_clip_folder(folder: Path, *, safe: bool = True) -> None:
    """As `open_clip.push_to_hf_hub` lays it out, with open_clip's own writer."""
    model, no_tokenizer = copy.deepcopy(tiny_model()), SimpleNamespace(save_pretrained=lambda folder: None)
    open_clip.model.set_model_preprocess_cfg(
        model,
        {
            "mean": open_clip.OPENAI_DATASET_MEAN,
            "std": open_clip.OPENAI_DATASET_STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    )
    save_for_hf(model, no_tokenizer, tiny_config(), str(folder), safe_serialization=safe)


class TestOpenClip:
    @pytest.mark.parametrize("safe", [True, False])
    def test_a_folder_is_model_and_weights(self, tmp_path: Path, architecture: VisionArchitecture, safe: bool) -> None:
        write_open_clip_folder(tmp_path / "folder", safe=safe)
        assert read_architecture("folder", tmp_path) == architecture
        assert_embeds(opened(tmp_path / "folder", architecture), architecture)

    def test_a_folder_of_both_libraries_is_of_hugging_face(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        """As LAION publishes its models; timm's config.json beside open_clip's says nothing of a CLIP."""
        write_hugging_face(tmp_path / "folder")
        features = hugging_face_model().get_image_features(pixel_values=IMAGES)
        write_open_clip_folder(tmp_path / "folder")
        assert_embeds(opened(tmp_path / "folder", architecture), architecture, getattr(features, "pooler_output", features))
        (tmp_path / "folder/config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224"}))
        assert_embeds(opened(tmp_path / "folder", architecture), architecture)

    def test_its_configuration_is_compared(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        write_open_clip_folder(tmp_path / "folder")
        path = tmp_path / "folder/open_clip_config.json"
        record = json.loads(path.read_text())
        record["model_cfg"]["quick_gelu"] = False
        path.write_text(json.dumps(record))
        assert "describes another model than the backbone: activation gelu instead of quick" in refused(
            path.parent, architecture
        )

    @pytest.mark.parametrize("name", ["hf://owner/name", "hf-hub:owner/name"])
    def test_a_repository_on_the_hub(
        self, tmp_path: Path, architecture: VisionArchitecture, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        write_open_clip_folder(tmp_path / "folder", safe=False)
        write_folder(tmp_path / "hub", "models/owner/name", tmp_path / "folder")
        assert read_architecture(name, tmp_path) == architecture
        assert_embeds(open_checkpoint(name, base=tmp_path, architecture=architecture), architecture)


def test_shards_of_pytorch(tmp_path: Path, architecture: VisionArchitecture) -> None:
    """As transformers before version 5 wrote them."""
    model = hugging_face_model(kind="CLIPVisionModelWithProjection")
    model.save_pretrained(tmp_path / "folder", max_shard_size="100KB")
    index = json.loads((tmp_path / "folder/model.safetensors.index.json").read_text())
    for path in (tmp_path / "folder").glob("model-*.safetensors"):
        torch.save(load_file(path), path.with_name(f"pytorch_{path.stem}.bin"))
        path.unlink()
    (tmp_path / "folder/model.safetensors.index.json").unlink()
    names = {name: f"pytorch_{Path(shard).stem}.bin" for name, shard in index["weight_map"].items()}
    assert len(set(names.values())) > 1
    (tmp_path / "folder/pytorch_model.bin.index.json").write_text(json.dumps(index | {"weight_map": names}))
    assert_embeds(opened(tmp_path / "folder", architecture), architecture, model(IMAGES).image_embeds)
    (tmp_path / "folder/pytorch_model.bin.index.json").unlink()
    assert "holds shards such as pytorch_model-0" in (said := refused(tmp_path / "folder", architecture))
    assert "not pytorch_model.bin.index.json, their index" in said


class TestAccelerate:
    def save(self, folder: Path, *models: nn.Module, **options: bool) -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(models[0].parameters())
        accelerator.prepare(*models, optimizer)
        accelerator.save_state(str(folder), **options)

    @pytest.mark.parametrize("safe", [True, False])
    def test_a_state_with_its_optimizer(self, tmp_path: Path, architecture: VisionArchitecture, safe: bool) -> None:
        self.save(tmp_path / "state", open_clip.CLIP(**tiny_config()).requires_grad_(True), safe_serialization=safe)
        weights = tmp_path / "state" / ("model.safetensors" if safe else "pytorch_model.bin")
        (save_file if safe else torch.save)(tiny_model().state_dict(), weights)
        assert {"optimizer.bin", "random_states_0.pkl"} < {path.name for path in (tmp_path / "state").iterdir()}
        assert_embeds(opened(tmp_path / "state", architecture), architecture)

    def test_shards(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        accelerate.Accelerator(cpu=True).save_model(tiny_model(), str(tmp_path / "model"), max_shard_size="500KB")
        assert (tmp_path / "model/model.safetensors.index.json").exists()
        assert_embeds(opened(tmp_path / "model", architecture), architecture)

    def test_of_two_models_neither_is_guessed(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        self.save(tmp_path / "state", open_clip.CLIP(**tiny_config()), nn.Linear(3, 3))
        said = refused(tmp_path / "state", architecture)
        assert "holds two models, model.safetensors and model_1.safetensors; name the file" in said
        assert open_checkpoint("state/model.safetensors", base=tmp_path, architecture=architecture).names()


class TestOneFile:
    @pytest.mark.parametrize("name", ["epoch_3.pt", "weights.safetensors", "last.ckpt", "model.pth.tar"])
    def test_is_the_weights_of_its_folder(self, tmp_path: Path, architecture: VisionArchitecture, name: str) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/params.txt").touch()
        write_open_clip(tmp_path / "folder" / name)
        assert_embeds(opened(tmp_path / "folder", architecture), architecture)
        write_open_clip(tmp_path / "folder/other.pt")
        said = refused(tmp_path / "folder", architecture)
        assert "holds several files of weights (" in said
        assert name in said

    def test_none(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/notes.txt").touch()
        assert "holds none of model.safetensors" in refused(tmp_path / "folder", architecture)


def touched(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (touched("latest", "zero_to_fp32.py", "global_step5/mp_rank_00_model_states.pt"), "python {0}/zero_to_fp32.py {0} "),
        (touched("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"), "is a run of DeepSpeed"),
        (
            touched("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"),
            "accelerate merge-weights {0}/pytorch_model",
        ),
        (touched("adapter_config.json", "adapter_model.safetensors"), "looks like a PEFT adapter"),
        (touched("model_index.json", "unet/config.json"), "is a pipeline of diffusers"),
        (touched("saved_model.pb", "variables/variables.index"), "holds a model of TensorFlow"),
        (touched("config.json", "flax_model.msgpack"), "holds weights of Flax alone"),
        (touched("config.json", "tf_model.h5"), "holds weights of TensorFlow alone"),
    ],
)
def test_folders_of_other_things(
    tmp_path: Path, architecture: VisionArchitecture, write: Callable[[Path], None], said: str
) -> None:
    write(tmp_path / "folder")
    assert said.format(tmp_path / "folder") in refused(tmp_path / "folder", architecture)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("inner", ["", "pytorch_model_fsdp_0"], ids=["PyTorch", "accelerate"])
def test_commands_for_distributed_checkpoints(tmp_path: Path, architecture: VisionArchitecture, inner: str) -> None:
    """Shards as FSDP writes them, here by one process, put together by the command in the message."""
    run = tmp_path / "run 1"
    torch.distributed.checkpoint.save({"model": tiny_model().state_dict()}, checkpoint_id=run / inner)
    message = refused(run, architecture)
    command = message[message.index("put them together with: ") :].partition(": ")[2].partition(", and name ")[0]
    cli = f"{sys.executable} -m accelerate.commands.accelerate_cli"
    command = command.replace("accelerate", cli, 1) if inner else command.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=120, capture_output=True)
    assert_embeds(opened(tmp_path / ("run 1/merged" if inner else "run 1.pt"), architecture), architecture)
