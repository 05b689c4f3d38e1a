"""How many directions a task's expert has: adapted on the seeds, and of the smallest rank that keeps what it must."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    before = {rank: _kept(truncated.first(rank), left_out, pretrained) for rank in ranks_up_to(largest)}
    if automatic:  # adapted, half of what truncation needs may do, and twice of it surely does
        largest = min(largest, 2 * _smallest(before, settings.keep))
    ranks, start = ranks_up_to(largest), truncated.first(largest)
    before |= {largest: _kept(start, left_out, pretrained)}
    adaptation = Adaptation(start)
    if settings.expert_steps and _worthwhile(before[largest], ranks, automatic):
        learned = ranks[::-2]  # every other: an expert between two that learned is good, too
        adaptation = adapt_expert(start, learned, task, pretrained, left_out, settings, generator, progress)
    after = before
    if adaptation.step:
        after = {rank: _kept(adaptation.expert.first(rank), left_out, pretrained) for rank in ranks}
    if automatic:
        reached = _smallest(after, settings.keep)
        largest = reached if after[reached].points_lost <= settings.keep else _smallest(before, settings.keep)
    better = after[largest].loss < before[largest].loss and not (
        automatic and before[largest].points_lost <= settings.keep < after[largest].points_lost
    )
    kept, expert = (after, adaptation.expert) if better else (before, truncated)
    expert = expert.first(largest).copy()
    warnings = [adaptation.warning] if adaptation.warning else []
    if automatic and kept[largest].points_lost > settings.keep:
        warnings.append(_misses(task.name, largest, kept[largest].points_lost, settings))
    forms = _measure(expert, left_out, pretrained, progress)
    losses, step = adaptation.losses, adaptation.step if better else 0
    return SizedExpert(expert, forms, before[largest].loss, kept[largest].loss, step, losses, tuple(warnings))


def _kept(expert: CompleteExpert, left_out: LeftOutSeeds, pretrained: PretrainedModel) -> Kept:
    """Return what an expert keeps, with the more points lost of it and of what 8 bits make of it: it is exported in either."""
    exact, rounded = (left_out.kept(rounded_expert(expert, pretrained.backbone, precision)) for precision in ("fp32", "int8"))
    return replace(exact, points_lost=max(exact.points_lost, rounded.points_lost))


def _smallest(kept: Mapping[int, Kept], points: float) -> int:
    """Return the smallest rank that loses at most so many points, or the one that loses least."""
    within = [rank for rank in kept if kept[rank].points_lost <= points]
    return min(within) if within else min(kept, key=lambda rank: (kept[rank].points_lost, rank))


def _worthwhile(largest: Kept, ranks: Sequence[int], automatic: bool) -> bool:
    """Return whether there is something to gain: a smaller rank, or a loss that is a number and not 0."""
    return math.isfinite(largest.loss) and (len(ranks) > 1 if automatic else largest.loss > EXACT)


def _measure(
    expert: CompleteExpert, left_out: LeftOutSeeds, pretrained: PretrainedModel, progress: Progress
) -> tuple[ExpertForm, ...]:
    wanted = [(rank, precision) for rank in ranks_up_to(expert.rank) for precision in PRECISIONS]
    forms = []
    for done, (rank, precision) in enumerate(wanted, start=1):
        kept = left_out.kept(rounded_expert(expert.first(rank), pretrained.backbone, precision))
        forms.append(ExpertForm(rank, precision, kept.points_lost, kept.agreement))
        progress("measure", done, len(wanted), str(forms[-1]))
    return tuple(forms)


def _misses(task: str, rank: int, lost: float, settings: Settings) -> str:
    keep, adapt = settings.keep, "" if settings.expert_steps else "adapt it (expert_steps = 150), "
    return (
        f"task {task!r}: of all ranks tried an expert of rank {rank} loses least, {lost:.2f} points on seeds left out, which "
        f"is more than keep = {keep:g}; {adapt}set a larger rank, or raise keep"
    )
