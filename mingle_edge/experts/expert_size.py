"""How many directions a task's expert has: adapted on the seeds, and of the smallest rank that keeps what it must."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.settings import AUTOMATIC, Settings
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_adaptation import Adaptation, adapt_expert
from mingle_edge.experts.expert_form import ExpertForm, FormPrecision
from mingle_edge.experts.finetuned_task import FinetunedTask, PretrainedModel
from mingle_edge.experts.left_out_seeds import LEAST_SEEDS, Kept, LeftOutSeeds
from mingle_edge.experts.rounding import rounded_expert

SMALLEST = 4
"""Rank under which none is tried."""
EXACT = 1e-6
"""Loss on the left-out seeds under which there is nothing to adapt."""
PRECISIONS: tuple[FormPrecision, ...] = ("fp32", "int8", "int4")


@dataclass(frozen=True)
class SizedExpert:
    """An expert whose first r directions are the expert of rank r, and how it came to be."""

    expert: CompleteExpert
    forms: tuple[ExpertForm, ...] = ()
    """what it keeps in every rank and precision, ranks ascending; none where there are too few seeds"""
    truncated_loss: float | None = None
    """of the truncated expert of the same rank on the left-out seeds, as in `image_loss`"""
    adapted_loss: float | None = None
    """of `expert`, likewise"""
    adapted_steps: int = 0
    """after which it was taken; 0: it is truncated and no more"""
    losses: Sequence[float] = ()
    """of each step of the adaptation, before it"""
    warnings: tuple[str, ...] = ()
    """what a user should know, in sentences"""

    def record(self) -> dict[str, Any]:
        """Return what a merged model records of it."""
        if not self.forms:
            return {}
        kept = {"truncated_loss": self.truncated_loss, "adapted_loss": self.adapted_loss, "adapted_steps": self.adapted_steps}
        return kept | {"losses": list(self.losses), "forms": [form.to_json() for form in self.forms]}


def ranks_up_to(largest: int) -> list[int]:
    """Return the ranks that are tried of an expert, ascending: 4, 6, 8, 12, 16, 24 and so on, and its own."""
    ladder = (base << shift for shift in range(largest.bit_length()) for base in (SMALLEST, 3 * SMALLEST // 2))
    return [*(rank for rank in ladder if rank < largest), largest]


def few_seeds(count: int, settings: Settings) -> str:
    """Return what settings ask for that so many seeds are too few for; nothing where they do."""
    asked = {
        "to adapt an expert": settings.expert_steps > 0,
        "to choose its rank": settings.rank == AUTOMATIC,
    }
    if count >= LEAST_SEEDS or settings.scope == "layer" or not any(asked.values()):
        return ""
    what = " or ".join(name for name, is_asked in asked.items() if is_asked)
    return f"{count} calibration images are too few {what}, which takes {LEAST_SEEDS}; give more"


def size_expert(
    truncated: CompleteExpert,
    task: FinetunedTask,
    pretrained: PretrainedModel,
    settings: Settings,
    progress: Progress = silent,
) -> SizedExpert:
    """Adapt a truncated expert, choose its rank, and measure what it keeps, on the seeds and without labels.

    With `rank = "auto"` the expert is of the smallest rank that loses at most `keep` points on seeds left out of the
    adaptation, with another rank of that one. Where adaptation does not help there, it is the truncated one. With
    `expert_steps` of 0 nothing is adapted. The expert depends on no other task.
    """
    count, largest, automatic = len(task.calibration_images), truncated.rank, settings.rank == AUTOMATIC
    if not largest:
        return SizedExpert(truncated)
    if count < LEAST_SEEDS:
        few = few_seeds(count, settings)
        return SizedExpert(truncated, warnings=(f"task {task.name!r}: {few}",) if few else ())
    generator = task_generator(settings.seed, task.name, "expert")
    left_out = LeftOutSeeds(task, pretrained, generator, adapts=settings.expert_steps > 0)
    before = after = _Measured(truncated, left_out, pretrained)
    if automatic:  # adapted, half of what truncation needs may do, and twice of it surely does
        largest = min(largest, 2 * before.smallest(ranks_up_to(largest), settings.keep))
    ranks, adaptation = ranks_up_to(largest), Adaptation(truncated.first(largest))
    if settings.expert_steps and _worthwhile(before.kept(largest), ranks, automatic):
        learned = ranks[::-2]  # every other: an expert between two that learned is good, too
        adaptation = adapt_expert(adaptation.expert, learned, task, pretrained, left_out, settings, generator, progress)
        after = _Measured(adaptation.expert, left_out, pretrained) if adaptation.step else before
    if automatic:
        reached = after.smallest(ranks, settings.keep)
        largest = reached if after.lost(reached) <= settings.keep else before.smallest(ranks, settings.keep)
    better = after.kept(largest).loss < before.kept(largest).loss and not (
        automatic and before.lost(largest) <= settings.keep < after.lost(largest)
    )
    chosen = after if better else before
    warnings = [adaptation.warning] if adaptation.warning else []
    if automatic and chosen.lost(largest) > settings.keep:
        warnings.append(_misses(task.name, largest, chosen.lost(largest), settings))
    return SizedExpert(
        expert=chosen.expert.first(largest).copy(),
        forms=chosen.forms(largest, progress),
        truncated_loss=before.kept(largest).loss,
        adapted_loss=chosen.kept(largest).loss,
        adapted_steps=adaptation.step if better else 0,
        losses=adaptation.losses,
        warnings=tuple(warnings),
    )


class _Measured:
    """An expert with what its first directions keep, measured once for each rank and precision that is asked for."""

    def __init__(self, expert: CompleteExpert, left_out: LeftOutSeeds, pretrained: PretrainedModel) -> None:
        self.expert, self._left_out, self._backbone = expert, left_out, pretrained.backbone
        self._kept: dict[tuple[int, FormPrecision], Kept] = {}

    def kept(self, rank: int, precision: FormPrecision = "fp32") -> Kept:
        """Return what is kept of the fine-tuned model in one form."""
        form = (rank, precision)
        if form not in self._kept:
            self._kept[form] = self._left_out.kept(rounded_expert(self.expert.first(rank), self._backbone, precision))
        return self._kept[form]

    def lost(self, rank: int) -> float:
        """Return the points lost in fp32, or in int8 where they are more: an expert is exported in either."""
        return max(self.kept(rank).points_lost, self.kept(rank, "int8").points_lost)

    def smallest(self, ranks: Sequence[int], points: float) -> int:
        """Return the smallest rank that loses at most so many points, or the one that loses least. Ranks ascend."""
        within = (rank for rank in ranks if self.lost(rank) <= points)  # none above it is measured
        return next(within, None) or min(ranks, key=lambda rank: (self.lost(rank), rank))

    def forms(self, largest: int, progress: Progress) -> tuple[ExpertForm, ...]:
        """Return every form up to a rank."""
        wanted = [(rank, precision) for rank in ranks_up_to(largest) for precision in PRECISIONS]
        forms = []
        for done, (rank, precision) in enumerate(wanted, start=1):
            kept = self.kept(rank, precision)
            forms.append(ExpertForm(rank, precision, kept.points_lost, kept.agreement))
            progress("measure", done, len(wanted), str(forms[-1]))
        return tuple(forms)


def _worthwhile(largest: Kept, ranks: Sequence[int], automatic: bool) -> bool:
    """Return whether there is something to gain: a smaller rank, or a loss that is a number and not 0."""
    return math.isfinite(largest.loss) and (len(ranks) > 1 if automatic else largest.loss > EXACT)


def _misses(task: str, rank: int, lost: float, settings: Settings) -> str:
    keep, adapt = settings.keep, "" if settings.expert_steps else "adapt it (expert_steps = 150), "
    return (
        f"task {task!r}: of all ranks tried an expert of rank {rank} loses least, {lost:.2f} points on seeds left out, which "
        f"is more than keep = {keep:g}; {adapt}set a larger rank, or raise keep"
    )
