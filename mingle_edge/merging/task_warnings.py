"""What a merge says of a task that it can merge and that is probably not what was meant."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.data.settings import Settings

STRANGE = 0.5
"""A cosine of weights under this is of another model: fine-tuning that moves weights by half their length leaves 0.89."""
DISTANT, FLAT = 0.9, 0.3
"""Under both a cosine and an explained norm of these the difference is no task vector: too large, and of no low rank."""


@dataclass(frozen=True)
class Kinship:
    """How a fine-tuned tower is related to the backbone."""

    moved: bool  # whether any parameter differs
    cosine: float  # of all weights of linear layers in the blocks

    @classmethod
    def of(cls, finetuned: Parameters, backbone: Parameters, architecture: VisionArchitecture) -> Kinship:
        """Compare two towers in memory."""
        products = torch.zeros(3, dtype=torch.float64)  # of the two, and of each with itself
        for layer in architecture.block_linears():
            new, old = finetuned[f"{layer}.weight"].flatten(), backbone[f"{layer}.weight"].flatten()
            products += torch.stack([new @ old, new @ new, old @ old]).double().cpu()
        across, new_square, old_square = products.tolist()
        moved = any(not torch.equal(finetuned[name], backbone[name]) for name in architecture.parameter_shapes())
        return cls(moved, cosine(across, new_square, old_square))


def cosine(product: float, square: float, other_square: float) -> float:
    """Return the cosine of two vectors from their inner products; 0 where one has no length."""
    lengths = (square * other_square) ** 0.5
    return product / lengths if lengths > 0 else 0.0


def settings_warnings(settings: Settings, width: int) -> list[str]:
    """Return a sentence for each thing that settings ask for in vain, in a tower of this width, at most that of any layer."""
    warnings = []
    if isinstance(settings.rank, int) and settings.rank > width:
        warnings.append(
            f"rank {settings.rank} is more than the tower's width, {width}, and brings nothing more; set rank = {width} or less"
        )
    if idle := settings.idle():
        do, they = ("does", "it") if len(idle) == 1 else ("do", "them")
        warnings.append(
            f"{', '.join(idle)} {do} nothing in the {settings.scope} scope; leave {they} out, or choose the other scope"
        )
    return warnings


def task_warnings(task: str, kinship: Kinship, explained_norm: float, rank: int) -> list[str]:
    """Return a sentence for each thing that is strange about a task; none where all is as fine-tuning leaves it.

    A model from another starting point differs from the backbone by about sqrt(2) times its length, in all directions alike, so
    that a low-rank expert keeps little of the difference and the task's accuracy is lost without a word.

    Args:
        task: its name.
        kinship: of its tower with the backbone.
        explained_norm: the share of the task vectors' squared norm that an expert of this rank keeps.
        rank: of the expert.
    """
    if not kinship.moved:
        return [
            f"task {task!r} has the very weights of the backbone, so that its expert is empty; name the checkpoint that was "
            "fine-tuned"
        ]
    if kinship.cosine < STRANGE or (kinship.cosine < DISTANT and explained_norm < FLAT):
        return [
            f"task {task!r} looks fine-tuned from another model of the backbone's sizes: the cosine of their weights is "
            f"{kinship.cosine:.2f}, and an expert of rank {rank} keeps {explained_norm:.0%} of the difference; name the "
            "backbone that it was fine-tuned from"
        ]
    return []
