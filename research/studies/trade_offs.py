"""How rank, the layers that carry experts, k and the router's depth trade accuracy against bytes and arithmetic (image scope).

    python -m research.studies.trade_offs --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

Accuracy is of the test part; seeds are five per class with sixteen variations. Bytes are those of one task's complete expert
at four a parameter. Multiply-adds are those of linear layers and attention for one image, over the plain backbone's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.methods.image_scope import embed_mixtures
from mingle_edge.data.settings import Settings
from mingle_edge.merging.merged_tower import CompleteExpert
from mingle_edge.routing.router import Router
from research.studies.study import (
    BACKBONE,
    BATCH,
    Bools,
    Carrying,
    Route,
    Study,
    answering,
    markdown,
    note,
    own_route,
    p1,
    p2,
    parser,
    route,
    spread,
)

RANKS = (4, 8, 16, 32, 64)
CARRYING: tuple[Carrying, ...] = ("attn+mlp", "qkv+fc1")
MIXED = (1, 2, 3)
SEEDS_PER_CLASS = 5
VARIATIONS = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    ranks: dict[tuple[Carrying, int], list[list[float]]] = defaultdict(list)
    finetuned: list[list[float]] = []
    mixed: dict[int, list[float]] = defaultdict(list)
    depths: dict[str, list[list[float]]] = defaultdict(list)
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        a, rank = study.architecture, study.settings.rank
        pool, features = study.seed_features(VARIATIONS), study.features("test")
        seeds = [of[study.draw(n, SEEDS_PER_CLASS, 0)] for n, of in enumerate(pool)]
        correct = study.correct("test", rank)
        for depth in [*range(study.depth + 1), None]:
            router = study.router(seeds, depth)
            routes = route(router, features)
            blocks = len(router.weight) // study.features_per_depth - 1
            name = f"{depth}" if depth is not None else "auto"
            cost = router_multiply_adds(a, blocks, router) / backbone_multiply_adds(a)
            depths[name].append([p1(correct, routes), own_route(routes), p2(correct), blocks, 100 * cost])
        note(f"{study.folder}: router")
        for carrying in CARRYING:
            for r in RANKS:
                ranks[carrying, r].append(_at_rank(study, routes, r, carrying))
        finetuned.append(_at_rank(study, routes, None, CARRYING[0]))
        note(f"{study.folder}: ranks")
        for k in MIXED:
            mixed[k].append(p1(correct, routes) if k == 1 else mixture_p1(study, routes, k, rank))
        note(f"{study.folder}: mixtures")
    print(f"{given.tasks} tasks, percent; deviation over pretraining seeds. Rank and carrying layers, k = 1:\n")
    rows = []
    for (carrying, r), figures in ranks.items():
        costs = [f"{expert_bytes(a, r, carrying) / 1e3:.0f}", f"{1 + added(a, r, carrying):.3f}"]
        rows.append([carrying, str(r), *map(spread, np.transpose(figures)), *costs])
    rows.append(["fine-tuned models", "", *map(spread, np.transpose(finetuned)), "", ""])
    print(markdown(["layers", "rank", "P1", "P2", "kB per expert", "multiply-adds over the backbone's"], rows))
    print(f"\nk experts mixed by their posterior, rank {rank}, attn+mlp:\n")
    rows = [[str(k), spread(of), f"{1 + k * added(a, rank, CARRYING[0]):.3f}"] for k, of in mixed.items()]
    print(markdown(["k", "P1", "multiply-adds over the backbone's"], rows))
    print(f"\nDepth of the router, rank {rank}:\n")
    rows = [[name, *map(spread, np.transpose(of))] for name, of in depths.items()]
    print(
        markdown(
            ["router_blocks", "P1", "routed to own task, %", "P2", "blocks read", "router's multiply-adds, % of backbone"], rows
        )
    )


def _at_rank(study: Study, routes: Sequence[Route], rank: int | None, carrying: Carrying) -> list[float]:
    """Return P1 and P2."""
    right = []
    towers = {task: study.parameters(task, rank, carrying) for task in [*range(len(study.tasks)), BACKBONE]}
    for task, of_task in enumerate(routes):
        found = answering(of_task)
        routed = study.right(task, "test", found, towers.__getitem__)
        named = routed.copy()  # where the route is right it is the same answer
        wrong = np.flatnonzero(found != task)
        labels = study.tasks[task].labels("test")[wrong]
        embeds = study.embed(study.images(task, "test")[torch.from_numpy(wrong)], towers[task])
        named[wrong] = (embeds @ study.tasks[task].head.T).argmax(1).numpy() == labels
        right.append([routed.mean(), named.mean()])
    return [100 * float(x) for x in np.mean(right, axis=0)]


@torch.inference_mode()
def mixture_p1(study: Study, routes: Sequence[Route], k: int, rank: int) -> float:
    """Return ACC under P1 where each image runs under its k likeliest experts, weighted by their renormalized posterior."""
    experts = [_complete(study, task, rank) for task in range(len(study.tasks))]
    workbench = Workbench(study.backbone, study.architecture, study.logit_scale, torch.device("cpu"), study.settings.seed)
    shares = []
    for number, (posterior, claimed) in enumerate(routes):
        tasks = np.argsort(-posterior, axis=1)[:, :k]
        of_chosen = np.take_along_axis(posterior, tasks, axis=1)
        weights = torch.from_numpy(of_chosen / of_chosen.sum(axis=1, keepdims=True)).float()
        images = study.images(number, "test")
        embeds = study.embed(images, study.backbone)
        for start in range(0, len(images), BATCH):
            part = [n for n in range(start, min(start + BATCH, len(images))) if claimed[n]]
            own = [[experts[int(t)] for t in tasks[n]] for n in part]
            if part:
                embeds[part] = embed_mixtures(images[part], own, weights[part], workbench)
        right: Bools = (embeds @ study.tasks[number].head.T).argmax(1).numpy() == study.tasks[number].labels("test")
        shares.append(right.mean())
    return 100 * float(np.mean(shares))


def _complete(study: Study, number: int, rank: int) -> CompleteExpert:
    task = study.tasks[number]
    vectors = {name: task.finetuned[name] for name in study.architecture.vector_shapes()}
    return CompleteExpert({layer: (B[:, :rank], A[:rank]) for layer, (B, A) in task.factors.items()}, vectors)


def _ranks(a: VisionArchitecture, rank: int, carrying: Carrying) -> dict[str, int]:
    kinds = ("patch_embedding", "projection", *Settings(layers=carrying).carrying())
    names = [layer for layer in a.linear_layers() if layer.rsplit(".", 1)[-1] in kinds]
    return {layer: min(rank, *a.linear_shape(layer)) for layer in names}


def expert_bytes(a: VisionArchitecture, rank: int, carrying: Carrying) -> int:
    """Return the bytes of one complete expert at four a parameter."""
    factors = sum(r * sum(a.linear_shape(layer)) for layer, r in _ranks(a, rank, carrying).items())
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
    ranks = _ranks(a, rank, carrying)
    return sum(_rows(a, layer) * r * sum(a.linear_shape(layer)) for layer, r in ranks.items()) / backbone_multiply_adds(a)


def router_multiply_adds(a: VisionArchitecture, blocks: int, router: Router) -> int:
    """Return the multiply-adds of the router's own pass over the first blocks and its discriminants."""
    layers = ["patch_embedding", *a.block_linears()[: 6 * blocks]]
    discriminants = router.weight.size + router.directions.size + router.whitening.size + router.centers.size
    return _layer_multiply_adds(a, layers) + blocks * 2 * a.tokens**2 * a.width + discriminants


if __name__ == "__main__":
    main()
