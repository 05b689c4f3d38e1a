"""Heads and class names that would give two classes one embedding, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import write_config, write_open_clip
from tiny_merged import ARCHITECTURE
from torch import Tensor

from mingle_edge.checkpoints.class_embeddings import TextTower, class_embeddings
from mingle_edge.checkpoints.head_file import read_head
from mingle_edge.checkpoints.text_tower import build_text_tower
from mingle_edge.core.errors import CheckpointError, TaskFileError

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> TextTower:
    base = tmp_path_factory.mktemp("tower")
    write_config(base / "model.json")
    write_open_clip(base / "whole.safetensors")
    return build_text_tower("model.json", "whole.safetensors", base)


def head(tmp_path: Path, rows: Tensor, classes: list[str] = CLASSES) -> Tensor:
    save_file({"embeddings": rows}, tmp_path / "head.safetensors")
    return read_head(tmp_path / "head.safetensors", classes, replace(ARCHITECTURE, output_dim=rows.shape[1]), 100.0).weight


@pytest.mark.parametrize("pair", [("A", "a"), ("cat", "cat "), ("&amp;", "&"), ("caf\u00e9", "cafe\u0301"), ("a\tb", "a  b")])
def test_classes_the_tokenizer_cannot_tell_apart(tower: TextTower, pair: tuple[str, str]) -> None:
    with pytest.raises(TaskFileError, match="are the same tokens to CLIP's tokenizer, so nothing") as error:
        class_embeddings(tower, ["dog", pair[0], "owl", pair[1]], ["a photo of a {}."])
    assert all(ascii(name) in str(error.value) for name in pair)
    assert "dog" not in str(error.value)


def test_names_that_only_look_alike_are_left_alone(tower: TextTower) -> None:
    assert len(torch.unique(class_embeddings(tower, ["ab", "a b", "b a"], ["{}"]), dim=0)) == 3


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-3, 1e3])
def test_equal_rows_of_a_head_are_named(tmp_path: Path, scale: float) -> None:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    head(tmp_path, rows)
    rows[2] = scale * rows[0]
    message = r"head\.safetensors: the classes 'cat' and 'owl' have the same embedding \(rows 0 and 2\)"
    with pytest.raises(CheckpointError, match=message):
        head(tmp_path, rows)
    head(tmp_path, rows + 1e-3 * torch.randn(3, 16, generator=torch.Generator().manual_seed(1)) * scale)
    rows[2] = -rows[0]
    head(tmp_path, rows)


def test_equal_rows_far_apart_in_a_large_head(tmp_path: Path) -> None:
    rows = torch.randn(2500, 8, generator=torch.Generator().manual_seed(0))
    rows[2400] = rows[1100]
    with pytest.raises(CheckpointError, match="rows 1100 and 2400"):
        head(tmp_path, rows, [f"class {i}" for i in range(2500)])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_finite_scale_leaves_unit_rows(tmp_path: Path, scale: float) -> None:
    """Squares of these are beyond float32: the lengths would be zero or infinite, and the rows refused, or zero."""
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(tmp_path, rows * scale), head(tmp_path, rows))
