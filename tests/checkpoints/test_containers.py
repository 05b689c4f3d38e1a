"""A tower in whatever a training wrote: under any names, in any format of PyTorch, inside objects of classes not here."""

from __future__ import annotations

import argparse
import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_clip import hugging_face_model, tiny_model, write_config
from torch import Tensor, nn

from mingle_edge.checkpoints import Checkpoint, check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.checkpoints.text_tower import build_text_tower, logit_scale
from mingle_edge.checkpoints.tower_names import find_towers, model_names
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.core.errors import CheckpointError

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


def opened(path: Path, architecture: VisionArchitecture) -> Checkpoint:
    checkpoint = open_checkpoint(path.name, base=path.parent, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=False)
    return checkpoint


def assert_embeds(checkpoint: Checkpoint, architecture: VisionArchitecture, expected: Tensor | None = None) -> None:
    """Compare with what the library that owns the names makes of the images; the tiny model of open_clip unless given."""
    if expected is None:
        expected = tiny_model().encode_image(IMAGES)
    found = embed_images(IMAGES, dict(checkpoint.tensors()), architecture)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in (state or tiny_model().state_dict()).items()}


class ImageEncoder(nn.Module):
    """As in task_vectors and WiSE-FT."""

    def __init__(self) -> None:
        super().__init__()
        self.model = copy.deepcopy(tiny_model())


