"""The report file: every member specified, and files that are no reports refused with the reason."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from mingle_edge_runtime import EdgeError
from mingle_edge_runtime.profile import BASELINES, ProfileReport, profile, report

DOCUMENT = Path(__file__).parents[2] / "docs/profile-report.md"


@pytest.fixture(scope="module")
def record(image_bundle) -> dict:
    """What a report file holds."""
    return profile(image_bundle, runs=6, threads=1, against=BASELINES, operators=True, sweep={"batch": [1, 2]}).to_json()


def records() -> dict[str, set[str]]:
    """Members by class of the report."""
    kinds = [kind for kind in vars(report).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    return {kind.__name__: {field.name for field in dataclasses.fields(kind)} for kind in kinds}


def test_the_specification_names_every_member_and_no_other() -> None:
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    specified = {
        section.splitlines()[0]: set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) for section in sections
    }
    assert specified == records()


def test_what_may_be_left_out_is_marked_optional() -> None:
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.splitlines()[0]
        optional = set(re.findall(r"^\| `(\w+)` \|[^|]*\| \*optional\*", section, flags=re.MULTILINE))
        fields = dataclasses.fields(getattr(report, name))
        assert optional == {field.name for field in fields if str(field.type).endswith("| None")}, name


def test_the_runs_that_figures_come_from_are_kept(record) -> None:
    for latency in (*record["latency"].values(), *(row["latency"]["named"] for row in record["sweep"])):
        assert len(latency["seconds"]) == 6
        assert all(seconds == round(seconds, 7) for seconds in latency["seconds"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'format must be "mingle-edge profile"; write one with'),
        ({"format_version": 2}, "format_version is 2, this reads up to 1: upgrade mingle-edge"),
        ({"latency": 3}, "latency must be an object, is 3"),
        ({"memory": {"opened": {"anonymous": 1}}}, r"memory\.opened\.resident must be an integer, is missing"),
        ({"notes": None}, "notes must be a list, is missing"),
    ],
)
def test_what_is_no_report_is_refused(record, tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(record | change))
    with pytest.raises(EdgeError, match=rf"report\.json: {message}"):
        ProfileReport.read(path)


def test_unknown_members_are_ignored(record, tmp_path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "b.json").write_text(json.dumps(record | {"later": 1}))
    assert ProfileReport.read(tmp_path / "a.json") == ProfileReport.read(tmp_path / "b.json")


@pytest.mark.parametrize(("content", "message"), [("{", "is not valid JSON"), (None, "cannot be read: No such file")])
def test_what_cannot_be_read_is_refused(tmp_path, content: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EdgeError, match=message):
        ProfileReport.read(path)
