"""The head of a task: a linear layer from an image's embedding to a logit for each of the task's classes.

Zero-shot CLIP is the case of rows of unit length, a logit scale and no bias (arXiv 2103.00020, 3.1). A trained classifier keeps
the lengths of its rows and its bias, with a logit scale of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mingle_edge_runtime.bundle import head as stored


@dataclass(frozen=True)
class Head:
    """`logits = logit_scale * (embeds @ weight.T) + bias`."""

    weight: Tensor  # [classes, output_dim]
    bias: Tensor | None  # [classes]; None: zeros
    logit_scale: float

    @classmethod
    def of(cls, head: stored.Head) -> Head:
        """Return the head that a merged model or bundle stores, on the CPU."""
        bias = None if head.bias is None else torch.tensor(head.bias)
        return cls(torch.tensor(head.weight), bias, head.logit_scale)

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.weight)

    def logits(self, embeds: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of embeddings `[n, output_dim]`, computed in their precision."""
        logits = self.logit_scale * embeds @ self.weight.to(embeds.dtype).T
        return logits if self.bias is None else logits + self.bias.to(embeds.dtype)

    def to(self, device: torch.device) -> Head:
        """Return the head on a device."""
        return replace(self, weight=self.weight.to(device), bias=None if self.bias is None else self.bias.to(device))
