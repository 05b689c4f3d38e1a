"""The table on a terminal and the CSV file against the results they show."""

from __future__ import annotations

import csv
import json

import pytest
from comparison_results import KNOWN, SEVEN, TASKS, results
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.comparison.ranking import ordered
from mingle_edge.comparison.table import COLUMNS, FIGURES, format_table, write_csv
from mingle_edge.core.errors import OutputError
from mingle_edge.pages.labels import shorten


def lines_by_method(compared):
    """The table's lines after its head, by label."""
    lines = format_table(compared).splitlines()
    labels = [*compared["methods"]]
    return {label: line for line in lines[2 : 2 + len(labels)] for label in labels if line.startswith(f"{label} ")}


def test_the_table_says_what_the_results_say():
    compared = results(tasks=TASKS[:3])
    lines = lines_by_method(compared)
    assert lines.keys() == compared["methods"].keys()
    for label, line in lines.items():
        p1, p2, p3 = (compared["accuracy"][label][protocol] for protocol in ("P1", "P2", "P3"))
        signed = [f"{value:+.1f}" if abs(value) >= 0.05 else "0.0" for value in (p1["bwt"], p1["fwt"], p2["bwt"], p3["bwt"])]
        method = compared["methods"][label]
        assert line.split()[1:7] == [
            f"{p1['acc']:.1f}±{p1['acc_std']:.1f}",
            f"{signed[0]}±{p1['bwt_std']:.1f}",
            signed[1],
            f"{p2['acc']:.1f}±{p2['acc_std']:.1f}",
            signed[2],
            f"{p3['acc']:.1f}±{p3['acc_std']:.1f}",
        ]
        stored, task, time = line.split()[8:]
        assert float(stored) == pytest.approx(method["stored_bytes"] / 1e6, rel=1e-3)
        assert float(task) == pytest.approx(method["bytes_per_task"] / 1e6, rel=5e-3)
        assert time == f"{method['latency_ratio']:.2f}"


def test_methods_are_sorted_between_the_references():
    compared = results(tasks=TASKS[:3])
    lines = list(lines_by_method(compared))
    assert (lines[0], lines[-1]) == ("pretrained", "individual")
    accuracies = [compared["accuracy"][label]["P1"]["acc"] for label in lines[1:-1]]
    assert accuracies == sorted(accuracies)
    assert lines == ordered(compared)


def test_a_single_order_has_no_deviation_and_failed_methods_have_dashes():
    compared = results(orders=1, protocols=("P2",))
    del compared["accuracy"]["opcm"]
    for key in ("stored_bytes", "active_bytes", "bytes_per_task", "latency_ratio", "seconds_per_task"):
        del compared["methods"]["opcm"][key]
    compared["failed"] = [{"method": "opcm", "order": compared["orders"][0], "corruption": None, "error": "RuntimeError: x"}]
    text = format_table(compared)
    assert "±" not in text
    assert "FWT " not in text.splitlines()[1]
    assert text.splitlines()[3].split() == ["opcm", "-", "-", "-", "-", "-"]
    assert text.splitlines()[-1] == "1 cell failed; figures are of the orders that finished."


@given(st.data())
def test_whatever_was_measured_the_table_stays_within_its_width(data):
    compared = results(tasks=TASKS[:2], orders=data.draw(st.integers(1, 3)), corruptions=())
    figure = st.none() | st.floats(-100, 100) | st.just(float("nan"))
    renamed = data.draw(st.lists(st.text("abc(=,)-.1", min_size=1, max_size=60), min_size=14, max_size=14, unique=True))
    names = dict(zip(list(KNOWN)[2:], renamed, strict=True))
    for key in ("methods", "accuracy"):
        compared[key] = {names.get(label, label): value for label, value in compared[key].items()}
    for by_protocol in compared["accuracy"].values():
        for figures in by_protocol.values():
            for name in figures:
                figures[name] = data.draw(figure) if data.draw(st.booleans()) else figures[name]
    text = format_table(compared)
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) >= 2 + len(compared["methods"])


@given(st.text("abcdefgh-", max_size=60), st.integers(0, 30))
def test_shortened_names_keep_both_ends(text, length):
    short = shorten(text, length)
    if len(text) <= length:
        assert short == text
        return
    assert len(short) == length
    head, _, tail = short.partition("..")
    assert text.startswith(head.rstrip("."))
    assert text.endswith(tail)
    assert length < 4 or (head and tail)


def test_csv_holds_every_figure_unrounded(tmp_path):
    compared = results(tasks=TASKS[:3])
    compared["accuracy"]["ties"]["P1"]["acc_std"] = None
    compared["methods"]["ties"]["latency_ratio"] = None
    write_csv(compared, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(compared["methods"]) * 3 * (1 + len(SEVEN))
    seen = set()
    for row in rows:
        label, corruption = row["method"], row["corruption"]
        of_label = compared["corrupted"][label][corruption] if corruption else compared["accuracy"][label]
        figures, method = of_label[row["protocol"]], compared["methods"][label]
        assert [row[name] for name in FIGURES] == ["" if (v := figures.get(name)) is None else repr(v) for name in FIGURES]
        assert int(row["stored_bytes"]) == method["stored_bytes"]
        assert int(row["active_bytes"]) == method["active_bytes"]
        assert int(row["bytes_per_task"]) == method["bytes_per_task"]
        ratio = method["latency_ratio"]
        assert (float(row["latency_ratio"]) if row["latency_ratio"] else None) == ratio
        assert json.loads(row["parameters"]) == method["parameters"]
        seen.add((label, row["protocol"], corruption))
    assert len(seen) == len(rows)


def test_csv_keeps_names_with_commas_quotes_and_line_ends(tmp_path):
    name = 'mingle(steps=1,"x")\r\n=1+1'
    compared = results(labels=("pretrained", "individual", "ties"), corruptions=())
    for key in ("methods", "accuracy"):
        compared[key][name] = compared[key].pop("ties")
    write_csv(compared, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [*["pretrained"] * 3, *[name] * 3, *["individual"] * 3]


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.csv" / "kept").write_text("")
    with pytest.raises(OutputError, match=r"a\.csv: cannot be written"):
        write_csv(results(), tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
