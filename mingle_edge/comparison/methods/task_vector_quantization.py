"""Task vectors in 2 to 4 bits an entry: TVQ and its residual form RTVQ (arXiv 2503.06921).

Idea: a task vector spans a range ten times narrower than the weights it is added to, so codes of 3 or 4 bits, one scale and one
zero point for each parameter tensor, are fine enough (uniform asymmetric quantization). RTVQ stores once what all tasks have in
common, the quantized mean of the task vectors, and of each task its quantized difference from that, which takes up the mean's
own error: 3 bits for the common part and 2 for each task as published.
Limitation: an outlier widens the steps of its whole tensor; the common part of RTVQ changes with every task that is added.
Biases, LayerNorms and all other parameters are quantized like the matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.bit_packing import PackedCodes
from mingle_edge.comparison.methods.compressed_models import (
    CompressedModels,
    CompressedTogether,
    ModelsCompressedTogether,
    changed_parameters,
)
from mingle_edge.core.errors import TaskFileError
from mingle_edge.experts.finetuned_task import FinetunedTask

MOST_BITS = 8
SCALE_AND_ZERO_BYTES = 8


@dataclass(frozen=True)
class QuantizedTensor:
    """Values on a grid through 0, `step * (code - zero)`."""

    packed: PackedCodes
    step: float
    zero: int

    @classmethod
    def of(cls, values: Tensor, bits: int) -> QuantizedTensor:
        """Return the nearest of `2^bits` values from the least to the greatest, and 0 among them where it lies between."""
        least, greatest = values.double().aminmax()
        step = torch.tensor((greatest - least).item() / (2**bits - 1), dtype=torch.float32).item()
        if step == 0:  # one value throughout
            step = abs(least.item()) or 1.0
        zero = round(-least.item() / step)
        codes = (torch.round(values.double() / step) + zero).clamp(0, 2**bits - 1)
        return cls(PackedCodes.of(codes, bits), step, zero)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the codes, the step and the zero point."""
        return self.packed.nbytes + SCALE_AND_ZERO_BYTES

    def values(self, device: torch.device) -> Tensor:
        """Return the values in float32."""
        return self.step * (self.packed.codes(device).float() - self.zero)


Quantized = Mapping[str, QuantizedTensor]


@dataclass(frozen=True)
class QuantizedTaskVector:
    """What is stored of a task."""

    own: Quantized
    base: Quantized = field(default_factory=dict)  # what all tasks share, whose bytes are none of the task's

    @property
    def nbytes(self) -> int:
        """Return the bytes of the task's own part."""
        return sum(tensor.nbytes for tensor in self.own.values())

    def tower(self, backbone: Parameters) -> Parameters:
        """Return the backbone with the task vector added."""
        tower = dict(backbone)
        for part in (self.base, self.own):
            tower |= {name: tower[name] + tensor.values(tower[name].device) for name, tensor in part.items()}
        return tower


def compress(task: FinetunedTask, workbench: Workbench, *, bits: int) -> QuantizedTaskVector:
    """Quantize a task vector. Raises `TaskFileError` for a number of bits that there is not."""
    _check(bits=bits)
    backbone = workbench.backbone
    changed = changed_parameters([task], backbone)
    return QuantizedTaskVector({n: QuantizedTensor.of(task.finetuned[n] - backbone[n], bits) for n in changed})


def compress_together(tasks: Sequence[FinetunedTask], workbench: Workbench, *, base_bits: int, bits: int) -> CompressedTogether:
    """Quantize the mean of the task vectors, then what each differs by. Raises `TaskFileError` as `compress`."""
    _check(base_bits=base_bits, bits=bits)
    backbone, base, own = workbench.backbone, dict[str, QuantizedTensor](), [dict[str, QuantizedTensor]() for _ in tasks]
    for name in changed_parameters(tasks, backbone):
        vectors = [task.finetuned[name] - backbone[name] for task in tasks]
        base[name] = QuantizedTensor.of(torch.stack(vectors).mean(0), base_bits)
        common = base[name].values(workbench.device)
        for of_task, vector in zip(own, vectors, strict=True):
            of_task[name] = QuantizedTensor.of(vector - common, bits)
    shared = sum(tensor.nbytes for tensor in base.values())
    named = {task.name: QuantizedTaskVector(of_task, base) for task, of_task in zip(tasks, own, strict=True)}
    return CompressedTogether(shared, named)


def _check(**bits: int) -> None:
    for name, value in bits.items():
        if type(value) is not int or not 1 <= value <= MOST_BITS:
            raise TaskFileError(f"task vector quantization: {name} must be a whole number from 1 to {MOST_BITS}, not {value!r}")


quantized = partial(CompressedModels, compress)
quantized_residually = partial(ModelsCompressedTogether, compress_together)
