"""From a folder of transformers to a bundle: images are prepared as the folder's own image processor prepares them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import write_hugging_face, write_images
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_runtime import EdgeModel

PICTURES = [
    Image.fromarray(noise(height, width, channels)) for height, width, channels in ((40, 51, 3), (90, 33, 3), (40, 35, 4))
]
PROCESSORS = {
    "crop": CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}),
    "squash": ViTImageProcessorPil(size={"height": 32, "width": 32}, do_convert_rgb=True, image_std=(0.25, 0.5, 1)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_edge_model_prepares_images_as_the_processor_does(tmp_path: Path, name: str) -> None:
    processor = PROCESSORS[name]
    for seed, folder in enumerate(("backbone", "task")):
        write_hugging_face(tmp_path / folder, seed, "CLIPVisionModelWithProjection")
        processor.save_pretrained(tmp_path / folder)
    write_images(tmp_path / "seeds", count=3, seed=0)
    save_file({"embeddings": torch.eye(32)[:3].contiguous()}, tmp_path / "head.safetensors")
    task = {"name": "task", "weights": "task", "seeds": "seeds", "head": "head.safetensors", "classes": ["a", "b", "c"]}
    lines = ["[backbone]", 'model = "backbone"', 'weights = "backbone"', "[[task]]"]
    (tmp_path / "TASKS.toml").write_text("\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in task.items())]))
    merged = merge(tmp_path / "TASKS.toml", tmp_path / "merged")
    x = torch.from_numpy(np.concatenate([processor(picture, return_tensors="np")["pixel_values"] for picture in PICTURES]))
    with EdgeModel.open(export_bundle(merged.path, tmp_path / "bundle", ExportOptions()).path, threads=1) as model:
        np.testing.assert_allclose(model.embed(PICTURES, task="task"), GatedTower(merged).embed(x, "task"), atol=1e-4)
