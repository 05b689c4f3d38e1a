"""Learning the gates of one new task on the vision tower: start, teacher, student, constraint, protection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.adaptation import NewGate, adapt
from mingle_edge.architecture import VisionArchitecture
from mingle_edge.gating import ExpertStack, GatedExperts, GatedLinear
from mingle_edge.null_space import NullSpaceProjector, leading_directions, leading_row_directions, new_directions
from mingle_edge.progress import Progress
from mingle_edge.seeds import SeedImages, task_generator
from mingle_edge.settings import Settings
from mingle_edge.vision_tower import Linear, Parameters, embed_images

CONSTANT_START = 0.3  # a constant gate at the scale of static experts in the paper's ablation
RANDOM_START = 0.01  # standard deviation of a random gate's weights, as in the published code


@dataclass(frozen=True)
class Learner:
    """What learning one task's gates needs besides the experts."""

    task: str
    backbone: Parameters
    architecture: VisionArchitecture
    settings: Settings
    seeds: SeedImages
    head: Tensor  # [classes, output_dim]
    logit_scale: float
    device: torch.device
    progress: Progress

    def logits(self, images: Tensor, parameters: Parameters, linear: Linear | None = None) -> Tensor:
        """Zero-shot logits `[B, classes]`."""
        embeds = F.normalize(embed_images(images, parameters, self.architecture, linear), dim=-1)
        return self.logit_scale * embeds @ self.head.T

    @torch.inference_mode()
    def teacher_logits(self, finetuned: Parameters) -> Tensor:
        """The fine-tuned model's logits on all seeds, `[seeds, classes]`, computed once."""
        logits = []
        for indices in self._batches():
            logits.append(self.logits(self.seeds.load(indices).to(self.device), finetuned))
            self.progress("teacher", indices[-1] + 1, len(self.seeds))
        return torch.cat(logits)

    def learn_in_layers(
        self,
        experts: Mapping[str, tuple[Tensor, Tensor]],
        frozen: Mapping[str, GatedExperts],
        basis: Mapping[str, Tensor],
        teacher_logits: Tensor,
    ) -> tuple[dict[str, NewGate], dict[str, GatedExperts], list[float]]:
        """Layer scope: the new task's gates among all experts.

        `experts` (B, A) of the new task by layer, `frozen` all earlier tasks, `basis [m, d]` the protected directions.
        Returns the gates, all experts with the new one last, and the losses.
        """
        gates = {layer: self.start(layer, experts[layer][1], basis.get(layer)) for layer in experts}

        stacks = {layer: _stacked(frozen.get(layer), expert) for layer, expert in experts.items()}

        def layers() -> dict[str, GatedExperts]:
            return {layer: _gated(stacks[layer], frozen.get(layer), gate) for layer, gate in gates.items()}

        def student(images: Tensor) -> Tensor:
            linear = GatedLinear(self.backbone, layers(), pooling=self.settings.gate_pooling)
            return self.logits(images, self.backbone, linear)

        losses = self.adapt(student, gates, teacher_logits)
        return gates, layers(), losses

    @torch.inference_mode()
    def protect(self, layers: Mapping[str, GatedExperts], basis: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The directions `[added, d]` that this task's inputs add to each layer's basis (paper, section 3.3)."""
        settings = self.settings
        recorder = InputRecorder(
            GatedLinear(self.backbone, layers, pooling=settings.gate_pooling),
            frozenset(layers),
            every_token=settings.subspace_inputs == "tokens",
        )
        for indices in self._batches():
            embed_images(self.seeds.load(indices).to(self.device), self.backbone, self.architecture, recorder)
            self.progress("protect", indices[-1] + 1, len(self.seeds))
        added = {}
        for layer in layers:
            directions = recorder.directions(layer, settings.subspace_directions)
            known = basis.get(layer, directions.new_zeros(0, directions.shape[1]))
            added[layer] = new_directions(known, directions, settings.subspace_basis)
        return added

    def adapt(self, student: Callable[[Tensor], Tensor], gates: Mapping[str, NewGate], teacher_logits: Tensor) -> list[float]:
        """Adapt gates in place on batches of the seeds; `student` maps images to logits. Returns the losses."""
        settings = self.settings
        generator = task_generator(settings.seed, self.task, "batches")

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for indices in self.seeds.shuffled_batches(settings.batch_size, settings.steps, generator):
                yield self.seeds.load(indices).to(self.device), teacher_logits[indices]

        return adapt(
            student,
            gates,
            batches(),
            learning_rate=settings.learning_rate,
            temperature=settings.temperature,
            projected=settings.projected,
            on_step=lambda step, loss: self.progress("adapt", step + 1, settings.steps, f"loss {loss:.4f}"),
        )

    def start(self, layer: str, A: Tensor, basis: Tensor | None) -> NewGate:
        """The new gate of a layer before adaptation, constrained by `basis [m, d]` if there is one."""
        settings = self.settings
        width = A.shape[1]
        constraint = None
        if basis is not None:
            constraint = NullSpaceProjector(basis, settings.relaxation, settings.relaxation_decay)
        covers_bias = settings.subspace_inputs == "mean"
        if settings.gate_start == "random":
            generator = task_generator(settings.seed, self.task, layer)
            weight = torch.randn(1, width, generator=generator).to(self.device) * RANDOM_START
            return NewGate(weight, torch.zeros(1, device=self.device), constraint, covers_bias)
        constant = torch.full((1,), CONSTANT_START, device=self.device)
        gate = NewGate(torch.zeros(1, width, device=self.device), constant, constraint, covers_bias)
        if basis is not None:
            inside = NullSpaceProjector(basis).project(gate.vector())
            gate.weight, bias = gate.split(inside)
            gate.bias = gate.bias if bias is None else bias.clone()
            gate.weight = gate.weight.clone()
        return gate

    def _batches(self) -> Iterator[list[int]]:
        size = self.settings.batch_size
        for start in range(0, len(self.seeds), size):
            yield list(range(start, min(start + size, len(self.seeds))))


@dataclass
class InputRecorder:
    """A `Linear` that forwards to another and keeps what each gated layer's gate would call its inputs."""

    linear: Linear
    layers: frozenset[str]
    every_token: bool  # X'X of all tokens, as published; otherwise each image's mean token with a constant 1
    _rows: dict[str, list[Tensor]] = field(default_factory=dict)
    _moments: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: str, x: Tensor) -> Tensor:
        """The layer's output; its input `[B, N, d_in]` is recorded."""
        if layer in self.layers and self.every_token:
            tokens = x.flatten(0, 1).double()  # [B N, d_in]
            self._moments[layer] = self._moments.get(layer, 0) + tokens.T @ tokens
        elif layer in self.layers:
            mean = x.mean(1)  # [B, d_in]
            self._rows.setdefault(layer, []).append(torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1))
        return self.linear(layer, x)

    def directions(self, layer: str, count: int) -> Tensor:
        """The leading directions of the recorded inputs, `[count, d]`."""
        if self.every_token:
            return leading_directions(self._moments[layer], count).float()
        return leading_row_directions(torch.cat(self._rows[layer]).double(), count).float()


def _stacked(frozen: GatedExperts | None, expert: tuple[Tensor, Tensor]) -> ExpertStack:
    """All experts of one layer with the new one, (B, A), last."""
    B, A = expert
    if frozen is None:
        return ExpertStack(A[None], B[None])
    return ExpertStack(torch.cat([frozen.experts.A, A[None]]), torch.cat([frozen.experts.B, B[None]]))


def _gated(stack: ExpertStack, frozen: GatedExperts | None, gate: NewGate) -> GatedExperts:
    """All experts of one layer with the frozen gates of the earlier ones and the gate that learns."""
    if frozen is None:
        return GatedExperts(stack, gate.weight, gate.bias)
    weight, bias = torch.cat([frozen.gate_weight, gate.weight]), torch.cat([frozen.gate_bias, gate.bias])
    return GatedExperts(stack, weight, bias)
