"""Which form each task's expert is exported in: rank and precision, chosen by what it may lose or may weigh."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from mingle_edge.experts.expert_form import FormPrecision
from mingle_edge.experts.form_choice import RUN_AS_CODES, best_within, sized_forms, smallest_that_keeps, steps_from
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export.errors import OptionError
from mingle_edge_export.options import ExportOptions
from mingle_edge_runtime.bundle.index import Precision, SizedForm


@dataclass(frozen=True)
class ExpertChoice:
    """How one task's expert is exported, and what is known of that."""

    precision: Precision
    rank: int | None = None
    """directions kept of each layer; None: all that are stored"""
    form: SizedForm | None = None
    """what was measured; None where nothing was"""
    smaller: SizedForm | None = None
    """the next step down"""
    larger: SizedForm | None = None
    """the next step up"""


def choose_experts(merged: MergedModel, options: ExportOptions) -> dict[str, ExpertChoice]:
    """Choose a form for each task, by name: of fewest bytes within `keep`, or of fewest points lost within `expert_bytes`.

    With neither it is the stored expert whole. Raises `OptionError` where a task's forms were not measured, or none is within.
    """
    if merged.scope == "layer" or options.fold is not None:
        return dict.fromkeys(merged.task_names, ExpertChoice(options.experts))
    if options.keep is None and options.expert_bytes is None:
        return {name: _whole(merged, name, options.experts) for name in merged.task_names}
    precisions = RUN_AS_CODES if options.expert_precision is None else (cast(FormPrecision, options.expert_precision),)
    forms = {name: _measured(merged, name, precisions) for name in merged.task_names}
    _check_measured(merged, forms, precisions)
    chosen = {name: _chosen(sized, options) for name, sized in forms.items()}
    _check_within(forms, chosen, options)
    return {name: _choice(form, forms[name]) for name, form in chosen.items() if form is not None}


def _whole(merged: MergedModel, name: str, precision: Precision) -> ExpertChoice:
    """Return the choice of a stored expert as it is; its form is the largest that was measured."""
    if precision not in get_args(FormPrecision) or not merged.task(name).forms:
        return ExpertChoice(precision)
    kinds = RUN_AS_CODES if precision in RUN_AS_CODES else (cast(FormPrecision, precision),)
    forms, stored = _measured(merged, name, kinds), max(form.rank for form in merged.task(name).forms)
    whole = next((form for form in forms if (form.rank, form.precision) == (stored, precision)), None)
    return ExpertChoice(precision) if whole is None else _choice(whole, forms)


def _measured(merged: MergedModel, name: str, precisions: Collection[FormPrecision]) -> list[SizedForm]:
    forms = merged.task(name).forms
    return sized_forms(forms, merged.expert_shapes(name), precisions) if forms else []


def _choice(form: SizedForm, forms: Sequence[SizedForm]) -> ExpertChoice:
    return ExpertChoice(form.precision, form.rank, form, *steps_from(forms, form.bytes, form.points_lost))


def _chosen(forms: Sequence[SizedForm], options: ExportOptions) -> SizedForm | None:
    if options.keep is not None:
        return smallest_that_keeps(forms, options.keep)
    return best_within(forms, options.expert_bytes or 0)


def _check_measured(merged: MergedModel, forms: Mapping[str, Sequence[SizedForm]], precisions: Sequence[FormPrecision]) -> None:
    missing = [name for name, sized in forms.items() if not sized]
    if missing:
        raise OptionError(
            f"{merged.path}: what experts in {' or '.join(precisions)} keep was not measured for {', '.join(missing)}; it is "
            "when a task is merged with 10 seeds or more: give it as many and merge again, or leave keep and expert_bytes out"
        )


def _check_within(
    forms: Mapping[str, Sequence[SizedForm]], chosen: Mapping[str, SizedForm | None], options: ExportOptions
) -> None:
    """Name, of the tasks that no form is within the bound for, the one that needs the most: with that, all are."""
    beyond = [name for name, form in chosen.items() if form is None]
    if not beyond:
        return
    if options.keep is not None:
        least = {name: min(forms[name], key=lambda form: (form.points_lost, form.bytes)) for name in beyond}
        task, form = max(least.items(), key=lambda item: item[1].points_lost)
        raise OptionError(
            f"keep is {options.keep:g}, and the expert of task {task!r} that loses least, {described(form)}, loses "
            f"{form.points_lost:.3g} points; allow that many, or merge again with a larger rank or a smaller keep"
        )
    smallest = {name: min(forms[name], key=lambda form: form.bytes) for name in beyond}
    task, form = max(smallest.items(), key=lambda item: item[1].bytes)
    raise OptionError(
        f"expert_bytes is {options.expert_bytes}, and the smallest expert of task {task!r}, {described(form)}, takes "
        f"{form.bytes}; give at least that"
    )


def described(form: SizedForm) -> str:
    """Return a form without its figures, as in `rank 16 in int8`."""
    return f"rank {form.rank} in {form.precision}"
