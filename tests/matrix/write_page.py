"""Write docs/checkpoints.md, with the messages that are given now: python tests/matrix/write_page.py."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from model_families import FAMILIES
from page import PAGE, page, refused_row
from refused import REFUSED, clip
from test_matrix import read

from mingle_edge.core.errors import CheckpointError


@torch.no_grad()
def write_page() -> None:
    """Cause every refusal once, and write the page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = Path(folder) / "backbone"
        backbone.mkdir()
        FAMILIES["CLIPModel"].write_backbone(clip(), backbone)
        for number, case in enumerate(REFUSED):
            base = Path(folder) / str(number)
            base.mkdir()
            try:
                read(case.write(base), base, backbone, case)
            except CheckpointError as error:
                rows.append(refused_row(case, str(error), base))
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    write_page()
