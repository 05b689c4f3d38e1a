"""The page: well-formed, alone, complete, and safe with names that are markup."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from parsed_page import Page, body, card, check_alone, check_phone, words

from mingle_edge.cli import main
from mingle_edge.cli.exit_codes import ExitCode
from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.page import page
from mingle_edge.cli.profile.tables import ms, size
from mingle_edge.cli.profile.terminal import profile_lines
from mingle_edge_runtime.profile import ProfileReport
from mingle_edge_runtime.profile.report import Contention, LayerTime

HOSTILE = '</td></svg></style><script>alert(1)</script><img src="http://x.test/a.png" onerror=alert(1)>{{ 7 * 7 }}&"\''


@pytest.fixture(scope="module", params=["image", "layer"])
def report(request, profile_of) -> ProfileReport:
    """A profile of everything."""
    return profile_of(request.param)[0]


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
    latencies = [times for batch in (report, *report.batches) for times in batch.latency.values()]
    kinds = [kinds for batch in (report, *report.batches) for kinds in batch.ratios.values()]
    ratios = [ratio for by_kind in (*kinds, *(row.ratios for row in report.sweep)) for ratio in by_kind.values()]
    memories = [*report.memory.values(), *(measured.memory for measured in (*report.residence.values(), *report.sweep))]
    seconds = [value for times in latencies for value in (times.p50, times.p90, times.p95, times.p99, *(times.interval or ()))]
    seconds += [times.p50 for row in report.sweep for times in row.latency.values()]
    seconds += [ready.open for ready in report.residence.values()]
    seconds += [value for switch in report.switches.values() for value in (switch.switching, switch.staying, switch.slowest)]
    seconds += [value for trace in report.operators.values() for value in (trace.run_seconds, trace.kernel_seconds)]
    seconds += [item.seconds for trace in report.operators.values() for item in (*trace.operators, *trace.layers)]
    seconds += [value for run in report.traffic for value in (run.seconds, run.stall_seconds)]
    seconds += [value for value in vars(report.seconds).values() if value is not None]
    sizes = [part for memory in memories for part in (memory.resident, memory.anonymous, memory.file) if part is not None]
    sizes += [part for run in report.traffic for part in (run.bytes_loaded, run.resident_bytes)]
    sizes += [report.experts.peak_bytes, report.experts.bytes_loaded]
    factors = [value for ratio in ratios for value in (ratio.ratio, *ratio.quartiles, *(ratio.interval or ()))]
    plain = [report.started[:10], report.bundle.index_sha256, report.machine.onnxruntime, str(report.machine.memory_bytes)]
    return [*map(ms, seconds), *map(size, sizes), *(f"{factor:.3f}" for factor in factors), *plain]


def test_every_figure_is_on_the_page_and_nothing_is_loaded(report, text) -> None:
    parsed = check_alone(text)
    check_phone(body(text))
    missing = [
        figure for figure in figures(report) if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", parsed.text)
    ]
    assert missing == []
    drawn = {words(part[0]) for part in body(text).iter("section") if part.find(".//svg") is not None}
    assert drawn == {
        *("One image", "Against what one would do otherwise", "Memory", "To have ready for all tasks", "Experts over time"),
        *("Where the time goes: operators", "Where the time goes: layers"),
        *(f"Sweep: {axis}" for axis in ("batch", "top-k", "budget", "precision")),
    }


def test_the_terminal_shows_every_time_ratio_and_size_of_one_image(report) -> None:
    lines = "\n".join(profile_lines(report))
    times = [value for latency in report.latency.values() for value in (latency.p50, latency.p90, latency.p95, latency.p99)]
    times += [trace.run_seconds for trace in report.operators.values()]
    ratios = [ratio.ratio for kinds in report.ratios.values() for ratio in kinds.values()]
    sizes = [memory.resident for memory in report.memory.values()]
    for figure in (*map(ms, times), *(f"{ratio:.3f}" for ratio in ratios), *map(size, sizes)):
        assert f" {figure} " in lines


def test_bars_are_as_long_as_their_values_and_lie_inside(report, text) -> None:
    whole = body(text)
    for title, values in {
        "One image": [times.p50 for times in report.latency.values()],
        "Memory": [part for moment in report.memory.values() for part in (moment.anonymous, moment.file)],
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


def test_routed_stands_beside_named_with_its_ratio_to_dense(report, text) -> None:
    tiles = [[words(part) for part in tile] for tile in body(text).find(".//div[@class='tiles']")]
    dense = ms(report.latency["dense"].p50)
    for tile, kind in zip(tiles, ("named", "routed"), strict=False):
        name, value, beside = tile
        assert name.startswith(f"one image, {kind}: ")
        assert value == f"{ms(report.latency[kind].p50)} ms"
        assert beside == f"{report.ratios['dense'][kind].ratio:.2f} x dense ({dense} ms)"
    alone = replace(report, ratios={}, latency={kind: report.latency[kind] for kind in ("named", "routed")})
    tiles = [[words(part) for part in tile] for tile in body(page(alone)).find(".//div[@class='tiles']")]
    assert [len(tile) for tile in tiles[:2]] == [2, 2]


def test_ratios_lie_on_a_logarithmic_axis_with_a_label_at_1(report, text) -> None:
    ratios = [ratio for kinds in report.ratios.values() for ratio in kinds.values()]
    for svg in card(body(text), "Against what one would do otherwise").iter("svg"):
        places = {
            label.text: float(re.match(r"translate\((.*),", label.get("transform")).group(1))
            for label in svg.iter("text")
            if re.fullmatch(r"[\d.]+ x", label.text or "")
        }
        other = next(label for label in places if label != "1 x")
        scale = (places[other] - places["1 x"]) / math.log(float(other.removesuffix(" x")))
        (points,) = (part for part in svg.iter("g") if part.get("class", "").startswith("mark-symbol"))
        shown = [float(re.match(r"translate\((.*),", point.get("transform")).group(1)) for point in points]
        assert shown == pytest.approx([places["1 x"] + scale * math.log(ratio.ratio) for ratio in ratios], abs=0.5)


def test_a_ratio_or_a_difference_stands_beside_its_two_times(report, text) -> None:
    whole = body(text)
    shown = words(card(whole, "Against what one would do otherwise"))
    for baseline, kinds in report.ratios.items():
        for kind, ratio in kinds.items():
            before, after = (ms(report.latency[name].p50) for name in (baseline, kind))
            assert f"{before} → {after} ms ({ratio.ratio:.2f} x)" in shown
    shown = words(card(whole, "Where the time goes: layers"))
    for named, dense in breakdown.layer_kinds(report).values():
        assert f"{ms(dense)} → {ms(named)} ms ({1e3 * (named - dense):+.3f})" in shown
    for row in report.sweep:
        for kind, ratio in row.ratios.items():
            assert f"{ms(row.latency[kind].p50)} ms ({ratio.ratio:.2f} x)" in words(card(whole, f"Sweep: {row.axis}"))


def test_a_busy_machine_is_warned_of_above_all_figures_and_a_quiet_one_is_not(report) -> None:
    header = body(page(replace(report, contention=Contention(others=0.42, stolen=0.0)))).find(".//header")
    names = [part.get("class") for part in header]
    assert names.index("warning") < names.index("tiles")
    assert "the machine was busy: other programs took 42%" in words(header.find("p[@class='warning']"))
    for quiet in (Contention(0.02, 0.0), None):
        assert body(page(replace(report, contention=quiet))).find(".//p[@class='warning']") is None


def test_memory_says_where_the_start_of_onnx_runtime_is(report) -> None:
    start = report.memory["before"].since(report.memory["imported"])
    ready = words(card(body(page(report)), "To have ready for all tasks"))
    assert f"ONNX Runtime's own start, {size(max(start.resident, 0))}, comes before and is in none of them" in ready
    older = {name: memory for name, memory in report.memory.items() if name != "imported"}
    ready = words(card(body(page(replace(report, memory=older))), "To have ready for all tasks"))
    assert "The bundle's includes ONNX Runtime's own start" in ready


def test_too_few_runs_for_intervals_are_told(report) -> None:
    few = {"dense": {kind: replace(ratio, interval=None) for kind, ratio in report.ratios["dense"].items()}}
    assert "Ratios with their quartiles" in words(
        card(body(page(replace(report, ratios=few))), "Against what one would do otherwise")
    )
    assert "Ratios with their 95% intervals" in words(card(body(page(report)), "Against what one would do otherwise"))


@pytest.mark.parametrize(
    ("sets", "text"), [(("AVX2", "AVX-512 VNNI"), "AVX2, AVX-512 VNNI"), ((), "none that matter"), (None, "unknown")]
)
def test_an_interrupted_profile_names_the_machine_and_the_budget(report, sets, text: str) -> None:
    machine, budget = replace(report.machine, cpu="M", instruction_sets=sets), replace(report.settings, expert_budget=40000)
    empty = replace(interrupted(report), machine=machine, settings=budget)
    lines, shown = "\n".join(profile_lines(empty)), Page(page(empty)).text
    assert f"M ({text}), " in lines
    assert f"M ({text}), " in shown
    assert f"at a budget of {size(40000)}" in shown
    assert "INTERRUPTED" in lines
    assert "Interrupted" in shown


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
    parsed = Page(page(evil))
    assert not {title for title, _ in parsed.elements} & {"script", "img"}
    assert parsed.text.count(HOSTILE) >= 8
    named = {name for _, given in parsed.elements for name, value in given.items() if HOSTILE in (value or "")}
    assert named <= {"aria-label"}


def test_layers_are_summed_over_blocks_and_by_block(report) -> None:
    def trace(*layers: tuple[str, float]) -> object:
        return replace(report.operators["dense"], layers=tuple(LayerTime(*layer) for layer in layers))

    named = trace(("stem", 1), ("blocks.0.fc1", 2), ("blocks.1.fc1", 3), ("blocks.1.ln", 1), ("other", 7))
    dense = trace(("stem", 1), ("blocks.0.fc1", 1), ("blocks.1.fc1", 1), ("head", 5), ("blocks.11", 4))
    traced = replace(report, operators={"named": named, "dense": dense})
    assert breakdown.layer_kinds(traced) == {
        "stem": [1, 1], "blocks.*.fc1": [5, 2], "blocks.*.ln": [1, 0], "other": [7, 0], "head": [0, 5], "blocks.*": [0, 4]
    }  # fmt: skip
    blocks = {name: named - dense for name, (named, dense) in breakdown.blocks(traced).items()}
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
    assert result.exit_code == ExitCode.INPUT
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
    assert result.exit_code == ExitCode.ENVIRONMENT
    advice = "install it in a clone of mingle-edge with: pip install '.[report]'"
    assert result.output == f"error: this command needs the package {package}; {advice}\n"
    assert list(tmp_path.iterdir()) == []


def test_numbers_no_chart_can_hold_are_an_error_and_zeros_are_not(report, tmp_path) -> None:
    latency = {kind: replace(times, p50=0.0, seconds=()) for kind, times in report.latency.items()}
    assert "Throughput" in page(replace(interrupted(report), latency=latency, batches=report.batches))
    large = {kind: replace(times, p50=1e308, seconds=(1e308,)) for kind, times in report.latency.items()}
    (tmp_path / "a.json").write_text(json.dumps(replace(interrupted(report), latency=large).to_json()))
    result = CliRunner().invoke(main, ["profile", "--page", str(tmp_path / "a.json")])
    assert result.exit_code == ExitCode.INPUT
    assert result.output.startswith("error: something in the input is too deep or too large")
