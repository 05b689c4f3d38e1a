"""What is no checkpoint of a vision tower: each message says what it is, and the way on."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import open_clip
import peft
import pytest
import timm
import torch
import transformers
from saved_towers import assert_embeds, opened, run_command
from tiny_clip import hugging_face_model, tiny_model, write_config
from torch import Tensor, nn

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError, TaskFileError
from mingle_edge.data.task_file import read_task_file


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


def refused(path: Path, architecture: VisionArchitecture) -> str:
    with pytest.raises(CheckpointError) as error:
        check_checkpoint(open_checkpoint(path.name, base=path.parent, architecture=architecture), architecture, backbone=False)
    assert str(path) in str(error.value)
    assert "damaged" not in str(error.value)
    return str(error.value)


def write_onnx(path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), path)


def write_tar(path: Path) -> None:
    (path.parent / "inner").touch()
    with tarfile.open(path, "w") as file:
        file.add(path.parent / "inner", "inner")


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/model.safetensors", b"x")


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


FILES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "LFS": ("model.safetensors", written(b"version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS"),
    "page": ("model.safetensors", written(b"<!doctype html><html>Sign in</html>"), "is a web page"),
    "GGUF": ("model.gguf", written(b"GGUF" + struct.pack("<IQQ", 3, 0, 0)), "is a GGUF file"),
    "HDF5": ("tf_model.h5", written(b"\x89HDF\r\n\x1a\n" + bytes(64)), "is an HDF5 file, as Keras writes"),
    "numpy": ("weights.npy", lambda path: np.save(path, np.zeros(3)), "is a numpy array"),
    "npz": ("weights.npz", write_npz, "is a numpy archive"),
    "gzip": ("model.pt.gz", lambda path: path.write_bytes(gzip.compress(b"x")) and None, "is compressed; unpack it"),
    "zip": ("model.zip", write_zip, "is a zip file, but no archive of PyTorch; unpack it"),
    "tar": ("model.tar", write_tar, "is a tar archive; unpack it"),
    "ONNX": ("model.onnx", write_onnx, "is an ONNX model"),
    "Flax": ("flax_model.msgpack", written(b"\x82\xabtext_model\x80"), "holds weights of Flax"),
    "JSON": ("config.json", lambda path: path.write_text(json.dumps({"model_type": "clip"})) and None, "is JSON text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files(tmp_path: Path, architecture: VisionArchitecture, kind: str) -> None:
    name, write, said = FILES[kind]
    write(tmp_path / name)
    assert said in refused(tmp_path / name, architecture)


def adapter_of_peft() -> dict[str, Tensor]:
    model = hugging_face_model(kind="CLIPVisionModelWithProjection")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    return peft.get_peft_model_state_dict(adapted)


def unmerged_peft() -> dict[str, Tensor]:
    model = hugging_face_model(kind="CLIPVisionModelWithProjection")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).state_dict()


def optimizer() -> dict[str, Any]:
    layer = nn.Linear(3, 3)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    adam.step()
    return adam.state_dict()


def resnet() -> dict[str, Tensor]:
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}}
    text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return open_clip.CLIP(**config, text_cfg=text).state_dict()


def dinov3() -> dict[str, Tensor]:
    """A vision transformer that rotates queries and keys by position."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 3}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, image_size=32, patch_size=8)).state_dict()


def emptied() -> dict[str, Tensor]:
    """As DeepSpeed's ZeRO-3 leaves a state dict outside of its own checkpoint."""
    return {name: torch.zeros(0) for name in tiny_model().state_dict()}


