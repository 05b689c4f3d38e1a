"""Every checkpoint of the matrix through merge at full rank, export and the runtime, against its own library's forward pass."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import containers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_families import CLASSES, FAMILIES, WIDTH, Family
from PIL import Image
from safetensors.torch import save_file

from mingle_edge.merging.merge import merge
from mingle_edge_export import export_bundle
from mingle_edge_runtime import EdgeModel

CONTAINERS = {"open_clip": containers.OPEN_CLIP, "transformers": containers.HUGGING_FACE}
EVERY = ("CLIP, QuickGELU", "CLIPModel")
"""The families whose models are written in every container; of the others one is enough."""
CELLS = [
    (family.name, container.name, container.library)
    for family in FAMILIES.values()
    for container in CONTAINERS[family.library][: None if family.name in EVERY else 1]
]
PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8))
    for n, size in enumerate(((41, 35), (32, 32), (35, 70), (100, 33)))
]


@dataclass
class Served:
    """A family's bundle, and what the library computes of each of its tasks."""

    model: EdgeModel
    expected: dict[str, torch.Tensor]
    """task -> embeddings `[n, dim]`"""


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Return a function from a family's name to its bundle, made when first asked for."""
    served: dict[str, Served] = {}

    def of(name: str) -> Served:
        if name not in served:
            served[name] = _serve(FAMILIES[name], tmp_path_factory.mktemp("family"))
        return served[name]

    yield of
    for one in served.values():
        one.model.close()


@torch.no_grad()
def _serve(family: Family, folder: Path) -> Served:
    backbone = family.write_backbone(family.pretrained(), folder)
    lines = ["[backbone]", f'model = "{backbone.model}"', *([f'weights = "{backbone.weights}"'] if backbone.weights else [])]
    lines += ["[settings]", f"rank = {4 * WIDTH}", "router_augmentations = 1", "router_blocks = 0"]
    (folder / "seeds").mkdir()
    for number, picture in enumerate(PICTURES):
        picture.save(folder / "seeds" / f"{number}.png")
    expected = {}
    used = CONTAINERS[family.library][: None if family.name in EVERY else 1]
    for number, container in enumerate(used):
        task = f"task{number}"
        model = container.adapt(family.pretrained()) if container.adapt else family.finetuned(number)
        expected[task] = family.embed(model, PICTURES)
        (folder / task).mkdir()
        weights = container.write(model, folder / task)
        lines += ["[[task]]", f'name = "{task}"', f'weights = "{task}/{weights}"', 'seeds = "seeds"']
        if not family.classifier:
            head = torch.randn((len(CLASSES), family.dim), generator=torch.Generator().manual_seed(number))
            save_file({"embeddings": F.normalize(head, dim=1)}, folder / task / "head.safetensors")
            lines += [f"classes = {json.dumps(CLASSES)}", f'head = "{task}/head.safetensors"']
    if containers.OLD_REQUESTS:
        containers.write_old()
    (folder / "TASKS.toml").write_text("\n".join(lines) + "\n")
    merge(folder / "TASKS.toml", folder / "merged")
    export_bundle(folder / "merged", folder / "bundle")
    return Served(EdgeModel.open(folder / "bundle"), expected)


@pytest.mark.parametrize(("family", "container", "library"), CELLS)
def test_the_bundle_computes_what_the_library_computes(serve, family, container, library):
    served = serve(family)
    used = CONTAINERS[FAMILIES[family].library]
    number = next(i for i, c in enumerate(used) if (c.name, c.library) == (container, library))
    expected = served.expected[f"task{number}"]
    actual = torch.from_numpy(served.model.embed(PICTURES, f"task{number}"))
    scale = 1.0 if not FAMILIES[family].classifier else float(expected.norm(dim=1).max())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=used[number].tolerance)
