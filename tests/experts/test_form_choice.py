"""The dial of an expert's size: what is chosen among forms, and the steps beside it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.experts.expert_form import ExpertForm, form_bytes
from mingle_edge.experts.form_choice import best_within, frontier, sized_forms, smallest_that_keeps, steps_from
from mingle_edge_runtime.bundle.index import SizedForm

POINTS = st.integers(0, 8).map(lambda eighths: eighths / 8)  # few values, so that some are equal
FORMS = st.lists(
    st.builds(
        SizedForm,
        rank=st.integers(1, 64),
        precision=st.sampled_from(["fp32", "int8", "int4"]),
        bytes=st.integers(1, 12),
        points_lost=POINTS,
        agreement=st.floats(0, 1),
    ),
    max_size=12,
)


@given(FORMS, st.integers(0, 13))
def test_within_a_budget_nothing_that_fits_loses_less(forms, size) -> None:
    fitting = [form for form in forms if form.bytes <= size]
    chosen = best_within(forms, size)
    assert (chosen is None) == (not fitting)
    if chosen:
        assert chosen in fitting
        assert all((chosen.points_lost, chosen.bytes) <= (form.points_lost, form.bytes) for form in fitting)


@given(FORMS, POINTS)
def test_within_a_loss_nothing_that_keeps_is_smaller(forms, keep) -> None:
    keeping = [form for form in forms if form.points_lost <= keep]
    chosen = smallest_that_keeps(forms, keep)
    assert (chosen is None) == (not keeping)
    if chosen:
        assert chosen in keeping
        assert all((chosen.bytes, chosen.points_lost) <= (form.bytes, form.points_lost) for form in keeping)


@given(FORMS)
def test_what_is_worth_its_bytes_is_what_some_budget_chooses(forms) -> None:
    worth = frontier(forms)
    assert [(form.bytes, form.points_lost) for form in worth] == sorted(
        {(form.bytes, form.points_lost) for form in (best_within(forms, size) for size in range(1, 13)) if form}
    )


@given(FORMS.filter(bool), st.integers(1, 12))
def test_a_step_up_costs_bytes_and_a_step_down_points(forms, size) -> None:
    chosen = best_within(forms, size) or min(forms, key=lambda form: (form.bytes, form.points_lost))
    smaller, larger = steps_from(forms, chosen.bytes, chosen.points_lost)
    worth = frontier(forms)
    assert chosen in worth
    place = [(form.bytes, form.points_lost) for form in worth].index((chosen.bytes, chosen.points_lost))
    assert smaller == (worth[place - 1] if place else None)
    assert larger == (worth[place + 1] if place + 1 < len(worth) else None)


def test_forms_get_the_bytes_of_their_precision() -> None:
    shapes = {"blocks.0.q.A": (8, 640), "blocks.0.q.B": (640, 8), "ln_post.bias": (64,)}
    forms = [ExpertForm(8, "int8", 0.1, 0.99), ExpertForm(4, "int8", 0.3, 0.97), ExpertForm(8, "int4", 0.2, 0.98)]
    sized = sized_forms(forms, shapes, ("int8", "int4"))
    assert [(form.rank, form.precision) for form in sized] == [(4, "int8"), (8, "int4"), (8, "int8")]
    assert all(form.bytes == form_bytes(shapes, form.rank, form.precision) for form in sized)
    assert sized_forms(forms, shapes, ("int4",)) == sized[1:2]