class ImageClassifier(nn.Module):
    """As in WiSE-FT."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder()
        self.classification_head = nn.Linear(32, 3)


class LightningClassifier(lightning.LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.clip = copy.deepcopy(tiny_model())
        self.visual = self.clip.visual  # one tower under two names
        self.head = nn.Linear(32, 3)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self.head(self.clip.encode_image(batch[0])).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.head.parameters())


def compiled() -> dict[str, Tensor]:
    return torch.compile(copy.deepcopy(tiny_model())).state_dict()


WRAPPED: dict[str, Callable[[], Any]] = {
    "state dict": lambda: tiny_model().state_dict(),
    "open_clip training": lambda: {"epoch": 3, "name": "run", "state_dict": prefixed("module.")},
    "model": lambda: {"model": tiny_model().state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 1},
    "model_state_dict": lambda: {"model_state_dict": tiny_model().state_dict(), "best": 0.5},
    "average alone": lambda: {"state_dict_ema": prefixed("module.")},
    "nested": lambda: {"ema": {"module": {"net": tiny_model().state_dict()}}},
    "compiled": compiled,
    "compiled on devices": lambda: {"model": prefixed("module.", compiled())},
    "task_vectors": lambda: ImageEncoder().state_dict(),
    "WiSE-FT": lambda: ImageClassifier().state_dict(),
    "bare tower": lambda: prefixed("backbone.", tiny_model().visual.state_dict()),
    "deep": lambda: {"a": {"b": prefixed("c.d.e.f.g.h.i.j.k.visual_encoder.", tiny_model().visual.state_dict())}},
    "whole module": lambda: copy.deepcopy(tiny_model()),
    "whole tower": lambda: copy.deepcopy(tiny_model().visual),
    "whole module on devices": lambda: nn.DataParallel(copy.deepcopy(tiny_model())),
    "module beside others": lambda: {"model": ImageEncoder(), "args": argparse.Namespace(lr=1.0)},
    "arguments": lambda: {"model": tiny_model().state_dict(), "args": argparse.Namespace(lr=1.0, path=Path("x"))},
    "numbers of numpy": lambda: {"model": tiny_model().state_dict(), "best": np.float64(0.5), "all": [np.float32(1)]},
    "one tower under two names": lambda: prefixed("a.") | prefixed("b.visual.", tiny_model().visual.state_dict()),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_what_torch_saves(tmp_path: Path, architecture: VisionArchitecture, content: Callable[[], Any], legacy: bool) -> None:
    torch.save(content(), tmp_path / "run", _use_new_zipfile_serialization=not legacy)
    assert_embeds(opened(tmp_path / "run", architecture), architecture)


@pytest.mark.parametrize("name", ["last.ckpt", "model.pyt", "epoch_3", "model.pth.tar", "weights.data", "model.safetensors"])
def test_suffixes_mean_nothing(tmp_path: Path, architecture: VisionArchitecture, name: str) -> None:
    torch.save({"model": tiny_model().state_dict()}, tmp_path / name)
    assert_embeds(opened(tmp_path / name, architecture), architecture)
    save_file(prefixed("_orig_mod.module."), tmp_path / name)
    assert_embeds(opened(tmp_path / name, architecture), architecture)


@settings(max_examples=30, deadline=None)
@given(
    wrappers=st.lists(st.sampled_from(["state_dict", "model", "ema", "module", "net", "a.b", "visual"]), max_size=3),
    parts=st.lists(st.from_regex(r"[A-Za-z_0-9]{1,12}", fullmatch=True), max_size=5),
    bare=st.booleans(),
)
def test_any_prefix_in_any_depth(
    tmp_path_factory: pytest.TempPathFactory, wrappers: list[str], parts: list[str], bare: bool
) -> None:
    state = tiny_model().visual.state_dict() if bare else tiny_model().state_dict()
    content: Any = prefixed("".join(f"{part}." for part in parts), state)
    for wrapper in wrappers:
        content = {wrapper: content, "step": 3}
    path = tmp_path_factory.mktemp("any") / "run.pt"
    torch.save(content, path)
    tensors = open_tensors(path)
    (tower,) = find_towers(tensors.names())
    expected = "".join(f"{part}." for part in (*reversed(wrappers), *parts)) + ("" if bare else "visual.")
    assert (tower.naming, tower.prefix, tower.unexpected) == ("open_clip", expected, [])
    assert {p.key[len(expected) :] for p in tower.parameters.values()} == set(tiny_model().visual.state_dict())
    if not bare:
        assert set(model_names(tensors.names()).values()) == set(state)


def test_the_names_of_hugging_face_within_a_model(tmp_path: Path, architecture: VisionArchitecture) -> None:
    whole, alone = hugging_face_model(), hugging_face_model(kind="CLIPVisionModelWithProjection")
    torch.save({"model": prefixed("clip.", whole.state_dict())}, tmp_path / "whole.pt")
    features = whole.get_image_features(pixel_values=IMAGES)
    checkpoint = opened(tmp_path / "whole.pt", architecture)
    assert_embeds(checkpoint, architecture, getattr(features, "pooler_output", features))
    assert (checkpoint.has_text_tower, checkpoint.outside) == (True, [])
    torch.save(prefixed("net.encoder.", alone.state_dict()) | {"net.head.weight": torch.zeros(3)}, tmp_path / "alone.pt")
    checkpoint = opened(tmp_path / "alone.pt", architecture)
    assert_embeds(checkpoint, architecture, alone(IMAGES).image_embeds)
    assert (checkpoint.has_text_tower, checkpoint.outside) == (False, ["net.head.weight"])


@pytest.mark.parametrize("hugging_face", [False, True], ids=["open_clip", "hugging_face"])
def test_the_text_tower_is_that_of_the_same_model(tmp_path: Path, hugging_face: bool) -> None:
    """Its names follow the same prefix, and those of a model beside it do not count."""
    write_config(tmp_path / "model.json")
    model = hugging_face_model() if hugging_face else tiny_model()
    other = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items() if "vis" not in name}
    torch.save({"teacher": other, "net": {"model": prefixed("_orig_mod.", model.state_dict())}}, tmp_path / "run.ckpt")
    prompts = ["a cat", "two dogs"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(prompts)
    expected = model.get_text_features(input_ids=tokens) if hugging_face else model.encode_text(tokens)
    tower = build_text_tower("model.json", "run.ckpt", tmp_path)
    torch.testing.assert_close(tower.encode(prompts), getattr(expected, "pooler_output", expected), rtol=1e-5, atol=1e-5)
    assert math.isclose(logit_scale("model.json", "run.ckpt", tmp_path), float(model.logit_scale.exp()), rel_tol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_checkpoint_of_lightning(tmp_path: Path, architecture: VisionArchitecture) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    model = LightningClassifier(arguments=argparse.Namespace(lr=1.0))
    trainer.fit(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=3))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint = opened(tmp_path / "last.ckpt", architecture)
    assert_embeds(checkpoint, architecture)
    assert {name.rsplit(".", 1)[0] for name in checkpoint.outside} >= {"state_dict.head"}
    assert not any("visual" in name for name in checkpoint.outside if name.startswith("state_dict.clip"))


def test_classes_that_are_not_there(tmp_path: Path, architecture: VisionArchitecture) -> None:
    """As the models of task_vectors, which its authors saved whole; no code from the file is run, and none could be."""
    (tmp_path / "authors_code.py").write_text(
        "import torch\n"
        "class Encoder(torch.nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        self.model, self.transform = model, [len]\n"
        "    def __setstate__(self, state):\n"
        "        raise RuntimeError('code was run')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import authors_code

        torch.save(authors_code.Encoder(copy.deepcopy(tiny_model())), tmp_path / "whole.pt")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("authors_code", None)
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "whole.pt", weights_only=False)
    assert_embeds(opened(tmp_path / "whole.pt", architecture), architecture)
    assert "authors_code" not in sys.modules


class TestTorchScript:
    """OpenAI published CLIP as traced programs with weights of half precision and LayerNorms among them of single."""

    @pytest.fixture
    def model(self) -> open_clip.CLIP:
        model = copy.deepcopy(tiny_model())
        open_clip.model.convert_weights_to_lp(model)
        for value, name in ((32, "input_resolution"), (16, "context_length"), (49408, "vocab_size")):
            model.__dict__.pop(name, None)
            model.register_buffer(name, torch.tensor(value))
        return model

    def write(self, model: nn.Module, path: Path) -> None:
        inputs = {"encode_image": IMAGES.half(), "encode_text": torch.zeros(3, 16, dtype=torch.long)}
        torch.jit.trace_module(model, inputs, check_trace=False).save(path)

    @pytest.mark.filterwarnings("ignore")
    def test_of_openai(
        self, tmp_path: Path, architecture: VisionArchitecture, model: open_clip.CLIP, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(model, tmp_path / "ViT-T-8.pt")
        expected = torch.jit.load(tmp_path / "ViT-T-8.pt", map_location="cpu").state_dict()
        for owner, name in ((torch, "load"), (torch.jit, "load")):
            monkeypatch.setattr(owner, name, None)
        tensors = open_tensors(tmp_path / "ViT-T-8.pt")
        assert set(tensors.names()) - set(expected) <= {"attn_mask"}
        for name, value in expected.items():
            assert tensors.shape(name) == tuple(value.shape)
            if value.is_floating_point():
                assert torch.equal(tensors.read(name), value)
                assert tensors.read(name).dtype == value.dtype
        checkpoint = opened(tmp_path / "ViT-T-8.pt", architecture)
        assert (checkpoint.has_text_tower, checkpoint.outside) == (True, [])
        assert {checkpoint.dtype("blocks.0.q.weight"), checkpoint.dtype("ln_pre.weight")} == {"float16", "float32"}
        assert_embeds(checkpoint, architecture, model.float().encode_image(IMAGES))

    @pytest.mark.filterwarnings("ignore")
    def test_scripted(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"inner": nn.LayerNorm(4)})["inner"]).eval()
        torch.jit.script(model).save(tmp_path / "scripted")
        tensors = open_tensors(tmp_path / "scripted")
        assert {name: tensors.read(name).tolist() for name in tensors.names()} == {
            name: value.tolist() for name, value in model.state_dict().items()
        }


class TestValues:
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_views_of_storages(self, tmp_path: Path, legacy: bool) -> None:
        """Parts, transposes and rows that share one storage, as PyTorch itself reads them back."""
        whole = torch.arange(60.0).reshape(3, 4, 5)
        state = {"all": whole, "part": whole[1:, 2], "turned": whole.permute(2, 0, 1), "step": whole[::2, 1:3, 4]}
        state |= {
            "one": whole[2, 3, 4],
            "none": whole[:0],
            "half": whole.half(),
            "brain": whole.bfloat16(),
            "odd": whole.double(),
        }
        torch.save(state, tmp_path / "views.pt", _use_new_zipfile_serialization=not legacy)
        tensors, expected = open_tensors(tmp_path / "views.pt"), torch.load(tmp_path / "views.pt")
        assert set(tensors.names()) == set(expected)
        for name, value in expected.items():
            assert (tensors.shape(name), tensors.read(name).dtype) == (tuple(value.shape), value.dtype)
            assert torch.equal(tensors.read(name), value)
            if value.ndim and len(value) > 1:
                assert torch.equal(tensors.read(name, slice(1, len(value))), value[1:])

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    @pytest.mark.parametrize("keep", [0.5, 0.99])
    def test_a_file_cut_short(self, tmp_path: Path, architecture: VisionArchitecture, legacy: bool, keep: float) -> None:
        path = tmp_path / "cut.pt"
        torch.save(tiny_model().state_dict(), path, _use_new_zipfile_serialization=not legacy)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
            opened(path, architecture)


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
            ("run.ckpt", prefixed("a.", averaged()) | prefixed("b."), ("a.visual.", "b.visual.")),
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


def run_command(message: str, folder: Path) -> Path:
    """Run the command at the end of a message in a shell, and return the file that it wrote."""
    command = message[message.index("python -") :].replace("python", sys.executable, 1)
    there = set(folder.iterdir())
    subprocess.run(command, shell=True, cwd=folder, check=True, timeout=120, capture_output=True)
    (written,) = set(folder.iterdir()) - there
    return written


CONVERTED: dict[str, Callable[[], Any]] = {
    "sparse": lambda: {"state_dict": prefixed("m.") | {"m.visual.proj": tiny_model().visual.proj.detach().to_sparse()}},
    "numpy": lambda: {name: tensor.numpy() for name, tensor in tiny_model().state_dict().items()},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CONVERTED)
def test_tensors_that_are_not_plain(tmp_path: Path, architecture: VisionArchitecture, kind: str) -> None:
    torch.save(CONVERTED[kind](), tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="not a plain tensor, and mingle-edge runs no code from a checkpoint") as raised:
        opened(tmp_path / "run.pt", architecture)
    assert_embeds(opened(run_command(str(raised.value), tmp_path), architecture), architecture)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_weights(tmp_path: Path, architecture: VisionArchitecture) -> None:
    proj = torch.quantize_per_tensor(tiny_model().visual.proj.detach(), 0.01, 0, torch.qint8)
    torch.save(tiny_model().state_dict() | {"visual.proj": proj}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"'visual\.proj' is a quantized tensor") as raised:
        opened(tmp_path / "run.pt", architecture)
    checkpoint = opened(run_command(str(raised.value), tmp_path), architecture)
    assert torch.equal(checkpoint.tensor("projection.weight"), proj.dequantize().T)
    assert math.isclose(float(checkpoint.tensor("ln_pre.weight")[0]), float(tiny_model().visual.ln_pre.weight[0]))
