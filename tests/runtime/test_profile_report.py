"""The report file: every member specified, and files that are no reports refused with the reason."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from mingle_edge_runtime import EdgeError
from mingle_edge_runtime.profile import ProfileReport, report

DOCUMENT = Path(__file__).parents[2] / "docs/profile-report.md"


@pytest.fixture(scope="module")
def record(profile_of) -> dict:
    """What a report file holds."""
    return profile_of("image")[0].to_json()


def test_the_specification_names_every_member_and_marks_those_that_may_be_left_out() -> None:
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    specified = {
        section.splitlines()[0]: re.findall(r"^\| `(\w+)` \|[^|]*\| (\*optional\*)?", section, re.MULTILINE)
        for section in sections
    }
    records = {name: kind for name, kind in vars(report).items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    assert {name: {member: bool(optional) for member, optional in members} for name, members in specified.items()} == {
        name: {field.name: str(field.type).endswith("| None") for field in dataclasses.fields(kind)}
        for name, kind in records.items()
    }


def test_the_runs_that_figures_come_from_are_kept(record) -> None:
    for latency in record["latency"].values():
        assert len(latency["seconds"]) == 8
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
