"""Multiply-adds against counting by hand; growth, routes and tasks never merged against plain loops."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from statistics import fmean, harmonic_mean

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from comparison_results import TASKS, results
from parsed_page import body, card, rows, words
from tiny_compared import TinyComparison

from mingle_edge.cli import main
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.compare import ComparisonOptions, compare, merged_tasks
from mingle_edge.comparison.kept_cells import KeptCells
from mingle_edge.comparison.methods.image_router import ImageRouter
from mingle_edge.comparison.multiply_adds import multiply_adds
from mingle_edge.comparison.page import page
from mingle_edge.comparison.results import Finished, general_knowledge, growth, identified
from mingle_edge.comparison.table import COLUMNS, format_table, write_csv, write_routes
from mingle_edge.core.errors import ComparisonError
from mingle_edge.evaluation.protocols import PROTOCOLS

PLAN = ComparisonOptions(
    "weight-averaging,image,mass", orders=2, parallel=False, device="cpu", unmerged=("task3", "task1"), step_images=0
)


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file)


@pytest.fixture(scope="module")
def four_tasks(tmp_path_factory):
    return tiny_clip.write_task_file(tmp_path_factory.mktemp("four"), tasks=4, rank=8)


@pytest.fixture(scope="module")
def compared(four_tasks, tmp_path_factory):
    """A comparison in which two of four tasks are never merged, and its folder."""
    folder = tmp_path_factory.mktemp("unmerged")
    return compare(four_tasks, folder, PLAN), folder


def products(architecture):
    """Multiply-adds of the plain tower for one image: linear layers at the tokens they see, and attention's two products."""
    tokens, total = architecture.tokens, 0
    for layer in architecture.linear_layers():
        d_out, d_in = architecture.linear_shape(layer)
        seen = {"patch_embedding": architecture.grid**2, "projection": 1}.get(layer, tokens)
        total += seen * d_out * d_in
    return total + architecture.layers * 2 * tokens**2 * architecture.width


def experts(tiny, rank, tasks=1):
    """Multiply-adds of so many low-rank experts in every linear layer but the stem, at all tokens."""
    architecture, total = tiny.architecture, 0
    for layer in architecture.linear_layers()[1:]:
        d_out, d_in = architecture.linear_shape(layer)
        total += (1 if layer == "projection" else architecture.tokens) * min(rank, d_out, d_in) * (d_in + d_out)
    return tasks * total


def counted(tiny, method):
    images = torch.cat([batch.images[:1] for batch in tiny.batches.values()])
    with torch.inference_mode():
        return multiply_adds(method, images, "task0")


def test_a_tower_multiplies_what_its_shapes_say_and_twice_the_same(tiny):
    for name in ("pretrained", "weight-averaging", "tsv-m"):
        method = tiny.merged(name)
        assert counted(tiny, method) == counted(tiny, method) == products(tiny.architecture)


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_each_task_adds_an_expert_and_a_gate_to_every_token_of_smile(tiny, tasks):
    tiny_smile = tiny.built("smile", rank=4, gate_rank=2)
    for task in tiny.tasks[:tasks]:
        tiny_smile.add(task)
    more = counted(tiny, tiny_smile) - products(tiny.architecture)
    architecture, gates = tiny.architecture, 0
    for layer in architecture.linear_layers()[1:]:
        seen = 1 if layer == "projection" else architecture.tokens
        gates += seen * 2 * architecture.linear_shape(layer)[1] * tasks * (tasks > 1)
    assert more == experts(tiny, 4, tasks) + gates


def test_restoring_a_compressed_tower_is_no_part_of_an_image(tiny):
    method = tiny.merged("tsv-compress", share=0.5)
    method.router.route = lambda batch: type("Always", (), {"tasks": torch.tensor([1]), "posterior": None, "claimed": None})
    assert counted(tiny, method) == products(tiny.architecture)


def test_the_second_pass_of_mass_is_counted_and_merging_its_tower_is_not(tiny):
    whole, first = counted(tiny, tiny.merged("mass")), counted(tiny, tiny.merged("mass", depth=0.0))
    per_block = (products(tiny.architecture) - 48 * 16 * 192 - 32 * 48) / 3
    assert 1 < first / products(tiny.architecture) < whole / products(tiny.architecture) < 2.2
    assert whole - first == pytest.approx(2 * per_block)


