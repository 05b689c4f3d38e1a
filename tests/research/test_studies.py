"""Every study from its command to its tables, on a suite of three tasks at toy size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from mingle_edge.core.progress import silent
from mingle_edge.data.settings import Settings
from mingle_edge.demo.tiny_clip import Training
from research.studies import expert_adaptation, overlap, rank_allocation, router, router_shift, seeds, trade_offs
from research.suite import suite
from research.suite.scale import Scale
from research.suite.tasks import TASKS

SHORT = Training("short", 10, 1e-3)
SMALL = Scale(test=10, tune=10, seeds=5, train=4, captioned=63, text=SHORT, pretraining=SHORT, fine_tuning=SHORT)
MADE = ("gauges", "clocks", "counting")  # two that are alike, and one
LAYERS = {"Settings": partial(Settings, steps=2)}
STRENGTHS = ("1 (hard)", "relaxed as published (gamma 1)", "share of the new task's inputs")
SEEDS = ("1 per class", "10 to 1 per class (long tail)")
STUDIES = {  # the study, its options, what is made smaller, and how rows of its tables begin
    "overlap, image": (overlap, ["--scope", "image"], {"VARIATIONS": 2}, ["gauges (clocks)", "clocks (gauges)"]),
    "overlap, layer": (
        overlap,
        ["--scope", "layer"],
        {"VARIATIONS": 2, **LAYERS, "STRENGTHS": {name: overlap.STRENGTHS[name] for name in STRENGTHS}},
        STRENGTHS,
    ),
    "rank_allocation": (rank_allocation, [], {"RANKS": (2, 4)}, ["2", "4"]),
    "router": (router, ["--part", "tune"], {"VARIATIONS": 4, "RANDOM_FEATURES": 16}, ["depth 0", "1, all, sureness"]),
    "router_shift": (
        router_shift,
        [],
        {"VARIATIONS": 2, "CORRUPTIONS": ("pixelate", "contrast")},
        ["none", "mean", "tasks' means"],
    ),
    "expert_adaptation": (expert_adaptation, [], {"RANKS": (4,), "STEPS": 2}, ["4", "full"]),
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
