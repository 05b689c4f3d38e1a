"""A tiny CLIP, trained on the spot in three steps: its text tower, its vision tower, and a copy fine-tuned for each task.

The text tower learns to tell subjects apart whatever the template around them, and is then locked: images are pulled towards
the text embeddings of their captions, as in locked-image tuning (arXiv 2111.07991) with the towers' roles exchanged. So a
caption is encoded once, not in every step, and text embeddings of the tasks' prompts are the class heads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mingle_edge.core.progress import Progress
from mingle_edge.demo.canvas import SIDE, Bytes
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, OPENAI_STD

WIDTH = 96  # of the demonstration's vision tower
_CONTEXT = 16  # tokens of a prompt
CAPTIONS = (
    "{}.",
    "the {}.",
    "a {}.",
    "a photo of a {}.",
    "a print of a {}.",
    "a handwritten {}.",
    "a satellite photo of a {}.",
)
"""Templates the text tower learns to look through."""

BATCH = 64  # images
LOGIT_SCALE = 30.0
_TEXT_LOGIT_SCALE = 10.0


@dataclass(frozen=True)
class Training:
    """How long and how fast one step of the making of the model is trained."""

    stage: str
    steps: int
    rate: float  # peak learning rate


TEXT = Training("text", 60, 2e-3)
PRETRAINING = Training("pretrain", 400, 1.5e-3)
FINE_TUNING = Training("fine-tune", 200, 2.5e-3)


def config(width: int) -> dict[str, Any]:
    """Return the architecture as an open_clip config, for a width of the vision tower."""
    return {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": width, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": _CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }


def new_model(seed: int, width: int = WIDTH) -> open_clip.CLIP:
    """Make an untrained model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config(width))
    model.logit_scale.data.fill_(math.log(LOGIT_SCALE))
    return model.requires_grad_(False)


def to_pixels(images: Bytes) -> Tensor:
    """Return images `[n, SIDE, SIDE, 3]` as the model reads them, `[n, 3, SIDE, SIDE]`; they have its size already."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


@torch.no_grad()
def text_embeddings(model: open_clip.CLIP, prompts: Sequence[str]) -> Tensor:
    """Return the prompts' embeddings `[n, dim]`, of unit length."""
    embeddings: Tensor = model.encode_text(_tokens(prompts), normalize=True)
    return embeddings


def train_text_tower(
    model: open_clip.CLIP, subjects: Sequence[str], seed: int, progress: Progress, training: Training = TEXT
) -> None:
    """Contrast subjects in one template with the same subjects in another, two random templates a step."""
    tokens = [_tokens([template.format(subject) for subject in subjects]) for template in CAPTIONS]
    generator, target = torch.Generator().manual_seed(seed), torch.arange(len(subjects))

    def loss() -> Tensor:
        one, other = torch.randperm(len(CAPTIONS), generator=generator)[:2].tolist()
        first, second = (model.encode_text(tokens[i], normalize=True) for i in (one, other))
        return F.cross_entropy(_TEXT_LOGIT_SCALE * first @ second.T, target)

    parameters = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    _train(parameters, loss, training, progress)


def pretrain(
    model: open_clip.CLIP,
    images: Bytes,
    subjects: Sequence[str],
    seed: int,
    progress: Progress,
    training: Training = PRETRAINING,
) -> None:
    """Train the vision tower to find each image's subject by its captions, mean text embedding over `CAPTIONS`."""
    names, labels = np.unique(subjects, return_inverse=True)
    per_template = [text_embeddings(model, [template.format(name) for name in names]) for template in CAPTIONS]
    head = F.normalize(torch.stack(per_template).mean(0), dim=-1)  # [subjects, dim]
    _fit(model, images, labels, head, seed, training, progress)


def fine_tune(
    model: open_clip.CLIP,
    images: Bytes,
    labels: NDArray[np.int64],
    prompts: Sequence[str],
    seed: int,
    progress: Progress,
    training: Training = FINE_TUNING,
) -> None:
    """Train every parameter of the vision tower on one task; the head is the prompts' text embeddings, one of a class."""
    head = text_embeddings(model, prompts)
    _fit(model, images, labels, head, seed, training, progress)


def save(model: open_clip.CLIP, path: Path, *, visual_only: bool = False) -> None:
    """Write the state dict under open_clip's names, of the whole model or of the vision tower alone."""
    state = {n: t.contiguous() for n, t in model.state_dict().items() if n.startswith("visual.") or not visual_only}
    save_file(state, path)


def save_config(path: Path, width: int = WIDTH) -> None:
    """Write the architecture as an open_clip JSON config."""
    path.write_text(json.dumps(config(width), indent=1) + "\n")


def _tokens(prompts: Sequence[str]) -> Tensor:
    tokens: Tensor = open_clip.SimpleTokenizer(context_length=_CONTEXT)(list(prompts))
    return tokens


def _fit(
    model: open_clip.CLIP,
    images: Bytes,
    labels: NDArray[np.integer[Any]],
    head: Tensor,
    seed: int,
    training: Training,
    progress: Progress,
) -> None:
    """Train the vision tower, on the device that holds it, to classify the images under a fixed head `[classes, dim]`."""
    pixels, target, device = to_pixels(images), torch.from_numpy(labels), next(model.visual.parameters()).device
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        embeddings = model.encode_image(_shifted(pixels[chosen], generator).to(device), normalize=True)  # [BATCH, dim]
        return F.cross_entropy(LOGIT_SCALE * embeddings @ head.T, target[chosen].to(device))

    head = head.to(device)
    _train(list(model.visual.parameters()), loss, training, progress)


def _shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to one pixel in each direction, edges repeated."""
    moved = torch.arange(-1, SIDE - 1) + torch.randint(3, (2, len(pixels), 1), generator=generator)
    rows, columns = moved.clamp(0, SIDE - 1)  # [B, SIDE] each
    source = (SIDE * rows[:, :, None] + columns[:, None, :]).view(len(pixels), 1, -1).expand(-1, 3, -1)
    return pixels.flatten(2).gather(2, source).view_as(pixels)


def _train(parameters: list[torch.nn.Parameter], loss: Callable[[], Tensor], training: Training, progress: Progress) -> None:
    """Minimize with AdamW: linear warm-up over a tenth of the steps, then half a cosine to zero."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=training.rate, betas=(0.9, 0.95), weight_decay=0.05)
    steps, warm_up = training.steps, training.steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        schedule.step()
        progress(training.stage, step + 1, steps, f"loss {value.item():.3f}")
    for parameter in parameters:
        parameter.requires_grad_(False)
