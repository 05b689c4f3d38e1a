"""One step of gate adaptation at full size: factored experts against weights materialized in every forward.

    python -m benchmarks.adaptation_step [--tasks 8] [--batch 16] [--blocks 1] [--rounds 5] [--threads 1] [--json FILE]

A ViT-B/32 of random but realistically scaled weights with experts of rank 64 on all six linear layers of its first blocks. The
newest task's gates learn, the others are frozen. A step is forward, distillation loss, backward and Adam; what the teacher
says is known beforehand. Ours is `GateLearner.learn` itself. The other ways build `W + sum_t g_t B_t A_t`:

    published    per image: image by image, task by task, with every B_t A_t computed anew for each image, as the official code
                 does with batch_reduce off
    shared       per image: the same, but B_t A_t computed once in a forward
    batched      per image: the weights of all images in one product, the fastest way we know to materialize them
    published    pooled gates: one weight for the batch, task by task, as the official code runs by default

Before timing, losses and gradients of all new gates must agree within 1e-5 (relative). Ratios are medians over rounds, on the
clock of the process. Memory is the peak of one step in a process of its own above what the weights take: of the published way
4 GB for one block, 18 GB for two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from benchmarks import apart
from benchmarks.architectures import MODELS, random_backbone
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import compare_in_turn
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import Parameters, plain_linear
from mingle_edge.core.progress import silent
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import CONSTANT_START, Pooling, Settings
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.gates.adaptation import NewGate, adapt
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.gating import ExpertStack, GatedExperts, gate_values
from mingle_edge_runtime.ort.memory import process_memory

RANK, CLASSES, LOGIT_SCALE, TOLERANCE = 64, 10, 100.0, 1e-5
ARCHITECTURE = MODELS["ViT-B-32"]
WAYS: dict[Pooling, tuple[str, ...]] = {"image": ("published", "shared", "batched"), "batch": ("published",)}


class RandomImages(ImageSet):
    """One batch of noise in place of seed images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__([Path()] * len(images))
        self.images = images

    def load(self, numbers: Sequence[int], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
        """Return the images with these numbers."""
        return self.images[list(numbers)]


@dataclass(frozen=True)
class Setting:
    """A tower, the experts and gates of all tasks but the newest, the newest's experts, one batch and its teacher."""

    backbone: Parameters
    architecture: VisionArchitecture
    frozen: dict[str, GatedExperts]
    newest: dict[str, tuple[Tensor, Tensor]]  # B, A
    head: Tensor  # [CLASSES, output_dim]
    images: Tensor  # [batch, 3, H, W]
    teacher: Tensor  # [batch, CLASSES]

    @classmethod
    def random(cls, tasks: int, batch: int, blocks: int) -> Setting:
        """Return weights at the scale of a trained tower, experts at a few percent of them, gates near 0.3."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        architecture = replace(ARCHITECTURE, layers=blocks)
        backbone = {name: torch.from_numpy(value) for name, value in random_backbone(architecture).items()}
        frozen, newest = {}, {}
        for layer in architecture.block_linears():
            d_out, d_in = architecture.linear_shape(layer)
            A, B = 0.002 * normal(tasks, RANK, d_in), normal(tasks, d_out, RANK) / d_out**0.5
            gate = 0.01 * normal(tasks - 1, d_in), 0.3 + 0.1 * normal(tasks - 1)
            frozen[layer] = GatedExperts(ExpertStack(A[:-1], B[:-1]), *gate)
            newest[layer] = (B[-1], A[-1])
        head = F.normalize(normal(CLASSES, architecture.output_dim), dim=1)
        size = architecture.image_size
        images, teacher = normal(batch, 3, size, size), 3 * normal(batch, CLASSES)
        return cls(backbone, architecture, frozen, newest, head, images, teacher)

    def learner(self, pooling: Pooling, steps: int) -> GateLearner:
        """Make ours, with a batch of all images in every step."""
        return GateLearner(
            task=FinetunedTask("newest", {}, Head(self.head, None, LOGIT_SCALE), RandomImages(self.images)),
            pretrained=PretrainedModel(self.backbone, self.architecture, torch.device("cpu")),
            settings=Settings(scope="layer", gate_pooling=pooling, steps=steps, batch_size=len(self.images)),
            progress=silent,
        )

    def learn(self, pooling: Pooling, steps: int) -> tuple[dict[str, NewGate], list[float]]:
        """Take steps of ours; returns the gates, with the last step's gradients, and the losses."""
        learner = self.learner(pooling, steps)
        gates, _, losses = learner.learn(self.newest, self.frozen, {}, self.teacher)
        return gates, losses

    def materialized_step(self, way: str, pooling: Pooling) -> tuple[dict[str, NewGate], float]:
        """Take a step from the same start with materialized weights; returns the gates with their gradients, and the loss."""
        gates = {
            layer: NewGate(torch.zeros(1, A.shape[1]), torch.full((1,), CONSTANT_START))
            for layer, (_, A) in self.newest.items()
        }
        learner = self.learner(pooling, 1)

        def linear(layer: str, x: Tensor) -> Tensor:
            return self._linear(layer, x, gates, way, pooling)

        def student(images: Tensor) -> Tensor:
            return learner.logits(images, self.backbone, linear)

        batches = [(self.images, self.teacher)]
        rate, temperature = learner.settings.learning_rate, learner.settings.temperature
        (loss,) = adapt(student, gates, batches, learning_rate=rate, temperature=temperature, projected="update")
        return gates, loss

    def _linear(self, layer: str, x: Tensor, gates: dict[str, NewGate], way: str, pooling: Pooling) -> Tensor:
        if layer not in gates:
            return plain_linear(self.backbone)(layer, x)
        weight, bias = self.backbone[f"{layer}.weight"], self.backbone[f"{layer}.bias"]
        frozen, newest = self.frozen[layer], self.newest[layer]
        gate_weight = torch.cat([frozen.gate_weight, gates[layer].weight])
        gate_bias = torch.cat([frozen.gate_bias, gates[layer].bias])
        values = gate_values(x, gate_weight, gate_bias, pooling)  # [batch, T]
        factors = [*zip(frozen.experts.B, frozen.experts.A, strict=True), newest]
        if way == "batched":
            deltas = torch.stack([B @ A for B, A in factors]).flatten(1)  # [T, d_out d_in]
            weights = torch.addmm(weight.flatten(), values, deltas).view(-1, *weight.shape)  # [batch, d_out, d_in]
            return torch.baddbmm(bias, x, weights.mT)
        if pooling == "batch":
            return F.linear(x, _added(weight, values[0], [B @ A for B, A in factors]), bias)
        if way == "shared":
            deltas_once = [B @ A for B, A in factors]
            weights_of = (_added(weight, row, deltas_once) for row in values)
        else:
            weights_of = (_added(weight, row, [B @ A for B, A in factors]) for row in values)
        return torch.stack([F.linear(tokens, merged, bias) for tokens, merged in zip(x, weights_of, strict=True)])


def _added(weight: Tensor, values: Tensor, deltas: list[Tensor]) -> Tensor:
    """Add one task after another."""
    for value, delta in zip(values, deltas, strict=True):
        weight = weight + value * delta
    return weight


def compare(ours: tuple[dict[str, NewGate], float], theirs: tuple[dict[str, NewGate], float]) -> dict[str, float]:
    """Return relative differences of the loss and of the gradients of all gates."""
    gradients: list[list[Any]] = [
        [t.grad for gate in gates.values() for t in (gate.weight, gate.bias)] for gates, _ in (ours, theirs)
    ]
    own, other = (parameters_to_vector(tensors).double() for tensors in gradients)
    return {"loss": abs(ours[1] - theirs[1]) / abs(theirs[1]), "gradient": float((own - other).norm() / other.norm())}


def measure(setting: Setting, pooling: Pooling, rounds: int) -> dict[str, Any]:
    """Compare the ways, then time them in turn."""
    gates, losses = setting.learn(pooling, 1)
    figures: dict[str, Any] = {"factored": {}}
    steps: dict[str, Callable[[], Any]] = {"factored": partial(setting.learn, pooling, 1)}
    for way in WAYS[pooling]:
        steps[way] = partial(setting.materialized_step, way, pooling)
        difference = compare((gates, losses[0]), steps[way]())
        if max(difference.values()) > TOLERANCE:
            raise SystemExit(f"{way}, {pooling}: not the same step: relative differences {difference}")
        figures[way] = {"relative_difference": difference}
    for way, compared in compare_in_turn(steps, rounds, clock=time.process_time).items():
        figures[way] |= compared
    return figures


def peak_of_a_step(tasks: int, batch: int, blocks: int, threads: int, way: str, pooling: Pooling) -> int:
    """Return bytes that one step in this process takes above what the weights take."""
    torch.set_num_threads(threads)
    setting = Setting.random(tasks, batch, blocks)
    before = process_memory().resident
    if way == "factored":
        setting.learn(pooling, 1)
    else:
        setting.materialized_step(way, pooling)
    return (process_memory().peak or 0) - before


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    sizes = {"tasks": 8, "batch": 16, "blocks": 1}
    arguments = make_parser(__doc__, **sizes, rounds=5, threads=1).parse_args(options)
    torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name != "json"}
    asked = [figures[name] for name in sizes]
    # Before this process grows: what a process is forked from counts in its own peak.
    peaks = {
        (way, pooling): apart.call(peak_of_a_step, *asked, arguments.threads, way, pooling)
        for pooling, ways in WAYS.items()
        for way in ("factored", *ways)
    }
    setting = Setting.random(*asked)
    for pooling in WAYS:
        figures[f"gates by {pooling}"] = measured = measure(setting, pooling, arguments.rounds)
        for way in measured:
            measured[way]["peak_bytes"] = peaks[way, pooling]
    figures["torch"] = torch.__version__
    write_report(arguments.json, figures, show=True)


if __name__ == "__main__":
    main()
