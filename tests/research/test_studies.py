"""Every study from its command to its tables, on a suite of three tasks at toy size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from mingle_edge.core.progress import silent
from mingle_edge.data.settings import Settings
from mingle_edge.demo.tiny_clip import Training
from research.studies import (
    adaptation_choices,
    expert_adaptation,
    overlap,
    rank_allocation,
    router,
    router_robustness,
    router_shift,
    seeds,
    trade_offs,
)
from research.studies.adaptation_choices import Choice
from research.studies.expert_adaptation import BUDGETS, HELD, KEPT, choose
from research.suite import suite
from research.suite.scale import Scale
from research.suite.tasks import TASKS

SHORT = Training("short", 10, 1e-3)
SMALL = Scale(test=10, tune=10, seeds=5, train=4, captioned=63, text=SHORT, pretraining=SHORT, fine_tuning=SHORT)
MADE = ("gauges", "clocks", "counting")  # two that are alike, and one
LAYERS = {"Settings": partial(Settings, steps=2)}
STRENGTHS = ("1 (hard)", "relaxed as published (gamma 1)", "share of the new task's inputs")
SEEDS = ("1 per class", "10 to 1 per class (long tail)")
ADAPTED = {"RANKS": (4,), "STEPS": 2, "CORRUPTED": 5}
STUDIES = {  # the study, its options, what is made smaller, and how rows of its tables begin
    "overlap, image": (overlap, ["--scope", "image"], {"VARIATIONS": 2}, ["gauges (clocks)", "clocks (gauges)"]),
    "overlap, layer": (
        overlap,
        ["--scope", "layer"],
        {"VARIATIONS": 2, **LAYERS, "STRENGTHS": {name: overlap.STRENGTHS[name] for name in STRENGTHS}},
        STRENGTHS,
    ),
    "rank_allocation": (rank_allocation, [], {"RANKS": (2, 4)}, ["2", "4"]),
    "router": (
        router,
        ["--part", "tune"],
        {"VARIATIONS": 4, "FEWER_VARIATIONS": (0,), "SEEDS_PER_CLASS": (2,)},
        ["pixels", "3 blocks (the former router)", "cascade *", "cascade, no losses", "calibrated", "0.01", "2"],
    ),
    "router_robustness": (
        router_robustness,
        ["--images", "6"],
        {"VARIATIONS": 2, "CORRUPTIONS": ("pixelate",)},
        ["unchanged", "pixelate", "JPEG of quality 30", "half the side and back", "brightness 70%", "blue cast"],
    ),
    "router_shift": (
        router_shift,
        [],
        {"VARIATIONS": 2, "CORRUPTIONS": ("pixelate", "contrast")},
        ["none", "mean", "tasks' means"],
    ),
    "expert_adaptation": (expert_adaptation, [], ADAPTED, ["4", "individual", "--keep 0.3", "--expert-bytes an eighth", "100"]),
    "adaptation_choices": (
        adaptation_choices,
        [],
        {"CHOICES": {"truncated": Choice(0), "alone": Choice(2, alone=8)}, "UNSEEN": {"half": Choice(2, half=True)}},
        ["truncated", "alone", "half"],
    ),
    "seeds, image": (seeds, ["--scope", "image"], {"VARIATIONS": (0, 2)}, SEEDS),
    "seeds, layer": (
        seeds,
        ["--scope", "layer"],
        {**LAYERS, "LAYER_VARIATIONS": (0, 1), "SEEDS": {name: seeds.SEEDS[name] for name in SEEDS}},
        SEEDS,
    ),
    "seeds, rate": (seeds, ["--scope", "rate"], {**LAYERS, "RATES": (1e-3,)}, ["0.001"]),
    "trade_offs": (trade_offs, [], {"RANKS": (4,), "VARIATIONS": 2}, ["attn+mlp", "fine-tuned models", "auto"]),
}


@pytest.fixture(scope="module")
def toy_suite(tmp_path_factory) -> Path:
    """A suite of three tasks with models of one pretraining seed."""
    output = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "TASKS", [task for task in TASKS if task.name in MADE])
        suite.make_suite(output, [0], torch.device("cpu"), silent, processes=1, scale=SMALL)
    (output / "seed-0/20.toml").rename(output / "seed-0/3.toml")
    return output


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_prints_its_table(name, toy_suite, monkeypatch, capsys) -> None:
    study, options, smaller, rows = STUDIES[name]
    for constant, value in smaller.items():
        monkeypatch.setattr(study, constant, value)
    study.main(["--suite", str(toy_suite), "--tasks", "3", *options])
    table = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    for row in rows:
        figures = next(cells[1:] for cells in table if cells[0] == row)
        percent = [float(cell.split()[0].rstrip(";,")) for cell in figures if cell[:1].isdigit()]
        assert percent
        assert any(0 <= value <= 100 for value in percent)


def test_a_study_that_is_run_again_computes_no_adaptation_again(toy_suite, monkeypatch, capsys) -> None:
    for constant, value in ADAPTED.items():
        monkeypatch.setattr(expert_adaptation, constant, value)
    expert_adaptation.main(["--suite", str(toy_suite), "--tasks", "3"])
    printed = capsys.readouterr().out
    monkeypatch.setattr(expert_adaptation, "adapt_expert", None)
    monkeypatch.setattr(expert_adaptation, "size_expert", None)
    expert_adaptation.main(["--suite", str(toy_suite), "--tasks", "3"])
    assert capsys.readouterr().out == printed


def test_forms_are_chosen_as_the_export_chooses_them() -> None:
    forms = [
        {"rank": rank, "precision": precision, "bytes": size, "points_lost": lost, "agreement": 1.0, "accuracy": accuracy}
        for rank, precision, size, lost, accuracy in (
            *((4, "int4", 5, 2.0, 0.5), (4, "int8", 10, 1.9, 0.6)),
            *((8, "int4", 12, 0.3, 0.7), (8, "int8", 25, 0.1, 0.8), (8, "fp32", 90, 0.0, 0.9)),
        )
    ]
    dial = {"rank": 8, "forms": forms}
    chosen = {rule: choose(dial, rule, 100) for rule in (HELD, KEPT, *BUDGETS.values())}
    assert [(form["accuracy"], within) for form, within in chosen.values()] == [
        (0.9, True),
        (0.7, True),
        (0.8, True),
        (0.7, True),
    ]
    assert choose(dial, BUDGETS["an eighth"], 32) == (forms[0], False)  # 4 bytes hold none: the smallest
    assert choose({"rank": 4, "forms": forms[:2]}, KEPT, 100) == (forms[1], False)  # none keeps so much: that which loses least
