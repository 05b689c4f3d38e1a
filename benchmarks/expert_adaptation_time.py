"""How long it takes to adapt one task's expert at full size, and how much memory.

    python -m benchmarks.expert_adaptation_time [--model ViT-B-32] [--rank 16] [--seeds 50] [--json FILE]

A tower of random but realistically scaled weights, a fine-tuned copy with noise on every parameter, and seeds of noise. `STEPS`
steps are run, with a look at the left-out seeds after every third; the time of a whole adaptation is that of `WHOLE` steps and
seven looks (one before the first step). Memory is the process's peak.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.adaptation_step import RandomImages
from benchmarks.architectures import MODELS, random_backbone
from benchmarks.command import make_parser, write_report
from mingle_edge.clip.head import Head
from mingle_edge.data.settings import Settings
from mingle_edge.experts.expert_adaptation import LOOKS, adapt_expert
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.merging.task_merging import complete_expert

STEPS, WHOLE = 18, 150
EVERY = STEPS // LOOKS


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = make_parser(__doc__, model="ViT-B-32", rank=16, seeds=50).parse_args(options)
    architecture = MODELS[arguments.model]
    generator = torch.Generator().manual_seed(0)
    backbone = {name: torch.from_numpy(array) for name, array in random_backbone(architecture).items()}
    finetuned = {name: w + 0.005 * torch.randn(w.shape, generator=generator) for name, w in backbone.items()}
    weight = torch.nn.functional.normalize(torch.randn(10, architecture.output_dim, generator=generator), dim=1)
    side = architecture.image_size
    images = RandomImages(torch.randn(arguments.seeds, 3, side, side, generator=generator))
    pretrained = PretrainedModel(backbone, architecture, torch.device("cpu"))
    task = FinetunedTask("task", finetuned, Head(weight, None, 100.0), images)
    settings = Settings(rank=arguments.rank, expert_steps=STEPS)
    expert, _ = complete_expert(task, pretrained, settings)
    moments = [time.perf_counter()]

    def took(stage: str, done: int, total: int, detail: str = "") -> None:
        moments.append(time.perf_counter())

    adapt_expert(expert, task, pretrained, settings, took)
    between = np.diff(moments[1:])  # between the ends of steps, of which every third is followed by a look
    looked = np.arange(1, len(between) + 1) % EVERY == 0
    step = float(np.median(between[~looked]))
    look = max(0.0, float(np.median(between[looked])) - step)
    figures = {
        "model": arguments.model,
        "rank": arguments.rank,
        "seeds": arguments.seeds,
        "threads": torch.get_num_threads(),
        "seconds_a_step": step,
        "seconds_a_look": look,
        "minutes_of_an_adaptation": (WHOLE * step + (LOOKS + 1) * look) / 60,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }
    write_report(arguments.json, figures, show=True)


if __name__ == "__main__":
    main()
