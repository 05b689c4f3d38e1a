"""The dial of an expert's size: which of its forms to take, and the next steps down and up from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mingle_edge.experts.expert_form import ExpertForm, FormPrecision, form_bytes
from mingle_edge_runtime.bundle.index import SizedForm

RUN_AS_CODES: tuple[FormPrecision, ...] = ("int8", "int4")
"""The precisions that one tower takes together: it multiplies 8-bit codes, which 4-bit ones are expanded to."""


def sized_forms(
    forms: Iterable[ExpertForm], shapes: Mapping[str, Sequence[int]], precisions: Collection[FormPrecision]
) -> list[SizedForm]:
    """Return the forms of these precisions with the bytes of their files, the fewest first.

    shapes: of the stored arrays, as in `form_bytes`.
    """
    sized = [
        SizedForm(form.rank, form.precision, form_bytes(shapes, form.rank, form.precision), form.points_lost, form.agreement)
        for form in forms
        if form.precision in precisions
    ]
    return sorted(sized, key=lambda form: (form.bytes, form.points_lost))


def smallest_that_keeps(forms: Iterable[SizedForm], keep: float) -> SizedForm | None:
    """Return the form of fewest bytes that loses at most `keep` points; None where every one loses more."""
    return min(
        (form for form in forms if form.points_lost <= keep), key=lambda form: (form.bytes, form.points_lost), default=None
    )


def best_within(forms: Iterable[SizedForm], size: int) -> SizedForm | None:
    """Return the form that loses the fewest points in at most `size` bytes, of equals the smaller; None where none is."""
    return min((form for form in forms if form.bytes <= size), key=lambda form: (form.points_lost, form.bytes), default=None)


def frontier(forms: Iterable[SizedForm]) -> list[SizedForm]:
    """Return the forms that are worth their bytes, the smallest first: each loses fewer points than every smaller one."""
    worth: list[SizedForm] = []
    for form in sorted(forms, key=lambda form: (form.bytes, form.points_lost)):
        if not worth or form.points_lost < worth[-1].points_lost:
            worth.append(form)
    return worth


def steps_from(forms: Iterable[SizedForm], size: int, points_lost: float) -> tuple[SizedForm | None, SizedForm | None]:
    """Return the largest form worth its bytes that is smaller than `size` bytes, and the smallest one that is larger.

    The larger loses fewer points than `points_lost`. None where there is no such form.
    """
    worth = frontier(forms)
    smaller = [form for form in worth if form.bytes < size]
    larger = [form for form in worth if form.bytes > size and form.points_lost < points_lost]
    return (smaller[-1] if smaller else None), (larger[0] if larger else None)
