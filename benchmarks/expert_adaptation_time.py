"""How long it takes to adapt one task's expert at full size and to measure its forms, and how much memory.

    python -m benchmarks.expert_adaptation_time [--model ViT-B-32] [--rank 64] [--seeds 50] [--json FILE]

A tower of random but realistically scaled weights, a fine-tuned copy with noise on every parameter, and seeds of noise. `STEPS`
steps are run with everything before, between and after them; the whole is that, with `WHOLE` steps in their place. A rank of
64 is the most that `rank = "auto"` tries. Memory is the process's peak.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.adaptation_step import RandomImages
from benchmarks.architectures import MODELS, random_backbone
from benchmarks.command import make_parser, write_report
from mingle_edge.clip.head import Head
from mingle_edge.data.settings import Settings
from mingle_edge.experts.expert_size import size_expert
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.merging.task_merging import complete_expert

STEPS, WHOLE = 15, 150


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, model="ViT-B-32", rank=64, seeds=50).parse_args(options)
    architecture = MODELS[arguments.model]
    generator = torch.Generator().manual_seed(0)
    backbone = {name: torch.from_numpy(array) for name, array in random_backbone(architecture).items()}
    finetuned = {name: w + 0.005 * torch.randn(w.shape, generator=generator) for name, w in backbone.items()}
    weight = torch.nn.functional.normalize(torch.randn(10, architecture.output_dim, generator=generator), dim=1)
    side = architecture.image_size
    images = RandomImages(torch.randn(arguments.seeds, 3, side, side, generator=generator))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_device = [{name: w.to(device) for name, w in tower.items()} for tower in (backbone, finetuned)]
    pretrained = PretrainedModel(on_device[0], architecture, device)
    task = FinetunedTask("task", on_device[1], Head(weight, None, 100.0).to(device), images)
    settings = replace(Settings(), rank=arguments.rank, expert_steps=STEPS)
    expert, _ = complete_expert(task, pretrained, settings)
    moments = [time.perf_counter()]

    def took(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "adapt":
            moments.append(time.perf_counter())

    size_expert(expert, task, pretrained, settings, took)
    whole = time.perf_counter() - moments[0]
    # Between the ends of steps: what is longer than most has a look at the left-out seeds in it.
    step = float(np.quantile(np.diff(moments[1:]), 0.3))
    rest = max(0.0, whole - STEPS * step)
    figures = {
        "model": arguments.model,
        "device": str(device),
        "rank": arguments.rank,
        "seeds": arguments.seeds,
        "threads": torch.get_num_threads(),
        "seconds_a_step": step,
        "seconds_of_the_rest": rest,
        "minutes_of_an_adaptation": (WHOLE * step + rest) / 60,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }
    write_report(arguments.json, figures, show=True)


if __name__ == "__main__":
    main()
