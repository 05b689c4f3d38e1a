"""Merge, export and run at full size: time, memory and latency of a whole CLIP vision tower with N tasks.

    python -m benchmarks.full_size --model ViT-B-32 --tasks 8 -o DIR [--scope image|layer|both] [--rank 64|auto]
                                   [--expert-steps 150] [--keep POINTS | --expert-bytes SIZE]

Writes a random but realistically scaled backbone and N fine-tuned copies in Hugging Face's format, heads and seed images,
and then runs the same commands a user would: `mingle-edge merge` and `export` in processes of their own (their peak memory
is what the system says), `profile` with one thread. Figures go to DIR/full_size.json after each step; what is there already
is kept, so an interrupted run continues. `--keep` and `--expert-bytes` are those of `mingle-edge export`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import apart
from benchmarks.architectures import MODELS
from benchmarks.command import make_parser
from benchmarks.memory_account import account
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.demo import task_files as demo

CLASSES, SEEDS_PER_CLASS = 10, 5
SHIFT = 0.05  # size of a fine-tuned difference, as a share of the weight's own size
DECAY = 0.13, 1.8
"""x and a of the law that task vectors decay by; measured by task_vector_spectra.py on the suite's fine-tuned models."""


def main(options: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = make_parser(__doc__, tasks=8, runs=60)
    parser.add_argument("--rank", default="64", help="a number, or auto [default: 64]")
    parser.add_argument("--expert-steps", type=int, help="of the adaptation of an expert; 0 truncates alone")
    parser.add_argument("--model", default="ViT-B-32", choices=list(MODELS))
    parser.add_argument("--scope", default="both", choices=["image", "layer", "both"])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--keep", type=float, help="the accuracy points that an expert may lose")
    size.add_argument("--expert-bytes", help="the bytes that an expert may have, such as 3M")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args(options)
    folder: Path = arguments.output
    write_inputs(folder / "inputs", MODELS[arguments.model], arguments.tasks)
    results = folder / "full_size.json"
    figures = json.loads(results.read_text()) if results.exists() else {}
    for scope in ("image", "layer") if arguments.scope == "both" else (arguments.scope,):
        figures[scope] = measure(folder, scope, arguments, figures.get(scope, {}))
        results.write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps({scope: {k: v for k, v in figures[scope].items() if k != "profile"}}, indent=1), flush=True)


def measure(folder: Path, scope: str, arguments: argparse.Namespace, known: Mapping[str, Any]) -> dict[str, Any]:
    """Time, memory and latency of one scope; `known` figures whose output still exists are kept."""
    merged, bundle = folder / f"merged-{scope}", folder / f"bundle-{scope}"
    rank = int(arguments.rank) if arguments.rank.isdecimal() else arguments.rank
    tasks = write_task_file(folder / "inputs", scope, arguments.tasks, rank, arguments.expert_steps)
    figures = dict(known)
    if "merge" not in figures or not merged.exists():
        figures["merge"] = command("merge", str(tasks), "-o", str(merged))
    given = {"--keep": arguments.keep, "--expert-bytes": arguments.expert_bytes}
    size = [text for option, value in given.items() if value is not None for text in (option, str(value))]
    if "export" not in figures or figures.get("size") != size or not bundle.exists():
        shutil.rmtree(bundle, ignore_errors=True)  # of another size
        figures |= {"export": command("export", str(merged), "-o", str(bundle), *size), "size": size}
    report = folder / f"profile-{scope}.json"
    options = ["--threads", "1", "--against", "dense", "--runs", str(arguments.runs), "--json", str(report)]
    command("profile", str(bundle), *options)
    profile = json.loads(report.read_text())
    figures["minutes_merge_and_export"] = (figures["merge"]["seconds"] + figures["export"]["seconds"]) / 60
    figures["peak_gib"] = max(figures["merge"]["peak_gib"], figures["export"]["peak_gib"])
    figures["experts"] = [
        {name: task.get(name) for name in ("rank", "precision", "expert_bytes", "points_lost", "agreement")}
        for task in json.loads((bundle / "bundle.json").read_text())["tasks"]
    ]
    figures["ratio_to_dense"] = profile["ratios"]["dense"]
    figures["open_seconds"] = profile["seconds"]["open"]
    figures["expert_bytes_read_by_open"] = apart.call(account, str(bundle.resolve()), "named", 1)["read_by_open"]
    figures["profile"] = profile
    return figures


