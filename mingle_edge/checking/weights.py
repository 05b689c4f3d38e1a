"""How far tasks moved from the backbone, how alike their movements are, and what low rank keeps of them.

Tensors are read one parameter at a time, of all tasks at once, so that memory holds no tower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mingle_edge.checking.report import WeightFacts
from mingle_edge.checkpoints import Checkpoint
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.progress import Progress
from mingle_edge.data.settings import Settings
from mingle_edge.merging.task_warnings import Kinship, cosine

RANKS = (4, 8, 16, 32, 64, 128)
MOST_WORK = 1.6e11
"""Of decompositions, as the sum of the cubes of the smaller sides: some 15 seconds of a core. Beyond it blocks are sampled."""


@dataclass(frozen=True)
class WeightComparison:
    """What the weights of all tasks tell."""

    facts: list[WeightFacts]
    kinships: list[Kinship]  # with the backbone
    cosines: list[list[float]]  # of task vectors
    same: list[tuple[int, int]]  # pairs of tasks with the same weights
    spectrum_blocks: list[int]  # whose layers explained norms are of


def compare_weights(
    backbone: Checkpoint,
    finetuned: Sequence[Checkpoint],
    architecture: VisionArchitecture,
    settings: Settings,
    progress: Progress,
) -> WeightComparison:
    """Compare checkpoints, found sound by `check_checkpoint`, with the backbone and with one another.

    Task vectors are those of the layers that carry experts; movements are told of all. Raises `CheckpointError` where a file
    cannot be read.
    """
    tasks = len(finetuned)
    linear, inside, carrying = (
        {f"{layer}.weight" for layer in layers}
        for layers in (architecture.linear_layers(), architecture.block_linears(), settings.expert_layers(architecture))
    )
    blocks = sampled_blocks(architecture, settings, tasks)
    spectrum = Spectrum(tasks, sorted({*RANKS, settings.largest_rank}))
    movement: list[dict[str, float]] = [{} for _ in finetuned]
    moved = torch.zeros(2, tasks, dtype=torch.float64)  # squared, of linear layers and of all else
    plain_squares = torch.zeros(2, dtype=torch.float64)
    with_plain, own_squares = torch.zeros(2, tasks, dtype=torch.float64)  # in the blocks: inner products of weights
    inside_square = 0.0
    products = torch.zeros(tasks, tasks, dtype=torch.float64)  # of task vectors
    differ = torch.zeros(tasks + 1, tasks + 1, dtype=torch.bool)  # of towers, the backbone last
    shapes = architecture.parameter_shapes()
    for done, name in enumerate(shapes):
        progress("weights", done, len(shapes), name)
        plain, changes = _read(name, backbone, finetuned)  # [n], [T, n]
        differ |= _different(changes)
        squares, plain_square = changes.square().sum(1).double(), float(plain.square().sum())
        kind = 0 if name in linear else 1
        moved[kind] += squares
        plain_squares[kind] += plain_square
        if name in linear:
            for t, square in enumerate(squares.tolist()):
                movement[t][name.removesuffix(".weight")] = (square / plain_square) ** 0.5 if plain_square else 0.0
        if name in inside:
            across = (changes @ plain).double()
            inside_square += plain_square
            with_plain += plain_square + across
            own_squares += plain_square + 2 * across + squares
        if name in carrying:
            products += (changes @ changes.T).double()
            block = int(name.split(".")[1]) if name in inside else None
            spectrum.add(
                _kind(name), squares, changes.reshape(tasks, *shapes[name]) if block is None or block in blocks else None
            )
    progress("weights", len(shapes), len(shapes))
    kinships = [
        Kinship(bool(differ[t, tasks]), cosine(float(with_plain[t]), float(own_squares[t]), inside_square))
        for t in range(tasks)
    ]
    shares = (moved / plain_squares[:, None].clamp(min=1e-300)).sqrt()
    return WeightComparison(
        [
            WeightFacts(movement[t], float(shares[0, t]), float(shares[1, t]), kinships[t].cosine, spectrum.explained_norm(t))
            for t in range(tasks)
        ],
        kinships,
        [
            [cosine(float(products[a, b]), float(products[a, a]), float(products[b, b])) for b in range(tasks)]
            for a in range(tasks)
        ],
        [(a, b) for a in range(tasks) for b in range(a + 1, tasks) if not differ[a, b]],
        blocks,
    )


def sampled_blocks(architecture: VisionArchitecture, settings: Settings, tasks: int) -> list[int]:
    """Return the blocks whose task vectors are decomposed: all, or as many as the work allows, evenly over the depth."""
    work: dict[bool, int] = defaultdict(int)  # of one task: in all blocks, and outside of them
    for layer in settings.expert_layers(architecture):
        work[layer.startswith("blocks.")] += min(architecture.linear_shape(layer)) ** 3
    layers = architecture.layers
    most = (MOST_WORK / tasks - work[False]) * layers / max(work[True], 1)
    count = int(min(max(most, 1), layers))
    return [(2 * i + 1) * layers // (2 * count) for i in range(count)]


class Spectrum:
    """Shares of squared norm that the best approximations of low rank keep, of one kind of layer after another."""

    def __init__(self, tasks: int, ranks: Sequence[int]) -> None:
        self._ranks = list(ranks)
        self._all: dict[str, Tensor] = defaultdict(lambda: torch.zeros(tasks, dtype=torch.float64))
        self._decomposed: dict[str, Tensor] = defaultdict(lambda: torch.zeros(tasks, dtype=torch.float64))
        self._kept: dict[str, Tensor] = defaultdict(lambda: torch.zeros(tasks, len(ranks), dtype=torch.float64))

    def add(self, kind: str, squares: Tensor, task_vectors: Tensor | None) -> None:
        """Add a layer: squared norms `[T]` and, where it is decomposed, task vectors `[T, d_out, d_in]`."""
        self._all[kind] += squares
        if task_vectors is None:
            return
        self._decomposed[kind] += squares
        for t, matrix in enumerate(task_vectors):
            if not squares[t]:
                continue
            small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            eigenvalues = torch.linalg.eigvalsh(small @ small.T).double().flip(0).clamp(min=0)  # squared singular values
            shares = eigenvalues.cumsum(0) / eigenvalues.sum()
            at = torch.tensor([min(rank, len(shares)) - 1 for rank in self._ranks])
            self._kept[kind][t] += squares[t] * shares[at]

    def explained_norm(self, task: int) -> dict[int, float]:
        """Return the share kept by rank, each kind of layer with the weight of all its layers; 1 where nothing moved."""
        kept = torch.zeros(len(self._ranks), dtype=torch.float64)
        total = 0.0
        for kind, decomposed in self._decomposed.items():
            if decomposed[task]:
                kept += self._kept[kind][task] * self._all[kind][task] / decomposed[task]
                total += float(self._all[kind][task])
        return {rank: float(share) / total if total else 1.0 for rank, share in zip(self._ranks, kept, strict=True)}


def _read(name: str, backbone: Checkpoint, finetuned: Iterable[Checkpoint]) -> tuple[Tensor, Tensor]:
    """Return one parameter of the backbone `[n]`, and what each task changed of it `[T, n]`."""
    plain = backbone.tensor(name)
    # A vision-only checkpoint may lack the projection: it was trained under the backbone's.
    towers = [checkpoint.tensor(name) if name in checkpoint.names() else plain for checkpoint in finetuned]
    changes = torch.stack(towers).flatten(1)
    return plain.flatten(), changes.sub_(plain.flatten())


def _different(changes: Tensor) -> Tensor:
    """Return which of `[T]` tasks and the backbone, behind them, differ in one parameter: `[T + 1, T + 1]`."""
    rows = [*changes, torch.zeros_like(changes[0])]
    different = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    for a, row in enumerate(rows):
        for b in range(a + 1, len(rows)):
            different[a, b] = not torch.equal(row, rows[b])
    return different


def _kind(name: str) -> str:
    """Return the part of a name that layers of all blocks share."""
    parts = name.removesuffix(".weight").split(".")
    return parts[-1] if parts[0] == "blocks" else ".".join(parts)
