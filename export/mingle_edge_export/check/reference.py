"""What the graphs must compute: the merged model in PyTorch on images made from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mingle_edge.clip.head import Head
from mingle_edge.core.progress import Progress
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_export.graph.builder import Array
from mingle_edge_runtime.images.preprocess import preprocess

IMAGES = 7
GOLDEN_IMAGES = 2  # of them, the first, travel with the bundle
MIXTURE = (0.5, 0.25)  # weights of the first two tasks; not 1 together, or the defaults would have no part in it

Outputs = Mapping[str, NDArray[Any]]
"""Arrays `[n, ...]` by the names that the graphs' outputs have."""


@dataclass
class Reference:
    """The images, and all outputs for them."""

    images: NDArray[np.uint8]
    """`[n, S, S, 3]`"""
    pixels: Array
    """`[n, 3, S, S]`"""
    plain: Outputs
    """of the backbone without experts; under the expert of the task that is folded into the weights"""
    stages: list[Outputs] = field(default_factory=list)
    """image scope: of each of the router's stages"""
    experts: dict[str, Outputs] = field(default_factory=dict)
    """image scope: task -> under its expert alone"""
    mixture: Outputs | None = None
    """image scope: the first two tasks by `MIXTURE`; None where there is one task"""
    routed: dict[int, Outputs] = field(default_factory=dict)
    """layer scope: top_k = 1, 2, as exported, and T -> embeddings and routes"""
    golden: dict[str, NDArray[Any]] = field(default_factory=dict)
    """the arrays of golden.npz"""


def compute_reference(tower: GatedTower, fold: str | None, top_k: int, progress: Progress) -> Reference:
    """Run the merged model in PyTorch.

    fold: the task to be folded, which alone is computed then. top_k: experts of an image when nothing is given.
    """
    a, merged = tower.architecture, tower.merged
    images = smooth_images(IMAGES, a.image_size)
    if merged.scope == "image" and fold is None:  # those first whose `top_k` tasks are farthest from being others
        *_, last = _stages(tower, torch.from_numpy(preprocess(images, a.preprocess)))
        posterior = np.sort(last["posterior"], axis=1)[:, ::-1]  # [n, T]
        others = posterior[:, top_k] if top_k < posterior.shape[1] else 0.0
        images = images[np.argsort(others - posterior[:, top_k - 1], kind="stable")]
    pixels = preprocess(images, a.preprocess)
    x = torch.from_numpy(pixels)
    plain = tower.embed(x, fold).numpy()
    reference = Reference(images, pixels, {"image_embeds": plain}, golden={"images": images[:GOLDEN_IMAGES]})
    if fold is not None:
        reference.golden |= {"probabilities": _probabilities(tower, plain)[None], "embeds": plain[None, :GOLDEN_IMAGES]}
    elif merged.scope == "image":
        _run_image_scope(tower, x, top_k, reference, progress)
    else:
        _run_layer_scope(tower, x, top_k, reference, progress)
    return reference


def _run_image_scope(tower: GatedTower, x: torch.Tensor, top_k: int, reference: Reference, progress: Progress) -> None:
    names, n, plain = tower.merged.task_names, GOLDEN_IMAGES, reference.plain["image_embeds"]
    reference.stages = _stages(tower, x)
    posterior = reference.stages[-1]["posterior"]
    for i, name in enumerate(names):
        progress("reference", i, len(names), name)
        reference.experts[name] = {"image_embeds": tower.embed(x, name).numpy()}
    progress("reference", len(names), len(names))
    if len(names) > 1:
        reference.mixture = {"image_embeds": tower.embed_mixture(x, names[:2], MIXTURE).numpy()}
    claimed = []
    for i in range(n):
        weights, tasks = torch.from_numpy(posterior[i]).topk(top_k)
        shares = (weights / weights.sum()).tolist()
        claimed.append(tower.embed_mixture(x[i : i + 1], [names[t] for t in tasks], shares).numpy())
    reference.golden |= {
        "probabilities": np.stack(
            [_probabilities(tower, np.concatenate(claimed), posterior), _probabilities(tower, plain)],
        ),
        "plain": plain[:n],
        **{name: np.stack([stage[name][:n] for stage in reference.stages]) for name in reference.stages[0]},
        "embeds": np.stack([outputs["image_embeds"][:n] for outputs in reference.experts.values()]),
    }


def _stages(tower: GatedTower, x: torch.Tensor) -> list[Outputs]:
    """Return what each stage of the router computes for all images, whether they are in doubt or not."""
    cascade, features, stages = tower.cascade, tower.router_features(x), list[Outputs]()
    for stage, columns in zip(cascade.stages, tower.merged.layout.of_stages(cascade), strict=True):
        posterior, confidence = stage.router.posterior(features[:, columns])
        outputs = {"posterior": posterior, "losses": cascade.expected(posterior), "confidence": confidence}
        stages.append({name: value.astype(np.float32) for name, value in outputs.items()})
    return stages


def _run_layer_scope(tower: GatedTower, x: torch.Tensor, top_k: int, reference: Reference, progress: Progress) -> None:
    count = len(tower.merged.tasks)
    chosen = sorted({1, min(2, count), top_k, count})
    for done, k in enumerate(chosen):
        progress("reference", done, len(chosen), f"top {k}")
        outputs = zip(("image_embeds", "route_tasks", "route_weights"), tower.embed_layers(x, k), strict=True)
        reference.routed[k] = {name: value.numpy() for name, value in outputs}
    progress("reference", len(chosen), len(chosen))
    embeds = {k: outputs["image_embeds"] for k, outputs in reference.routed.items()}
    reference.golden |= {
        "probabilities": _probabilities(tower, embeds[top_k])[None],
        "embeds": np.stack([embeds[k][:GOLDEN_IMAGES] for k in sorted({top_k, count})]),
    }


def _probabilities(tower: GatedTower, embeds: Array, posterior: Array | None = None) -> Array:
    """Return the probabilities of the labels of all tasks, `[GOLDEN_IMAGES, labels]`.

    With a posterior `[n, T]`: that of the task times the softmax within its head. Without: one softmax over all labels.
    """
    merged, exact = tower.merged, torch.from_numpy(embeds[:GOLDEN_IMAGES]).double()
    scores = [Head.of(merged.head(task)).logits(exact) for task in merged.task_names]
    if posterior is None:
        return torch.cat(scores, dim=1).softmax(1).numpy()
    parts = zip(posterior.T[:, :GOLDEN_IMAGES], scores, strict=True)
    return np.concatenate([p[:, None] * score.softmax(1).numpy() for p, score in parts], axis=1)