def test_growth_is_the_mean_of_what_further_tasks_add():
    def finished(stored, products):
        return Finished(
            Cell("x", "smile", {}, ("a", "b", "c"), 0), CellResult({}, [], stored_after=stored, multiply_adds=products)
        )

    grown = growth([finished([10, 14, 20], [2.0, 3.0, 4.0, 6.0]), finished([12, 14, 20], [2.0, 3.0, 4.0, 8.0])])
    assert grown["stored_bytes"] == [11, 14, 20]
    assert grown["multiply_adds"] == [1.5, 2.0, 3.5]
    assert grown["stored_bytes_per_task"] == 4.5
    assert grown["multiply_adds_per_task"] == 1.0
    alone = growth([finished([10], [2.0, 3.0])])
    assert (alone["stored_bytes_per_task"], alone["multiply_adds_per_task"]) == (None, None)
    assert growth([finished([10], [])]) is None


def test_routes_in_short_are_the_diagonal_and_the_last_column():
    assert identified([[90.0, 5.0, 5.0], [20.0, 70.0, 10.0]]) == {"own": 80.0, "unclaimed": 7.5}


def test_the_h_score_is_the_harmonic_mean_of_each_order():
    def finished(final, unmerged, refused):
        accuracy = {"P1": [[None] * 2] * 2 + [final]}
        return Finished(Cell("x", "image", {}, ("a", "b"), 0), CellResult(accuracy, [], unmerged=unmerged, refused=refused))

    known = general_knowledge(
        [
            finished([80.0, 60.0], {"c": 20.0, "d": 40.0}, {"c": 90.0, "d": 50.0}),
            finished([60.0, 60.0], {"c": 60.0, "d": 60.0}, {"c": 20.0, "d": 40.0}),
        ]
    )
    assert known["acc"] == 45
    assert known["h_score"] == pytest.approx((2 / (1 / 70 + 1 / 30) + 60) / 2)
    assert known["by_task"] == {"c": 40.0, "d": 50.0}
    assert known["unclaimed"] == 50
    assert general_knowledge([finished([80.0, 60.0], None, None)]) is None


def test_tasks_never_merged_are_measured_by_a_plain_loop(compared, four_tasks):
    found, _ = compared
    tiny = TinyComparison(four_tasks)
    merged = {name: fmean_of(tiny, name) for name in tiny.backbone}
    for label, tower in (("pretrained", tiny.backbone), ("individual", tiny.backbone), ("weight-averaging", merged)):
        right = {}
        for task in (1, 3):
            images, labels = tiny.batches[f"task{task}"].images, tiny.labels[f"task{task}"]
            embeds = F.normalize(embed_images(images, tower, tiny.architecture), dim=-1)
            right[f"task{task}"] = 100 * float((tiny.tasks[task].head.logits(embeds).argmax(1) == labels).float().mean())
        known = found["unmerged"][label]
        assert known["by_task"] == pytest.approx(right)
        assert known["acc"] == pytest.approx(fmean(right.values()))
        acc = found["accuracy"][label]["P1"]["acc"]
        assert known["h_score"] == pytest.approx(harmonic_mean([acc, known["acc"]]) if min(acc, known["acc"]) else 0)
        assert known["unclaimed"] is None


def fmean_of(tiny, name):
    return torch.stack([tiny.tasks[task].finetuned[name] for task in (0, 2)]).mean(0)


def test_images_of_tasks_never_merged_that_a_router_refuses_run_the_plain_backbone(four_tasks, tmp_path, monkeypatch):
    route = ImageRouter.route

    def refusing(router, batch, *others):
        routed = route(router, batch, *others)
        return dataclasses.replace(routed, claimed=torch.zeros_like(routed.claimed))

    monkeypatch.setattr(ImageRouter, "route", refusing)
    found = compare(four_tasks, tmp_path, PLAN)["unmerged"]
    assert found["image"]["unclaimed"] == 100
    assert found["image"]["by_task"] == found["pretrained"]["by_task"]
    assert found["mass"]["unclaimed"] == 0


