"""Towers in files of the tiny model, opened, compared with the library that owns the names, and saved anew by commands in
messages. Shared by tests of containers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from tiny_clip import tiny_model
from torch import Tensor

from mingle_edge.checkpoints import Checkpoint, check_checkpoint, open_checkpoint
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import embed_images

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A state dict, the tiny model's unless given, with a prefix before each name."""
    return {prefix + name: tensor for name, tensor in (state or tiny_model().state_dict()).items()}


def opened(path: Path, architecture: VisionArchitecture) -> Checkpoint:
    """The checked checkpoint of a task at a path."""
    checkpoint = open_checkpoint(str(path), base=path.parent, architecture=architecture)
    check_checkpoint(checkpoint, architecture, backbone=False)
    return checkpoint


def assert_embeds(checkpoint: Checkpoint, architecture: VisionArchitecture, expected: Tensor | None = None) -> None:
    """Compare with what the library that owns the names makes of the images; the tiny model of open_clip unless given."""
    if expected is None:
        expected = tiny_model().encode_image(IMAGES)
    found = embed_images(IMAGES, dict(checkpoint.tensors()), architecture)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def run_command(message: str, folder: Path) -> Path:
    """Run the Python command at the end of a message in a shell, and return the file that it wrote."""
    command = message[message.index("python -") :].replace("python", sys.executable, 1)
    there = set(folder.iterdir())
    subprocess.run(command, shell=True, cwd=folder, check=True, timeout=120, capture_output=True)
    (written,) = set(folder.iterdir()) - there
    return written
