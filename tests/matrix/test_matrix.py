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
from page import CELLS, CONTAINERS, EVERY, PAGE, exact_row, refused_row
from PIL import Image
from refused import REFUSED, Refused, clip
from safetensors.torch import load_file, save_file

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.core.errors import CheckpointError
from mingle_edge.merging.merge import merge
from mingle_edge_export import export_bundle
from mingle_edge_runtime import Bundle, EdgeModel

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
    folder: Path
    """of the task file, with a folder of each task's checkpoint"""


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
    return Served(EdgeModel.open(folder / "bundle"), expected, folder)


@pytest.mark.parametrize(("family", "container", "library"), CELLS)
def test_the_bundle_computes_what_the_library_computes(serve, family, container, library):
    served = serve(family)
    used = CONTAINERS[FAMILIES[family].library]
    number = next(i for i, c in enumerate(used) if (c.name, c.library) == (container, library))
    expected = served.expected[f"task{number}"]
    actual = torch.from_numpy(served.model.embed(PICTURES, f"task{number}"))
    scale = 1.0 if not FAMILIES[family].classifier else float(expected.norm(dim=1).max())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=used[number].tolerance)


def test_a_task_of_low_rank_weighs_what_its_adapter_weighs(serve):
    served = serve("CLIPModel")
    number = next(i for i, container in enumerate(CONTAINERS["transformers"]) if container.name == containers.LORA)
    adapter = load_file(served.folder / f"task{number}" / "adapter" / "adapter_model.safetensors")
    factors = sum(tensor.nbytes for name, tensor in adapter.items() if "vision_model" in name)
    task = Bundle.open(served.folder / "bundle").index.tasks[number]
    assert task.rank == containers.RANK
    assert factors <= task.expert_bytes <= factors + 4096  # names and shapes


@pytest.fixture(scope="module")
def clip_backbone(tmp_path_factory):
    """Return the folder of a CLIPModel, what checkpoints are refused as tasks of."""
    folder = tmp_path_factory.mktemp("backbone")
    with torch.no_grad():
        FAMILIES["CLIPModel"].write_backbone(clip(), folder)
    return folder


def read(named: str, folder: Path, backbone_folder: Path, case: Refused) -> None:
    """Read something as a backbone or as a task of the backbone, as merging does."""
    if case.as_backbone:
        read_architecture(named, folder)
        return
    architecture = read_architecture("backbone", backbone_folder)
    backbone = open_checkpoint("backbone", base=backbone_folder, architecture=architecture)
    opened = open_checkpoint(named, base=folder, architecture=architecture, backbone=backbone)
    check_checkpoint(opened, architecture, backbone=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", REFUSED, ids=[f"{case.name}, {case.library}" for case in REFUSED])
@torch.no_grad()
def test_what_is_refused_says_what_it_is_and_the_way_on(tmp_path, clip_backbone, case: Refused):
    named = case.write(tmp_path)
    with pytest.raises(CheckpointError, match=f"(?s){case.says}") as caught:
        read(named, tmp_path, clip_backbone, case)
    row = refused_row(case, str(caught.value), tmp_path)
    assert row in PAGE.read_text().splitlines(), "the page is of other messages: python tests/matrix/write_page.py"


def test_the_page_has_every_cell_and_no_other():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    expected = [exact_row(*cell) for cell in CELLS]
    assert [row for row in rows if "| exact" in row] == expected
    assert len(rows) == len(expected) + len(REFUSED) + 4  # and the heads of two tables, two lines each
    assert len(CELLS) + len(REFUSED) >= 80
