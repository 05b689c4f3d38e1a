"""The page: well-formed, alone, complete, and safe with names that are markup."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from parsed_page import Page, body, card, check_alone
from tiny_bundle import Weights, images, write_image_bundle, write_layer_bundle

from mingle_edge.cli import main
from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.page import page
from mingle_edge.cli.profile.table import milliseconds, signed_bytes, table
from mingle_edge_runtime.profile import BASELINES, ProfileReport, profile
from mingle_edge_runtime.profile.report import LayerTime

HOSTILE = '</td></svg></style><script>alert(1)</script><img src="http://x.test/a.png" onerror=alert(1)>{{ 7 * 7 }}&"\''


@pytest.fixture(scope="module", params=["image", "layer"])
def report(request, tmp_path_factory) -> ProfileReport:
    """A profile of everything."""
    write = write_image_bundle if request.param == "image" else write_layer_bundle
    bundle = write(tmp_path_factory.mktemp("page") / "bundle", Weights())
    return profile(
        bundle,
        images(0, 1, 3),
        runs=8,
        threads=1,
        against=BASELINES,
        switch_every=2,
        operators=True,
        sweep={"batch": [1, 2], "top-k": [1, 2]},
        expert_budget=40000,
        batch_sizes=(1, 2),
    )


@pytest.fixture(scope="module")
def text(report) -> str:
    """Its page."""
    return page(report)


def interrupted(report: ProfileReport) -> ProfileReport:
    """The same with nothing measured but memory."""
    none = {"latency": {}, "ratios": {}, "switches": {}, "residence": {}, "operators": {}}
    return replace(report, complete=False, batches=(), traffic=(), sweep=(), **none)


def figures(report: ProfileReport) -> list[str]:
    """Every figure of the report as people read it."""
    latencies = [*report.latency.values()]
    ratios = [ratio for kinds in report.ratios.values() for ratio in kinds.values()]
    memories = [*report.memory.values(), *(found.memory for found in report.residence.values())]
    for batch in report.batches:
        latencies += batch.latency.values()
        ratios += [ratio for kinds in batch.ratios.values() for ratio in kinds.values()]
    ratios += [ratio for row in report.sweep for ratio in row.ratios.values()]
    memories += [row.memory for row in report.sweep]
    seconds = [value for found in latencies for value in (found.p50, found.p90, found.p95, found.p99, *(found.interval or ()))]
    seconds += [found.p50 for row in report.sweep for found in row.latency.values()]
    seconds += [found.open for found in report.residence.values()]
    seconds += [value for found in report.switches.values() for value in (found.switching, found.staying, found.slowest)]
    seconds += [value for trace in report.operators.values() for value in (trace.run_seconds, trace.kernel_seconds)]
    seconds += [item.seconds for trace in report.operators.values() for item in (*trace.operators, *trace.layers)]
    seconds += [value for run in report.traffic for value in (run.seconds, run.stall_seconds)]
    seconds += [value for value in vars(report.seconds).values() if value is not None]
    sizes = [size for memory in memories for size in (memory.resident, memory.anonymous, memory.file) if size is not None]
    sizes += [size for run in report.traffic for size in (run.bytes_loaded, run.resident_bytes)]
    sizes += [report.experts.peak_bytes, report.experts.bytes_loaded, report.experts.budget]
    factors = [value for ratio in ratios for value in (ratio.ratio, *ratio.quartiles, *(ratio.interval or ()))]
    plain = [report.started[:10], report.bundle.index_sha256, report.machine.onnxruntime, str(report.machine.memory_bytes)]
    return [*map(milliseconds, seconds), *map(signed_bytes, sizes), *(f"{factor:.3f}" for factor in factors), *plain]


def test_every_figure_is_on_the_page(report, text) -> None:
    found = Page(text)
    missing = [figure for figure in figures(report) if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", found.text)]
    assert missing == []
    titles = {title for title, _ in found.elements}
    assert {"svg", "table", "details"} <= titles


def test_the_page_needs_nothing_else(text) -> None:
    check_alone(text)


def test_tables_scroll_by_themselves(text) -> None:
    elements = Page(text).elements
    for i, (title, _) in enumerate(elements):
        if title == "table":
            assert elements[i - 1] == ("div", {"class": "scroll"})


def test_bars_are_as_long_as_their_values_and_lie_inside(report, text) -> None:
    whole = body(text)
    for title, values in {
        "One image": [found.p50 for found in report.latency.values()],
        "Memory": [size for found in report.memory.values() for size in (found.anonymous, found.file)],
    }.items():
        for kind in ("narrow", "wide"):
            drawing = card(whole, title).find(f"div[@class='{kind}']/svg")
            (group,) = (part for part in drawing.iter("g") if part.get("class", "").startswith("mark-rect role-mark"))
            shapes = [re.fullmatch(r"M(.*?),.*?h(.*?)v.*", path.get("d")).groups() for path in group]
            starts, lengths = zip(*((float(start), float(length)) for start, length in shapes), strict=True)
            assert min(starts) >= 0
            assert max(map(sum, zip(starts, lengths, strict=True))) <= float(drawing.get("viewBox").split()[2])
            expected = [max(lengths) * value / max(values) for value in values]
            assert list(lengths) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("sets", "text"), [(("AVX2", "AVX-512 VNNI"), "AVX2, AVX-512 VNNI"), ((), "none that matter"), (None, "unknown")]
)
def test_instruction_sets_stand_on_the_page_and_in_the_table(report, sets, text: str) -> None:
    other = replace(interrupted(report), machine=replace(report.machine, cpu="M", instruction_sets=sets))
    assert f"M ({text}), " in Page(page(other)).text
    assert f"instruction sets: {text}" in list(table(other))


def test_names_that_are_markup_stay_text(report) -> None:
    trace = replace(report.operators["named"], layers=(LayerTime(HOSTILE, 1.0),))
    evil = replace(
        report,
        bundle=replace(report.bundle, name=HOSTILE, tasks=(HOSTILE,), precision=HOSTILE, expert_bytes={HOSTILE: 1}),
        machine=replace(report.machine, cpu=HOSTILE, instruction_sets=(HOSTILE,)),
        notes=(HOSTILE,),
        traffic=(replace(report.traffic[0], tasks=(HOSTILE,)),),
        latency={HOSTILE: next(iter(report.latency.values()))},
        memory={HOSTILE: report.memory["before"]},
        sweep=(replace(report.sweep[0], axis=HOSTILE, value=HOSTILE),),
        operators=report.operators | {"named": trace},
    )
    found = Page(page(evil))
    assert not {title for title, _ in found.elements} & {"script", "img"}
    assert found.text.count(HOSTILE) >= 8
    named = {name for _, given in found.elements for name, value in given.items() if HOSTILE in (value or "")}
    assert named <= {"aria-label"}


def test_an_interrupted_profile_is_a_page_too(report) -> None:
    empty = interrupted(report)
    assert "Interrupted" in Page(page(empty)).text
    assert "INTERRUPTED" in "\n".join(table(empty))


def test_layers_are_summed_over_blocks_and_by_block(report) -> None:
    def trace(*layers: tuple[str, float]) -> object:
        return replace(report.operators["dense"], layers=tuple(LayerTime(*layer) for layer in layers))

    named = trace(("stem", 1), ("blocks.0.fc1", 2), ("blocks.1.fc1", 3), ("blocks.1.ln", 1), ("other", 7))
    dense = trace(("stem", 1), ("blocks.0.fc1", 1), ("blocks.1.fc1", 1), ("head", 5), ("blocks.11", 4))
    found = replace(report, operators={"named": named, "dense": dense})
    kinds = {part.name: (part.named, part.dense) for part in breakdown.layer_kinds(found)}
    assert kinds == {
        "stem": (1, 1), "blocks.*.fc1": (5, 2), "blocks.*.ln": (1, 0), "other": (7, 0), "head": (0, 5), "blocks.*": (0, 4)
    }  # fmt: skip
    blocks = {part.name: part.extra for part in breakdown.blocks(found)}
    assert blocks == {"stem": 0, "blocks.0": 1, "blocks.1": 3, "other": 7, "head": -5, "blocks.11": -4}


def test_the_page_is_made_from_the_file_of_a_report_alone(report, text, tmp_path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(report.to_json()))
    result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.json")])
    assert (result.exit_code, result.output) == (0, f"page: {tmp_path / 'a.html'}\n")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == text
    result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.json"), "--html", str(tmp_path / "b.html")])
    assert result.exit_code == 0
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "a.html").read_bytes()


def test_a_page_of_a_report_is_all_that_is_asked_for(tmp_path) -> None:
    result = CliRunner().invoke(main, ["profile", "bundle", "--page", str(tmp_path / "a.json"), "--runs", "3"])
    assert result.exit_code == 2
    assert "--page reads a report and measures nothing: leave out --runs, BUNDLE" in result.output
    result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.json")])
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'a.json'} cannot be read: No such file or directory" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_page_never_takes_the_place_of_its_report(report, tmp_path) -> None:
    (tmp_path / "a.html").write_text(json.dumps(report.to_json()))
    for options in ([], ["--html", str(tmp_path / "a.html")]):
        result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.html"), *options])
        assert result.exit_code == 2
        assert "would overwrite the report" in result.output
    assert ProfileReport.read(tmp_path / "a.html") == report


@pytest.mark.parametrize("package", ["vl_convert", "jinja2"])
def test_a_missing_library_is_told_before_anything_is_measured(report, tmp_path, monkeypatch, package: str) -> None:
    for name in [*(name for name in sys.modules if name.startswith("mingle_edge.pages.")), "mingle_edge.cli.profile.page"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    files = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    result = CliRunner().invoke(main, ["profile", str(tmp_path / "no-bundle"), *files])
    assert result.exit_code == 2
    advice = "install it with: pip install 'mingle-edge[report]'"
    assert result.output == f"error: this command needs the package {package}; {advice}\n"
    assert list(tmp_path.iterdir()) == []


def test_numbers_no_chart_can_hold_are_an_error_and_zeros_are_not(report, tmp_path) -> None:
    latency = {kind: replace(found, p50=0.0, seconds=()) for kind, found in report.latency.items()}
    assert "Throughput" in page(replace(interrupted(report), latency=latency, batches=report.batches))
    large = {kind: replace(found, p50=1e308, seconds=(1e308,)) for kind, found in report.latency.items()}
    (tmp_path / "a.json").write_text(json.dumps(replace(interrupted(report), latency=large).to_json()))
    result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.json")])
    assert result.exit_code == 2
    assert result.output.startswith("error: something in the input is too deep or too large")
