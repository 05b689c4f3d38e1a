"""The forms of an expert: what a merged model records of them, and the bytes of their files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.experts.expert_form import ExpertForm, read_forms
from mingle_edge_runtime.bundle.json_record import RecordError

SOUND = {"rank": 16, "precision": "int8", "points_lost": 0.12, "agreement": 0.991}

forms = st.builds(
    ExpertForm,
    rank=st.integers(1, 1 << 16),
    precision=st.sampled_from(["fp32", "int8", "int4"]),
    points_lost=st.floats(0, 100),
    agreement=st.floats(0, 1),
)


@given(st.lists(forms, unique_by=lambda form: (form.rank, form.precision)))
def test_forms_return_from_json_as_they_were(written) -> None:
    record = json.loads(json.dumps({"losses": [], "forms": [form.to_json() for form in written]}))
    assert read_forms(record, "tasks[0].record") == tuple(written)


def test_a_record_without_forms_has_none() -> None:
    assert read_forms({}, "it") == read_forms({"forms": []}, "it") == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "forms[1].rank is 0, must be between 1 and 65536"),
        ({"rank": 1.5}, "forms[1].rank must be an integer, is 1.5"),
        ({"rank": True}, "forms[1].rank must be a number, is True"),
        ({"precision": "fp16"}, "forms[1].precision must be one of fp32, int8, int4, is 'fp16'"),
        ({"points_lost": -0.1}, "forms[1].points_lost is -0.1, must be between 0 and 100"),
        ({"points_lost": float("nan")}, "forms[1].points_lost must be finite, is nan"),
        ({"agreement": 1.01}, "forms[1].agreement is 1.01, must be between 0 and 1"),
        ({"agreement": None}, "forms[1].agreement must be a number, is missing"),
        ({}, "forms holds a form twice"),
    ],
)
def test_a_malformed_form_is_named(change, message) -> None:
    with pytest.raises(RecordError) as caught:
        read_forms({"forms": [SOUND, SOUND | change]}, "tasks[2].record")
    assert str(caught.value) == f"tasks[2].record.{message}"


@pytest.mark.parametrize("value", [{}, "int8", 3])
def test_forms_are_a_list(value) -> None:
    with pytest.raises(RecordError, match=r"^it\.forms must be a list$"):
        read_forms({"forms": value}, "it")
