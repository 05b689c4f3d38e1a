"""The dial of an expert's size on the command line: what export and inspect say of it, and what they refuse."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from measured_forms import falling, with_forms
from tiny_merged import write_merged

from mingle_edge.cli import main
from mingle_edge.merging.inspection import forms_worth_their_bytes
from mingle_edge_runtime import Bundle

LOOSE = ("--min-cosine", "0", "--min-route-agreement", "0")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def table(output: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with a word, by columns."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"  {first} "))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        rows.append(line.split())
    return rows


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A merged model of two tasks whose forms were measured, and a third whose were not."""
    model = write_merged(tmp_path_factory.mktemp("model") / "merged", rank=6)
    forms = {"task0": falling([1, 2, 4, 6], points=2.0), "task1": falling([2, 6], points=6.0)}
    return with_forms(model, tmp_path_factory.mktemp("measured") / "merged", forms)


@pytest.mark.parametrize("bound", [("--keep", "1.2"), ("--expert-bytes", "0.03MB")])
def test_export_and_inspect_say_what_was_chosen_and_the_steps_beside_it(measured, tmp_path, bound) -> None:
    bundle = tmp_path / "bundle"
    exported = run("export", measured.path, "-o", bundle, "--tasks", "task0,task1", *bound, *LOOSE)
    assert exported.exit_code == 0, exported.output
    rows = table(exported.output, "expert")
    expected = []
    for task in Bundle.open(bundle).index.tasks:
        expected.append([task.name, task.rank, task.precision, task.expert_bytes, task.agreement, task.points_lost])
        for name, form in (("smaller", task.smaller), ("larger", task.larger)):
            if form:
                expected.append([name, form.rank, form.precision, form.bytes, form.agreement, form.points_lost])
    assert len(rows) > 4
    for row, (name, rank, precision, size, agreement, lost) in zip(rows, expected, strict=True):
        assert row[:3] == [name, str(rank), precision]
        assert float(row[3]) == pytest.approx(size / 1e6, abs=0.0006)
        assert float(row[5].removesuffix("%")) == pytest.approx(100 * agreement, abs=0.051)
        assert float(row[6]) == pytest.approx(lost, abs=0.0051)
    assert max(map(len, exported.stdout.splitlines()[1:])) <= 80
    inspected = run("inspect", bundle)
    assert inspected.exit_code == 0, inspected.output
    assert table(inspected.output, "expert") == rows


def test_inspect_shows_every_form_worth_its_bytes(measured) -> None:
    result = run("inspect", measured.path)
    assert result.exit_code == 0, result.output
    rows = table(result.output, "expert")
    expected = [form for task in measured.task_names for form in forms_worth_their_bytes(measured, task)]
    assert [row[-6:-4] + row[-1:] for row in rows] == [
        [str(form.rank), form.precision, f"{form.points_lost:.2f}"] for form in expected
    ]
    assert [row[0] for row in rows if len(row) == 7] == ["task0", "task1"]
    assert not forms_worth_their_bytes(measured, "task2")


def test_where_nothing_was_measured_no_table_is_shown(tmp_path) -> None:
    merged = write_merged(tmp_path / "merged")
    exported = run("export", merged.path, "-o", tmp_path / "bundle")
    for result in (exported, run("inspect", merged.path), run("inspect", tmp_path / "bundle")):
        assert result.exit_code == 0, result.output
        assert "agreement" not in result.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--keep", "1", "--expert-bytes", "3M"), 3, "keep and expert_bytes both choose what experts are exported in"),
        (("--keep", "101"), 2, "101"),
        (("--expert-bytes", "some"), 2, "'some' is no size; write it like 64MB"),
        (("--expert-bytes", "1KB", "--tasks", "task0"), 3, r"the smallest expert of task 'task0', rank 1 in int4, takes \d+"),
        (("--keep", "0.1", "--tasks", "task1"), 3, "the expert of task 'task1' that loses least, rank 6 in int8, loses 1.1 p"),
        (("--keep", "1"), 3, "not measured for task2; it is when a task is merged with 10 seeds or more"),
    ],
)
def test_what_is_refused_is_one_line(measured, tmp_path, options, code: int, message: str) -> None:
    result = run("export", measured.path, "-o", tmp_path / "bundle", *options)
    assert result.exit_code == code
    assert re.search(message, result.output)
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