NAMES: dict[str, tuple[Callable[[], Any], str]] = {
    "adapter of PEFT": (adapter_of_peft, "looks like a PEFT adapter, which holds no weights; merge it"),
    "model with an adapter of PEFT": (unmerged_peft, "holds LoRA ("),
    "LoRA of diffusion": (lambda: {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(3, 3)}, "a LoRA for diffusion models"),
    "optimizer": (optimizer, "looks like the state of an optimizer; name the file of the model"),
    "ResNet of CLIP": (resnet, "looks like a CLIP whose image encoder is a ResNet"),
    "ResNet": (lambda: {"conv1.weight": torch.zeros(3), "layer1.0.conv1.weight": torch.zeros(3)}, "looks like a ResNet"),
    "ConvNeXt": (lambda: {"stages.0.blocks.0.conv_dw.weight": torch.zeros(3)}, "looks like a ConvNeXt or Swin"),
    "diffusion": (lambda: {"model.diffusion_model.out.2.weight": torch.zeros(3)}, "looks like a diffusion model"),
    "language": (
        lambda: {"model.embed_tokens.weight": torch.zeros(3, 3), "lm_head.weight": torch.zeros(3, 3)},
        "language model",
    ),
    "text tower": (lambda: {n: t for n, t in tiny_model().state_dict().items() if "visual" not in n}, "a text tower alone"),
    "head": (lambda: {"weight": torch.zeros(3, 32), "bias": torch.zeros(3)}, "looks like a head alone"),
    "quantized": (lambda: {"model.layers.0.qweight": torch.zeros(3)}, "holds quantized weights"),
    "ZeRO-3": (emptied, "are empty, as DeepSpeed's ZeRO-3 leaves tensors"),
    "timm": (lambda: timm.create_model("test_vit").state_dict(), "looks like a vision transformer of timm or DINOv2 alone"),
    "transformers": (dinov3, "none of CLIP, SigLIP, ViT, DeiT and DINOv2; use one of these"),
    "unknown": (lambda: {"stem.weight": torch.zeros(3)}, "holds no vision transformer in the names of"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, where it calls transformers
@pytest.mark.parametrize("kind", NAMES)
def test_names(tmp_path: Path, architecture: VisionArchitecture, kind: str) -> None:
    content, said = NAMES[kind]
    torch.save(content(), tmp_path / "run.pt")
    assert said in refused(tmp_path / "run.pt", architecture)


def write_compressed(path: Path) -> None:
    saved = io.BytesIO()
    torch.save(tiny_model().state_dict(), saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(tiny_model().state_dict()))


def write_exported(path: Path) -> None:
    torch.export.save(torch.export.export(tiny_model().visual, (torch.zeros(1, 3, 32, 32),)), path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        (
            "weights.pt",
            write_compressed,
            "compressed, which PyTorch's archives are not",
        ),  # a name that a command could write to
        ("run 1.pt", write_compressed, "compressed, which PyTorch's archives are not"),
        ("run.pkl", write_pickle, "is a plain pickle, not a file of torch.save"),
        ("program.pt2", write_exported, "is a program of torch.export"),
    ],
)
def test_commands_that_save_it_anew(
    tmp_path: Path, architecture: VisionArchitecture, name: str, write: Callable[[Path], None], said: str
) -> None:
    write(tmp_path / name)
    message = refused(tmp_path / name, architecture)
    assert said in message
    assert_embeds(opened(run_command(message, tmp_path), architecture), architecture)


class TestPlaces:
    def test_a_name_on_the_hub_is_told_from_a_path(self, tmp_path: Path, architecture: VisionArchitecture) -> None:
        with pytest.raises(CheckpointError, match=r"there is no checkpoint .*, or write hf://openai/clip-vit-base-patch32 for"):
            open_checkpoint("openai/clip-vit-base-patch32", base=tmp_path, architecture=architecture)
        for path in ("a/b.safetensors", "a/b/c", "./a", "/a/b"):
            with pytest.raises(CheckpointError, match=r"there is no checkpoint .*; correct the path$"):
                open_checkpoint(path, base=tmp_path, architecture=architecture)

    def test_in_a_task_file(self, tmp_path: Path) -> None:
        name = "openai/clip-vit-base-patch32"
        (tmp_path / "TASKS.toml").write_text(f'[backbone]\nmodel = "a"\n[[task]]\nname = "a"\nweights = "{name}"\n')
        with pytest.raises(TaskFileError, match="or write hf://openai/clip-vit-base-patch32 for the model"):
            read_task_file(tmp_path / "TASKS.toml")

    def test_a_model_of_one_activation_has_its_own_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """open_clip's tags of this model do not say that it was trained with QuickGELU; its configuration does."""
        asked: list[str] = []

        def download(cfg: dict[str, Any]) -> str:
            asked.append(cfg["hf_hub"])
            raise FileNotFoundError("offline")

        monkeypatch.setattr(open_clip, "download_pretrained", download)
        architecture = read_architecture("roberta-ViT-B-32", tmp_path, "laion2b_s12b_b32k")
        assert architecture.activation == "quick_gelu"
        with pytest.raises(CheckpointError, match="could not download"):
            open_checkpoint("laion2b_s12b_b32k", base=tmp_path, architecture=architecture, model="roberta-ViT-B-32")
        assert asked == ["laion/CLIP-ViT-B-32-roberta-base-laion2B-s12B-b32k/"]

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`~` is the user's home wherever a task file names a path."""
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        home = tmp_path / "home"
        for folder in ("seeds", "test", "tune/cat"):
            (home / folder).mkdir(parents=True)
        for name in ("model.json", "backbone.safetensors", "task.pt", "head.safetensors"):
            (home / name).touch()
        (home / "classes.txt").write_text("cat\ndog\n")
        (tmp_path / "TASKS.toml").write_text(
            '[backbone]\nmodel = "~/model.json"\nweights = "~/backbone.safetensors"\n'
            '[[task]]\nname = "a"\nweights = "~/task.pt"\nseeds = "~/seeds"\nclasses = "~/classes.txt"\n'
            'head = "~/head.safetensors"\ntest = "~/test/<class>/*.png"\ntune = {files = "~/tune/<class>/*.png"}\n'
        )
        file = read_task_file(tmp_path / "TASKS.toml")
        (task,) = file.tasks
        assert (file.backbone.model, file.backbone.weights) == (f"{home}/model.json", f"{home}/backbone.safetensors")
        assert (task.weights, task.seeds.files, task.classes, task.head) == (
            *(f"{home}/task.pt", f"{home}/seeds", ["cat", "dog"]),
            home / "head.safetensors",
        )
        assert task.test is not None
        assert task.tune is not None
        assert (task.test.files, task.tune.files) == (f"{home}/test/<class>/*.png", f"{home}/tune/<class>/*.png")
