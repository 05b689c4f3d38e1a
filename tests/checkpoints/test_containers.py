"""A tower in whatever a training wrote: under any names, in any format of PyTorch, inside objects of classes not here."""

from __future__ import annotations

import argparse
import copy
import math
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
from saved_towers import IMAGES, assert_embeds, opened, prefixed
from tiny_clip import hugging_face_model, tiny_model, write_config
from torch import Tensor, nn

from mingle_edge.checkpoints import read_architecture
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.checkpoints.text_tower import build_text_tower, logit_scale
from mingle_edge.checkpoints.tower_names import find_towers, model_names
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import CheckpointError


@pytest.fixture
def architecture(tmp_path: Path) -> VisionArchitecture:
    write_config(tmp_path / "model.json")
    return read_architecture("model.json", tmp_path)


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
