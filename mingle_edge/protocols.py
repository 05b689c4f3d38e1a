"""What the application tells, and how a label is chosen from embeddings then.

P1: the head is given, the route is not (the paper's). P2: head and task are given. P3: nothing is given, the labels of all
tasks compete.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PROTOCOLS = ("P1", "P2", "P3")


def predict_within(embeds: Tensor, head: Tensor) -> Tensor:
    """P1 and P2: the class number `[n]` under one head `[classes, dim]`; embeddings `[n, dim]` have unit length."""
    return (embeds @ head.T).argmax(1)


def predict_among(
    embeds: Tensor,
    heads: Sequence[Tensor],
    logit_scale: float,
    posterior: Tensor | None = None,
    claimed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """P3: task number `[n]` and class number `[n]` among the labels of all heads.

    With a router's `posterior [n, T]`, a label's probability is its task's posterior times the softmax within its head, for
    images the router claims (`claimed [n]`); without one, and for the others, all labels share one softmax.
    """
    logits = [logit_scale * embeds @ head.T for head in heads]  # T times [n, classes_t]
    scores = torch.cat(logits, dim=1)
    if posterior is not None and claimed is not None:
        weighted = [
            part.log_softmax(1) + posterior[:, t, None].clamp_min(1e-30).log().to(part) for t, part in enumerate(logits)
        ]
        scores = torch.where(claimed[:, None], torch.cat(weighted, dim=1), scores)
    owner = torch.cat([torch.full((len(head),), t) for t, head in enumerate(heads)]).to(embeds.device)
    number = torch.cat([torch.arange(len(head)) for head in heads]).to(embeds.device)
    best = scores.argmax(1)
    return owner[best], number[best]
