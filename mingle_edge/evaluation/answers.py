"""A model's answers to the images of one task, and which of them are right under each protocol: the one evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.evaluation.protocols import HEAD_GIVEN, NOTHING_GIVEN, TASK_GIVEN


@dataclass(frozen=True)
class Answers:
    """Embeddings of images whose task is not told, and how they came about."""

    embeds: Tensor  # [n, output_dim], unit length
    posterior: Tensor | None = None  # [n, T] over tasks merged so far, where there is a router
    claimed: Tensor | None = None  # [n], false where the router runs the plain backbone
    routed: Tensor | None = None  # [n], number of the task whose expert answered, -1 for the plain backbone
    stages: Tensor | None = None  # [n], number of the router's stage that settled it
    confidence: Tensor | None = None  # [n], of the router

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers to several batches as those to one."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        joined: dict[str, Any] = {name: None if column[0] is None else torch.cat(column) for name, column in columns.items()}
        return cls(**joined)


@dataclass(frozen=True)
class TaskAccuracy:
    """What a model gets right of one task's images, in percent."""

    right: dict[str, float]  # by protocol; P1 alone where the task is not merged yet
    owners: Tensor | None  # [n], the task whose label wins when the labels of all tasks compete; None before its merge
    own_route: float | None = None  # images that the router sends to their own task, in percent; None without a router
    unclaimed: float | None = None  # images that the router sends to no task


def measure(
    answers: Answers, named: Tensor | None, labels: Sequence[int], task: int, heads: Sequence[Head], merged: int
) -> TaskAccuracy:
    """Measure the answers to one task's images under every protocol.

    Args:
        named: embeddings `[n, output_dim]` when the task is told; None where that makes no difference.
        labels: class numbers `[n]`.
        task: number of the task among the T `heads`.
        merged: the first so many tasks are merged, and their labels compete.
    """
    truth = torch.as_tensor(labels, device=answers.embeds.device)
    right = {HEAD_GIVEN: predict_within(answers.embeds, heads[task]) == truth}
    owners = None
    if task < merged:
        right[TASK_GIVEN] = predict_within(answers.embeds if named is None else named, heads[task]) == truth
        owners, label = predict_among(answers.embeds, heads[:merged], answers.posterior, answers.claimed)
        right[NOTHING_GIVEN] = (owners == task) & (label == truth)
    shares = {protocol: _percent(of_images) for protocol, of_images in right.items()}
    if answers.routed is None:
        return TaskAccuracy(shares, owners)
    return TaskAccuracy(shares, owners, _percent(answers.routed == task), _percent(answers.routed < 0))


def _percent(of_images: Tensor) -> float:
    """Return the share of `[n]` that is true, in percent."""
    return 100 * int(of_images.sum()) / len(of_images)


def predict_within(embeds: Tensor, head: Head) -> Tensor:
    """Return the class number `[n]` of embeddings `[n, dim]` under one head."""
    return head.logits(embeds).argmax(1)


def predict_among(
    embeds: Tensor,
    heads: Sequence[Head],
    posterior: Tensor | None = None,
    claimed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return task number `[n]` and class number `[n]` among the labels of all heads.

    With a router's `posterior [n, T]`, a label's probability is its task's posterior times the softmax within its head, for
    images the router claims (`claimed [n]`); without one, and for the others, all labels share one softmax.
    """
    logits = [head.logits(embeds) for head in heads]  # T times [n, classes_t]
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