def command(*arguments: str) -> dict[str, float]:
    """Run a `mingle-edge` command as a process; wall-clock seconds and peak resident memory."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "from mingle_edge.cli import main; main()", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"mingle-edge {' '.join(arguments)} failed")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    return {"seconds": round(time.perf_counter() - started, 1), "peak_gib": round(usage.ru_maxrss * unit / 2**30, 2)}


def write_task_file(inputs: Path, scope: str, tasks: int, rank: int | str, expert_steps: int | None = None) -> Path:
    """Write the task file of one scope and return its path. expert_steps: the setting, left to its default when None."""
    path, classes = inputs / f"{scope}.toml", [f"class {c}" for c in range(CLASSES)]
    tables = [
        {"name": name, "weights": name, "seeds": f"{name}-seeds", "classes": classes, "head": f"{name}-head.safetensors"}
        for name in (f"task{t}" for t in range(tasks))
    ]
    settings = {"scope": scope, "rank": rank} | ({} if expert_steps is None else {"expert_steps": expert_steps})
    demo.write_task_file(path, {"model": "backbone"}, settings, tables)
    return path


def write_inputs(inputs: Path, a: VisionArchitecture, tasks: int) -> None:
    """Write backbone, fine-tuned copies, heads and seeds; what is complete already is left alone."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=a.width,
        intermediate_size=a.mlp_width,
        projection_dim=a.output_dim,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        image_size=a.image_size,
        patch_size=a.patch_size,
        hidden_act=a.activation,
        layer_norm_eps=a.layer_norm_eps,
    )
    backbone = CLIPVisionModelWithProjection(config)
    for value in backbone.state_dict().values():
        if value.ndim == 1:  # transformers starts with biases of 0
            value += 0.05 * torch.randn_like(value)
    backbone.save_pretrained(inputs / "backbone")
    for t in range(tasks):
        head = inputs / f"task{t}-head.safetensors"  # the last file of a task
        if head.exists():
            continue
        torch.manual_seed(1 + t)
        tuned = deepcopy(backbone)
        for value in tuned.vision_model.state_dict().values():
            value += difference(value)
        tuned.save_pretrained(inputs / f"task{t}")
        write_seeds(inputs / f"task{t}-seeds", a.image_size, np.random.default_rng(1 + t))
        save_file({"embeddings": torch.randn(CLASSES, a.output_dim)}, head)
        print(f"wrote task {t + 1} of {tasks}", file=sys.stderr, flush=True)


def difference(value: Tensor) -> Tensor:
    """Draw a difference of `SHIFT` times the size of a parameter; a matrix has singular values that decay by `DECAY`."""
    noise = torch.randn_like(value)
    if value.ndim > 1:
        rows, columns = len(value), value[0].numel()
        count = min(rows, columns)
        left, right = (torch.linalg.qr(torch.randn(side, count))[0] for side in (rows, columns))
        noise = (left * torch.from_numpy(decaying(count, *DECAY)).float() @ right.T).view_as(value)
    moved: Tensor = SHIFT * value.norm() / noise.norm() * noise
    return moved


def decaying(count: int, start: float, exponent: float) -> NDArray[np.float64]:
    """Return `count` singular values that fall as `(1 + i / (count * start))^-exponent`."""
    values: NDArray[np.float64] = (1 + np.arange(count) / (count * start)) ** -exponent
    return values


def write_seeds(folder: Path, size: int, random: np.random.Generator) -> None:
    """Write smooth colored images; the folder's mean color and contrast are the task's."""
    folder.mkdir(parents=True, exist_ok=True)
    color, contrast = random.uniform(60, 195, 3), random.uniform(10, 60)
    for i in range(CLASSES * SEEDS_PER_CLASS):
        coarse = (color + contrast * random.standard_normal((8, 8, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")


if __name__ == "__main__":
    main()
