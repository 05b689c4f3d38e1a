"""How rank, the layers that carry experts, k and the router's depth trade accuracy against bytes and arithmetic (image scope).

    python -m research.studies.trade_offs --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

Accuracy is of the test part; seeds are five per class with sixteen variations. Bytes are those of one task's complete expert
at four a parameter. Multiply-adds are those of linear layers and attention for one image, over the plain backbone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.image_scope import embed_mixtures
from mingle_edge.routing.cascade import Cascade
from mingle_edge.routing.pixel_filters import SCALES, cosine_filters, pixel_side
from research.studies.routes import BACKBONE, Route, own_route, p1, p2
from research.studies.study import BATCH, VARIATIONS, Carrying, Study, equal_ranks
from research.studies.tables import Table, note, parser, percent

RANKS = (4, 8, 16, 32, 64)
CARRYING: tuple[Carrying, ...] = ("attn+mlp", "qkv+fc1")
MIXED = (1, 2, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    ranks = Table("layers", "rank", "P1", "P2", "kB per expert", "multiply-adds over the backbone's")
    mixed = Table("k", "P1", "multiply-adds over the backbone's")
    depths = Table("router_blocks", "P1", "routed to own task, %", "P2", "stages", "router's multiply-adds, % of backbone")
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        a, rank = study.architecture, study.settings.largest_rank
        seeds = study.drawn(study.seed_features(VARIATIONS))
        correct = study.correct("test", rank)
        choices: dict[str, int | Literal["auto"] | None] = {"no stage of blocks": None}
        choices |= {f"{depth}": depth for depth in range(study.depth + 1)} | {"auto": "auto"}
        for name, blocks in choices.items():
            cascade = study.cascade(seeds, blocks)
            routes = study.route(cascade, "test")
            stages = ", ".join(f"{stage.name} {stage.blocks}" if stage.blocks else stage.name for stage in cascade.stages)
            cost = 100 * router_multiply_adds(a, cascade, routes) / backbone_multiply_adds(a)
            depths.add(name, p1(correct, routes), own_route(routes), p2(correct), stages, cost)
        note(f"{study.folder}: router")
        for carrying in CARRYING:
            for r in RANKS:
                costs = f"{expert_bytes(a, r, carrying) / 1e3:.0f}", f"{1 + added(a, r, carrying):.3f}"
                ranks.add((carrying, f"{r}"), *_at_rank(study, routes, r, carrying), *costs)
        ranks.add(("fine-tuned models", ""), *_at_rank(study, routes, None, CARRYING[0]), "", "")
        note(f"{study.folder}: ranks")
        unjudged = study.route(cascade, "test", judged=False)
        for k in MIXED:
            accuracy = p1(correct, routes) if k == 1 else mixture_p1(study, unjudged, k, rank)
            mixed.add(f"{k}", accuracy, f"{1 + k * added(a, rank, CARRYING[0]):.3f}")
        note(f"{study.folder}: mixtures")
    print(f"{given.tasks} tasks, percent; deviation over pretraining seeds. Rank and carrying layers, k = 1:\n\n{ranks}")
    print(f"\nk experts mixed by their posterior, rank {rank}, attn+mlp:\n\n{mixed}")
    print(f"\nDepth of the router, rank {rank}:\n\n{depths}")


def _at_rank(study: Study, routes: Sequence[Route], rank: int | None, carrying: Carrying) -> list[float]:
    """Return P1 and P2."""
    towers = {task: study.tower(task, rank, carrying) for task in [*range(len(study.tasks)), BACKBONE]}
    shares = []
    for task, of_task in enumerate(routes):
        named = study.right(task, "test", study.embed(task, "test", towers[task]))
        to, routed = of_task.answering, named.copy()  # where the route is right it is the same answer
        for expert in set(to.tolist()) - {task}:
            chosen = np.flatnonzero(to == expert).tolist()
            routed[chosen] = study.right(task, "test", study.embed(task, "test", towers[expert], chosen=chosen), chosen)
        shares.append([routed.mean(), named.mean()])
    return [100 * float(x) for x in np.mean(shares, axis=0)]


@torch.inference_mode()
def mixture_p1(study: Study, routes: Sequence[Route], k: int, rank: int) -> float:
    """Return ACC under P1 where each image runs under its k likeliest experts, weighted by their renormalized posterior."""
    experts = [study.expert(task, rank) for task in range(len(study.tasks))]
    workbench = Workbench(**vars(study.pretrained), seed=study.settings.seed)
    shares = []
    for number, of_task in enumerate(routes):
        posterior = of_task.posterior
        tasks = np.argsort(-posterior, axis=1)[:, :k]
        of_chosen = np.take_along_axis(posterior, tasks, axis=1)
        weights = torch.from_numpy(of_chosen / of_chosen.sum(axis=1, keepdims=True)).float()
        embeds = study.embed(number, "test")
        mixed = np.flatnonzero(of_task.answering != BACKBONE).tolist()
        for part, images in study.images["test"][number].batches(study.architecture, mixed, size=BATCH):
            own = [[experts[t] for t in row] for row in tasks[part].tolist()]
            embeds[part] = embed_mixtures(images, own, weights[part], workbench)
        shares.append(study.right(number, "test", embeds).mean())
    return percent(shares)


def expert_bytes(a: VisionArchitecture, rank: int, carrying: Carrying) -> int:
    """Return the bytes of one complete expert at four a parameter."""
    factors = sum(r * sum(a.linear_shape(layer)) for layer, r in equal_ranks(a, rank, carrying).items())
    return 4 * (factors + sum(int(np.prod(shape)) for shape in a.vector_shapes().values()))


def _rows(a: VisionArchitecture, layer: str) -> int:
    """Return the number of tokens that pass a layer."""
    return {"patch_embedding": a.grid**2, "projection": 1}.get(layer, a.tokens)


def _layer_multiply_adds(a: VisionArchitecture, layers: Sequence[str]) -> int:
    return sum(_rows(a, layer) * int(np.prod(a.linear_shape(layer))) for layer in layers)


def backbone_multiply_adds(a: VisionArchitecture) -> int:
    """Return the multiply-adds of the plain backbone, for one image."""
    return _layer_multiply_adds(a, a.linear_layers()) + a.layers * 2 * a.tokens**2 * a.width


def added(a: VisionArchitecture, rank: int, carrying: Carrying) -> float:
    """Return what one expert adds, over the backbone's."""
    ranks = equal_ranks(a, rank, carrying)
    return sum(_rows(a, layer) * r * sum(a.linear_shape(layer)) for layer, r in ranks.items()) / backbone_multiply_adds(a)


def router_multiply_adds(a: VisionArchitecture, cascade: Cascade, routes: Sequence[Route]) -> float:
    """Return the multiply-adds of the router for one image, mean over the images of all tasks: what each stage costs it.

    The stage of the embedding runs the plain backbone, and a judge one expert more than the one that answers.
    """
    _, side = pixel_side(a.image_size)
    filters = cosine_filters().size * sum((side >> scale) ** 2 for scale in range(SCALES))
    costs = []
    for stage in cascade.stages:
        layers = ["patch_embedding", *a.block_linears()[: 6 * stage.blocks]]
        blocks = _layer_multiply_adds(a, layers) + stage.blocks * 2 * a.tokens**2 * a.width
        features = {"pixels": filters, "blocks": blocks, "embedding": backbone_multiply_adds(a)}[stage.name]
        costs.append(features + stage.router.weight.size + stage.router.directions.size)
    costs.append(backbone_multiply_adds(a))  # an expert's own are added by what a rank costs
    reached = np.cumsum(costs)
    return float(np.mean([reached[of_task.stage].mean() for of_task in routes]))


if __name__ == "__main__":
    main()
