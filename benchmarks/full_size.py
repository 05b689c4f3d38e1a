"""Merge, export and run at full size: time, memory and latency of a whole CLIP vision tower with N tasks.

    python -m benchmarks.full_size --model ViT-B-32 --tasks 8 -o DIR [--scope image|layer|both]

Writes a random but realistically scaled backbone and N fine-tuned copies in Hugging Face's format, heads and seed images,
and then runs the same commands a user would: `mingle-edge merge` and `export` in processes of their own (their peak memory
is what the system says), `profile` with one thread. Figures go to DIR/full_size.json after each step; what is there already
is kept, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from benchmarks import apart
from benchmarks.architectures import MODELS
from benchmarks.command import make_parser
from benchmarks.opening import open_and_run
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.demo import task_files as demo

Array = NDArray[Any]
CLASSES, SEEDS_PER_CLASS = 10, 5
SHIFT = 0.05  # size of a fine-tuned difference, as a share of the weight's own size
SIGNAL_RANK = 16  # half of a difference is of this rank, half is noise


def main(options: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="ViT-B-32", choices=list(MODELS))
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--scope", default="both", choices=["image", "layer", "both"])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--runs", type=int, default=60, help="timed runs of each kind")
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
    tasks = write_task_file(folder / "inputs", scope, arguments.tasks, arguments.rank)
    figures = dict(known)
    if "merge" not in figures or not merged.exists():
        figures["merge"] = command("merge", str(tasks), "-o", str(merged))
    if "export" not in figures or not bundle.exists():
        figures["export"] = command("export", str(merged), "-o", str(bundle))
    report = folder / f"profile-{scope}.json"
    options = ["--threads", "1", "--against", "dense", "--runs", str(arguments.runs), "--json", str(report)]
    command("profile", str(bundle), *options)
    profile = json.loads(report.read_text())
    figures["minutes_merge_and_export"] = (figures["merge"]["seconds"] + figures["export"]["seconds"]) / 60
    figures["peak_gib"] = max(figures["merge"]["peak_gib"], figures["export"]["peak_gib"])
    figures["ratio_to_dense"] = profile["ratios"]["dense"]
    figures["open_seconds"] = profile["seconds"]["open"]
    figures["expert_bytes_read_by_open"] = apart.call(open_and_run, str(bundle.resolve()), 1, True)["expert_bytes_read"]
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


def write_task_file(inputs: Path, scope: str, tasks: int, rank: int) -> Path:
    """Write the task file of one scope and return its path."""
    path, classes = inputs / f"{scope}.toml", [f"class {c}" for c in range(CLASSES)]
    tables = [
        {
            "name": f"task{t}",
            "weights": f"task{t}",
            "seeds": f"seeds/task{t}",
            "classes": classes,
            "head": f"head{t}.safetensors",
        }
        for t in range(tasks)
    ]
    demo.write_task_file(path, {"model": "backbone"}, {"scope": scope, "rank": rank}, tables)
    return path


def write_inputs(inputs: Path, architecture: VisionArchitecture, tasks: int) -> None:
    """Write backbone, fine-tuned copies, heads and seeds; what is complete already is left alone."""
    random = np.random.default_rng(0)
    backbone = random_tower(architecture, random)
    if not (inputs / "backbone" / "config.json").exists():
        write_hugging_face(inputs / "backbone", architecture, backbone, "CLIPVisionModelWithProjection")
    for t in range(tasks):
        if (inputs / f"task{t}" / "config.json").exists():
            continue
        random = np.random.default_rng(1 + t)
        head = random.standard_normal((CLASSES, architecture.output_dim), dtype=np.float32)
        save_file({"embeddings": head}, inputs / f"head{t}.safetensors")
        write_seeds(inputs / "seeds" / f"task{t}", architecture.image_size, random)
        tuned = {name: fine_tuned(value, random) for name, value in backbone.items() if name != "visual_projection.weight"}
        write_hugging_face(inputs / f"task{t}", architecture, tuned, "CLIPVisionModel")
        print(f"wrote task {t + 1} of {tasks}", file=sys.stderr, flush=True)


def random_tower(architecture: VisionArchitecture, random: np.random.Generator) -> dict[str, Array]:
    """Draw a tower in Hugging Face's names whose weights keep the scale of what passes through them."""
    width, mlp, patch = architecture.width, architecture.mlp_width, architecture.patch_size

    def linear(d_out: int, d_in: int) -> Array:
        return random.standard_normal((d_out, d_in), dtype=np.float32) * np.float32(d_in**-0.5)

    def vector(size: int, mean: float = 0.0) -> Array:
        return (mean + 0.05 * random.standard_normal(size, dtype=np.float32)).astype(np.float32)

    def norm(name: str) -> dict[str, Array]:
        return {f"{name}.weight": vector(width, 1.0), f"{name}.bias": vector(width)}

    tower = {
        "embeddings.class_embedding": vector(width),
        "embeddings.patch_embedding.weight": linear(width, 3 * patch**2).reshape(width, 3, patch, patch),
        "embeddings.position_embedding.weight": vector(architecture.tokens * width).reshape(-1, width),
        **norm("pre_layrnorm"),
        **norm("post_layernorm"),
    }
    for i in range(architecture.layers):
        layer = f"encoder.layers.{i}"
        tower |= norm(f"{layer}.layer_norm1") | norm(f"{layer}.layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tower[f"{layer}.self_attn.{name}.weight"] = linear(width, width)
            tower[f"{layer}.self_attn.{name}.bias"] = vector(width)
        for name, d_out, d_in in (("fc1", mlp, width), ("fc2", width, mlp)):
            tower[f"{layer}.mlp.{name}.weight"] = linear(d_out, d_in)
            tower[f"{layer}.mlp.{name}.bias"] = vector(d_out)
    return tower | {"visual_projection.weight": linear(architecture.output_dim, width)}


def fine_tuned(value: Array, random: np.random.Generator) -> Array:
    """Return the value with a difference of `SHIFT` times its size, half of it of low rank."""
    noise = random.standard_normal(value.shape, dtype=np.float32)
    flat = noise.reshape(len(value), -1)
    if min(flat.shape) > SIGNAL_RANK:
        left = random.standard_normal((len(flat), SIGNAL_RANK), dtype=np.float32)
        signal = left @ random.standard_normal((SIGNAL_RANK, flat.shape[1]), dtype=np.float32) / SIGNAL_RANK**0.5
        noise = (flat + signal).reshape(value.shape)
    moved: Array = value + np.float32(SHIFT * np.linalg.norm(value) / np.linalg.norm(noise)) * noise
    return moved


def write_hugging_face(folder: Path, a: VisionArchitecture, tower: dict[str, Array], kind: str) -> None:
    """Write config.json and model.safetensors as transformers before version 5 names them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {n: n if n == "visual_projection.weight" else f"vision_model.{n}" for n in tower}
    save_file({names[n]: value for n, value in tower.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [kind],
        "model_type": "clip_vision_model",
        "hidden_size": a.width,
        "intermediate_size": a.mlp_width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "image_size": a.image_size,
        "patch_size": a.patch_size,
        "hidden_act": a.activation,
        "projection_dim": a.output_dim,
        "layer_norm_eps": a.layer_norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def write_seeds(folder: Path, size: int, random: np.random.Generator) -> None:
    """Write smooth colored images; the folder's mean color and contrast are the task's."""
    folder.mkdir(parents=True, exist_ok=True)
    color, contrast = random.uniform(60, 195, 3), random.uniform(10, 60)
    for i in range(CLASSES * SEEDS_PER_CLASS):
        coarse = (color + contrast * random.standard_normal((8, 8, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")


if __name__ == "__main__":
    main()