def test_tasks_never_merged_are_in_no_other_figure(compared):
    found, _ = compared
    assert [task["name"] for task in found["tasks"]] == ["task0", "task2"]
    assert [task["name"] for task in found["unmerged_tasks"]] == ["task1", "task3"]
    assert all(sorted(order) == ["task0", "task2"] for order in found["orders"])
    assert found["failed"] == []
    assert set(found["by_task"]["image"]["P1"]) == {"task0", "task2"}
    assert {len(row) for row in found["routes"]["image"]} == {3}
    assert all(len(grown["multiply_adds"]) == 2 for grown in found["growth"].values())
    assert found["growth"]["pretrained"]["multiply_adds"] == [1.0, 1.0]
    assert found["growth"]["image"]["stored_bytes_per_task"] > found["growth"]["weight-averaging"]["stored_bytes_per_task"] == 0


def test_what_is_never_merged_is_part_of_what_a_kept_cell_depends_on(compared, four_tasks, tmp_path):
    _, folder = compared
    cells = {path.name for path in (folder / "cells").iterdir()}
    compare(four_tasks, folder, ComparisonOptions("image", orders=1, parallel=False, device="cpu", unmerged=("task1",)))
    assert len({path.name for path in (folder / "cells").iterdir()} - cells) == 3
    kept = KeptCells(tmp_path)
    whole = CellResult(
        {protocol: [[None], [50.0]] for protocol in PROTOCOLS},
        [1.0],
        stored_after=[3],
        multiply_adds=[1.0, 2.0],
        confusion=[[100.0]],
    )
    kept.keep("a", whole)
    assert kept.load("a") == whole
    kept.keep("a", CellResult(**{**vars(whole), "multiply_adds": [1.0]}))
    assert kept.load("a") is None


@pytest.mark.parametrize(
    ("unmerged", "message"),
    [
        (("c", "d"), "unmerged: there is no task 'd'; the tasks are a, b, c"),
        (("taks-b",), "unmerged: there is no task 'taks-b'; the tasks are a, b, c"),
        (("a", "b", "c"), "unmerged names all of the 3 tasks, and at least one must be merged"),
    ],
)
def test_what_cannot_be_left_out_is_named(unmerged, message):
    with pytest.raises(ComparisonError, match=re.escape(message)):
        merged_tasks(["a", "b", "c"], unmerged)


def test_the_command_takes_tasks_to_leave_out(four_tasks, tmp_path):
    arguments = ["compare", str(four_tasks), "-o", str(tmp_path), "--methods", "ties", "--orders", "1", "--no-ray"]
    done = CliRunner().invoke(main, [*arguments, "--unmerged", "task1", "--unmerged", "task3"])
    assert done.exit_code == 0, done.output
    assert "Never merged: task1, task3." in done.output
    assert json.loads((tmp_path / "results.json").read_text())["unmerged"]["ties"]["by_task"].keys() == {"task1", "task3"}
    wrong = CliRunner().invoke(main, [*arguments, "--unmerged", "task7"])
    assert wrong.exit_code == 3
    assert wrong.output.startswith("error: unmerged: there is no task 'task7'; did you mean 'task3'?")


# ---- what shows them


def test_the_second_table_says_what_the_results_say():
    made = results(tasks=TASKS[:3])
    lines = format_table(made).splitlines()
    second = lines[lines.index("", 2) + 1 :]
    assert second[1].split() == ["method", "own", "none", "MB", "x", "+%", "ACC", "none", "H"]
    for line in second[2 : 2 + len(made["methods"])]:
        label, *shown = line.split()
        routes, grown, known = (made[part].get(label, {}) for part in ("identified", "growth", "unmerged"))
        expected = [f"{routes[key]:.1f}" if routes else "-" for key in ("own", "unclaimed")]
        assert shown[:2] == expected
        assert float(shown[2]) == pytest.approx(grown["stored_bytes_per_task"] / 1e6, rel=5e-3)
        more = 100 * grown["multiply_adds_per_task"]
        assert shown[3:5] == [f"{grown['multiply_adds'][-1]:.2f}", f"{more:+.1f}" if more else "0.0"]
        unclaimed = f"{known['unclaimed']:.1f}" if known["unclaimed"] is not None else "-"
        assert shown[5:] == [f"{known['acc']:.1f}", unclaimed, f"{known['h_score']:.1f}"]


