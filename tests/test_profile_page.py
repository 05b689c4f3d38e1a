"""The page: well-formed, alone, complete, and safe with names that are markup."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page, check_alone
from tiny_bundle import Weights, images, write_image_bundle, write_layer_bundle

from mingle_edge.cli.profile import breakdown
from mingle_edge.cli.profile.page import page
from mingle_edge.cli.profile.table import milliseconds, signed_bytes, table
from mingle_edge.pages.elements import Html, join, tag
from mingle_edge_runtime.profile import BASELINES, ProfileReport, profile
from mingle_edge_runtime.profile.report import LayerTime

HOSTILE = '</td></svg></style><script>alert(1)</script><img src="http://x.test/a.png" onerror=alert(1)>&"\''


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


def test_every_figure_is_on_the_page(report) -> None:
    found = Page(page(report))
    missing = [figure for figure in figures(report) if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", found.text)]
    assert missing == []
    titles = {title for title, _ in found.elements}
    assert {"svg", "table", "details", "rect", "circle", "polyline"} <= titles


def test_the_page_needs_nothing_else(report) -> None:
    check_alone(page(report))


def test_tables_scroll_by_themselves(report) -> None:
    elements = Page(page(report)).elements
    for i, (title, _) in enumerate(elements):
        if title == "table":
            assert elements[i - 1] == ("div", {"class": "scroll"})


def test_charts_stay_inside_their_width(report) -> None:
    for title, found in Page(page(report)).elements:
        if title in ("rect", "line", "circle"):
            percents = [float(value[:-1]) for value in found.values() if value and re.fullmatch(r"-?[\d.]+%", value)]
            assert all(0 <= percent <= 100.01 for percent in percents), found
            start, width = str(found.get("x", "0")).rstrip("%"), str(found.get("width", "0")).rstrip("%")
            assert float(start) + float(width) <= 100.02


@pytest.mark.parametrize(
    ("sets", "text"), [(("AVX2", "AVX-512 VNNI"), "AVX2, AVX-512 VNNI"), ((), "none that matter"), (None, "unknown")]
)
def test_instruction_sets_stand_on_the_page_and_in_the_table(report, sets, text: str) -> None:
    other = replace(report, machine=replace(report.machine, cpu="M", instruction_sets=sets))
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
    assert all(HOSTILE not in (value or "") for _, given in found.elements for value in given.values())


def test_an_interrupted_profile_is_a_page_too(report) -> None:
    empty = replace(
        report, complete=False, latency={}, ratios={}, batches=(), switches={}, residence={}, operators={}, traffic=(), sweep=()
    )
    assert "Interrupted" in Page(page(empty)).text
    assert "INTERRUPTED" in "\n".join(table(empty))


@given(st.text(), st.text())
def test_text_and_attributes_come_back_as_they_were(text: str, attribute: str) -> None:
    text, attribute = (value.replace("\r", "").replace("\0", "") for value in (text, attribute))
    found = Page(tag("p", text, class_=attribute))
    assert found.elements == [("p", {"class": attribute})]
    assert "".join(found.text.split("\n")) == text.replace("\n", "")
    assert join(Html("<b></b>"), "<b>") == "<b></b>&lt;b&gt;"


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
