"""Learning the gates of one new task on the vision tower: start, teacher, student, constraint, protection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Linear, Parameters, embed_images
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import shuffled_batches, task_generator
from mingle_edge.data.settings import CONSTANT_START, Settings
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.task_vectors import Factors
from mingle_edge.gates.adaptation import NewGate, adapt
from mingle_edge.gates.gating import ExpertStack, GatedExperts, GatedLinear
from mingle_edge.gates.null_space import NullSpaceProjector, leading_directions, leading_row_directions, new_directions

RANDOM_START = 0.01  # standard deviation of a random gate's weights, as in the published code


@dataclass(frozen=True)
class GateLearner:
    """Learns one task's gates; experts are given."""

    task: FinetunedTask
    pretrained: PretrainedModel
    settings: Settings
    progress: Progress = silent

    def logits(self, images: Tensor, parameters: Parameters, linear: Linear | None = None) -> Tensor:
        """Return logits `[B, classes]` of images `[B, 3, H, W]`."""
        return self.task.head.logits(self.pretrained.embed(images, parameters, linear))

    def images(self, numbers: Sequence[int]) -> Tensor:
        """Return calibration images `[B, 3, H, W]` on the device."""
        return self.task.calibration_images.load(numbers, self.pretrained.architecture).to(self.pretrained.device)

    @torch.inference_mode()
    def teacher_logits(self) -> Tensor:
        """Return the fine-tuned model's logits on all calibration images, `[seeds, classes]`, computed once."""
        logits = []
        for numbers in self._batches():
            logits.append(self.logits(self.images(numbers), self.task.finetuned))
            self.progress("teacher", numbers.stop, len(self.task.calibration_images))
        return torch.cat(logits)

    def learn(
        self,
        experts: Mapping[str, Factors],
        frozen: Mapping[str, GatedExperts],
        basis: Mapping[str, Tensor],
        teacher_logits: Tensor,
    ) -> tuple[dict[str, NewGate], dict[str, GatedExperts], list[float]]:
        """Learn the new task's gates among all experts.

        `experts` (B, A) of the new task by layer, `frozen` all earlier tasks, `basis [m, d]` the protected directions.
        Returns the gates, all experts with the new one last, and the losses.
        """
        gates = {layer: self.start(layer, A, basis.get(layer)) for layer, (_, A) in experts.items()}
        stacks = {layer: ExpertStack(A[None], B[None]) for layer, (B, A) in experts.items()}
        if frozen:
            stacks = {
                layer: ExpertStack(torch.cat([old.experts.A, stacks[layer].A]), torch.cat([old.experts.B, stacks[layer].B]))
                for layer, old in frozen.items()
            }

        def layers() -> dict[str, GatedExperts]:
            return {layer: _gated(stacks[layer], frozen.get(layer), gate) for layer, gate in gates.items()}

        losses = self.adapt(layers, gates, teacher_logits)
        return gates, layers(), losses

    @torch.inference_mode()
    def protect(self, layers: Mapping[str, GatedExperts], basis: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the directions `[added, d]` that this task's inputs add to each layer's basis (paper, section 3.3)."""
        settings, backbone = self.settings, self.pretrained.backbone
        recorder = InputRecorder(
            GatedLinear(backbone, layers, pooling=settings.gate_pooling),
            frozenset(layers),
            every_token=settings.subspace_inputs == "tokens",
        )
        for numbers in self._batches():
            embed_images(self.images(numbers), backbone, self.pretrained.architecture, recorder)
            self.progress("protect", numbers.stop, len(self.task.calibration_images))
        added = {}
        for layer in layers:
            directions = recorder.directions(layer, settings.subspace_directions)
            known = basis.get(layer, directions.new_zeros(0, directions.shape[1]))
            added[layer] = new_directions(known, directions, settings.subspace_basis)
        return added

    def adapt(
        self, layers: Callable[[], Mapping[str, GatedExperts]], gates: Mapping[str, NewGate], teacher_logits: Tensor
    ) -> list[float]:
        """Adapt gates in place on batches of the calibration images; `layers` gives all experts with the gates as they are.

        Returns the loss before each step.
        """
        settings = self.settings
        generator = task_generator(settings.seed, self.task.name, "batches")

        def student(images: Tensor) -> Tensor:
            linear = GatedLinear(self.pretrained.backbone, layers(), pooling=settings.gate_pooling)
            return self.logits(images, self.pretrained.backbone, linear)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for numbers in shuffled_batches(len(self.task.calibration_images), settings.batch_size, settings.steps, generator):
                yield self.images(numbers), teacher_logits[numbers]

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
        """Return the new gate of a layer before adaptation, constrained by `basis [m, d]` if there is one."""
        settings, device = self.settings, self.pretrained.device
        width = A.shape[1]
        constraint = None
        if basis is not None:
            constraint = NullSpaceProjector(basis, settings.relaxation, settings.relaxation_decay)
        covers_bias = settings.subspace_inputs == "mean"
        if settings.gate_start == "random":
            generator = task_generator(settings.seed, self.task.name, layer)
            weight = torch.randn(1, width, generator=generator).to(device) * RANDOM_START
            return NewGate(weight, torch.zeros(1, device=device), constraint, covers_bias)
        constant = torch.full((1,), CONSTANT_START, device=device)
        gate = NewGate(torch.zeros(1, width, device=device), constant, constraint, covers_bias)
        if basis is not None:
            inside = NullSpaceProjector(basis).project(gate.vector())
            gate.weight, bias = gate.split(inside)
            gate.bias = gate.bias if bias is None else bias.clone()
            gate.weight = gate.weight.clone()
        return gate

    def _batches(self) -> Iterator[range]:
        size, count = self.settings.batch_size, len(self.task.calibration_images)
        return (range(start, min(start + size, count)) for start in range(0, count, size))


@dataclass
class InputRecorder:
    """A `Linear` that forwards to another and keeps what each gated layer's gate would call its inputs."""

    linear: Linear
    layers: frozenset[str]
    every_token: bool  # X'X of all tokens, as published; otherwise each image's mean token with a constant 1
    _rows: dict[str, list[Tensor]] = field(default_factory=dict)
    _moments: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: str, x: Tensor) -> Tensor:
        """Return the layer's output; its input `[B, N, d_in]` is recorded."""
        if layer in self.layers and self.every_token:
            tokens = x.flatten(0, 1).double()  # [B N, d_in]
            self._moments[layer] = self._moments.get(layer, 0) + tokens.T @ tokens
        elif layer in self.layers:
            mean = x.mean(1)  # [B, d_in]
            self._rows.setdefault(layer, []).append(torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1))
        return self.linear(layer, x)

    def directions(self, layer: str, count: int) -> Tensor:
        """Return the leading directions of the recorded inputs, `[count, d]`."""
        if self.every_token:
            return leading_directions(self._moments[layer], count).float()
        return leading_row_directions(torch.cat(self._rows[layer]).double(), count).float()


def _gated(stack: ExpertStack, frozen: GatedExperts | None, gate: NewGate) -> GatedExperts:
    """Return all experts of one layer with the frozen gates of the earlier ones and the gate that learns."""
    if frozen is None:
        return GatedExperts(stack, gate.weight, gate.bias)
    weight, bias = torch.cat([frozen.gate_weight, gate.weight]), torch.cat([frozen.gate_bias, gate.bias])
    return GatedExperts(stack, weight, bias)