def test_without_routes_or_tasks_left_out_the_second_table_is_of_growth():
    made = results(tasks=TASKS[:3], labels=("pretrained", "individual", "ties"), unmerged=())
    assert "Never merged" not in format_table(made)
    assert format_table(made).splitlines()[7].split() == ["method", "MB", "x", "+%"]


def test_csv_files_hold_routes_growth_and_what_is_known(tmp_path):
    made = results(tasks=TASKS[:3])
    write_csv(made, tmp_path / "results.csv")
    write_routes(made, tmp_path / "routes.csv")
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert tuple(written[0]) == COLUMNS
    for row in written:
        label, clean = row["method"], not row["corruption"]
        routes = made["identified"].get(label) if clean else None
        known = made["unmerged"][label] if clean and row["protocol"] == "P1" else None
        assert row["own_route"] == (repr(routes["own"]) if routes else "")
        assert row["h_score"] == (repr(known["h_score"]) if known else "")
        assert float(row["multiply_adds_ratio"]) == made["growth"][label]["multiply_adds"][-1]
        assert float(row["stored_bytes_per_task"]) == made["growth"][label]["stored_bytes_per_task"]
    with (tmp_path / "routes.csv").open(newline="", encoding="utf-8") as file:
        pairs = {(row["method"], row["task"], row["routed_to"]): row["percent"] for row in csv.DictReader(file)}
    names = TASKS[:3]
    assert pairs == {
        (label, name, to): repr(share)
        for label, table in made["routes"].items()
        for name, shares in zip(names, table, strict=True)
        for to, share in zip((*names, "plain backbone"), shares, strict=True)
    }


def test_the_page_shows_who_finds_a_task_what_tasks_cost_and_what_is_still_known():
    made = results(tasks=TASKS[:6])
    whole = body(page(made))
    found = rows(card(whole, "Where a router sends images").find(".//table"))
    assert list(found) == sorted(made["identified"], key=lambda label: -made["identified"][label]["own"])
    for label, (own, unclaimed, elsewhere) in found.items():
        assert own == f"{made['identified'][label]['own']:.1f}% to own task"
        assert unclaimed == f"{made['identified'][label]['unclaimed']:.1f}% to none"
        table, names = made["routes"][label], [*TASKS[:6], "plain backbone"]
        share, i, j = max((value, i, j) for i, row in enumerate(table) for j, value in enumerate(row) if i != j)
        assert elsewhere.startswith(f"{names[i]} to {names[j]} {share:.0f}%")
    for label, cells in rows(card(whole, "Growth with each task").find(".//table")).items():
        grown = made["growth"][label]
        stored = [grown["stored_bytes"][0], grown["stored_bytes"][-1], grown["stored_bytes_per_task"]]
        assert [float(cell) for cell in cells[:3]] == pytest.approx([size / 1e6 for size in stored], rel=5e-3)
        assert cells[3:5] == [f"{grown['multiply_adds'][place]:.2f}" for place in (0, -1)]
    known = rows(card(whole, "Tasks never merged").find(".//table"))
    assert list(known) == sorted(made["unmerged"], key=lambda label: -made["unmerged"][label]["h_score"])
    for label, (merged, acc, _, score, _) in known.items():
        assert merged == f"{made['accuracy'][label]['P1']['acc']:.1f}"
        assert (acc, score) == tuple(f"{made['unmerged'][label][key]:.1f}" for key in ("acc", "h_score"))
    assert known["pretrained"][2] == "0.0"
    assert "postmarks, road-works, which no method ever merged" in words(card(whole, "Tasks never merged"))


def test_a_page_without_routes_or_tasks_left_out_has_no_such_tables():
    whole = body(page(results(tasks=TASKS[:1], labels=("pretrained", "individual", "ties"), orders=1, unmerged=())))
    for title in ("Where a router sends images", "Tasks never merged", "Growth with each task"):
        assert card(whole, title) is None
