"""The rank of an expert: the smallest that keeps enough, never worse than truncation, recorded form by form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapted_experts import SETTINGS, truncated, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_clip import write_task_file

from mingle_edge import merge
from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.settings import Settings
from mingle_edge.experts import expert_size
from mingle_edge.experts.expert_adaptation import Adaptation
from mingle_edge.experts.expert_size import ranks_up_to, size_expert
from mingle_edge.experts.left_out_seeds import LeftOutSeeds, points_lost, upper_mean
from mingle_edge.experts.rounding import rounded_expert

AUTOMATIC = replace(SETTINGS, rank="auto", keep=0.3, expert_steps=30)


@pytest.fixture(scope="module")
def sized(loaded):
    """The first task's expert of automatic rank."""
    pretrained, task = loaded
    return size_expert(truncated(loaded, AUTOMATIC), task, pretrained, AUTOMATIC)


def left_out(loaded):
    """The seeds that every adaptation of the first task leaves out."""
    pretrained, task = loaded
    return LeftOutSeeds(task, pretrained, expert_size.task_generator(0, task.name, "expert"))


def ranks_of(sized) -> set[int]:
    return {form.rank for form in sized.forms}


def test_ranks_grow_by_half_and_end_with_the_expert_s_own() -> None:
    assert ranks_up_to(64) == [4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert ranks_up_to(20) == [4, 6, 8, 12, 16, 20]
    assert ranks_up_to(4) == [4]
    assert ranks_up_to(3) == [3]
    assert ranks_up_to(1) == [1]


def test_an_automatic_rank_is_the_smallest_that_keeps_enough(loaded, sized) -> None:
    lost = {rank: [f.points_lost for f in sized.forms if f.rank == rank and f.precision != "int4"] for rank in ranks_of(sized)}
    assert sized.expert.rank == max(lost)
    assert sized.warnings == ()
    assert max(lost.pop(sized.expert.rank)) <= AUTOMATIC.keep, "in fp32 and in int8"
    assert lost, "there are smaller ranks"
    assert min(max(of_rank) for of_rank in lost.values()) > AUTOMATIC.keep


def test_adaptation_makes_the_automatic_rank_smaller(loaded, sized) -> None:
    pretrained, task = loaded
    without = replace(AUTOMATIC, expert_steps=0)
    plain = size_expert(truncated(loaded, without), task, pretrained, without)
    assert sized.expert.rank < plain.expert.rank
    assert sized.adapted_steps > 0 == plain.adapted_steps
    for layer, (B, A) in plain.expert.factors.items():
        whole_B, whole_A = truncated(loaded, without).factors[layer]
        torch.testing.assert_close((B, A), (whole_B[:, : plain.expert.rank], whole_A[: plain.expert.rank]), rtol=0, atol=0)


def test_less_to_keep_takes_no_larger_rank(loaded, sized) -> None:
    pretrained, task = loaded
    for keep in (20.0, 100.0):
        other = replace(AUTOMATIC, keep=keep)
        assert size_expert(truncated(loaded, other), task, pretrained, other).expert.rank <= sized.expert.rank


def test_forms_are_measured_on_the_rounded_expert_multiplied_out(loaded, sized) -> None:
    pretrained, task = loaded
    held = left_out(loaded)
    assert [(form.rank, form.precision) for form in sized.forms] == [
        (rank, precision) for rank in ranks_up_to(sized.expert.rank) for precision in ("fp32", "int8", "int4")
    ]
    images = torch.cat(held.images)
    with torch.no_grad():
        teacher = task.head.logits(pretrained.embed(images, task.finetuned))
        for form in sized.forms:
            tower = weights(rounded_expert(sized.expert.first(form.rank), pretrained.backbone, form.precision), pretrained)
            same = task.head.logits(pretrained.embed(images, tower)).argmax(1) == teacher.argmax(1)
            assert form.agreement == pytest.approx(float(same.double().mean()), abs=1.01 / len(images))


def test_an_adaptation_that_does_not_help_leaves_the_truncated_expert(loaded, monkeypatch) -> None:
    pretrained, task = loaded
    before = truncated(loaded)
    monkeypatch.setattr(expert_size, "adapt_expert", lambda expert, *_: Adaptation(noisy(expert), 7, [1.0] * 7))
    sized = size_expert(before, task, pretrained, SETTINGS)
    assert sized.adapted_steps == 0
    assert sized.adapted_loss == sized.truncated_loss
    for layer, pair in sized.expert.factors.items():
        torch.testing.assert_close(pair, before.factors[layer], rtol=0, atol=0)


def noisy(expert):
    factors = {layer: (B + torch.randn_like(B), A) for layer, (B, A) in expert.factors.items()}
    return replace(expert, factors=factors)


def test_an_exact_expert_is_returned_as_it_is(loaded, monkeypatch) -> None:
    pretrained, task = loaded
    monkeypatch.setattr(expert_size, "adapt_expert", None)  # nothing is adapted
    exact = truncated(loaded, replace(SETTINGS, rank=512))
    sized = size_expert(exact, task, pretrained, replace(SETTINGS, rank=512))
    assert sized.adapted_steps == 0
    assert sized.forms[-3].points_lost == pytest.approx(0, abs=1e-4)
    for layer, pair in sized.expert.factors.items():
        torch.testing.assert_close(pair, exact.factors[layer], rtol=0, atol=0)


def test_what_no_rank_keeps_is_said(loaded) -> None:
    pretrained, task = loaded
    strict = replace(AUTOMATIC, keep=0.0, expert_steps=0)
    small = truncated(loaded, replace(strict, rank=5))  # of which no rank keeps everything
    sized = size_expert(small, task, pretrained, strict)
    lost = {rank: max(f.points_lost for f in sized.forms[:-1] if f.rank == rank) for rank in ranks_of(sized)}
    assert sized.warnings == (
        f"task 'task0': of all ranks tried an expert of rank {sized.expert.rank} loses least, {lost[sized.expert.rank]:.2f} "
        "points on seeds left out, which is more than keep = 0; adapt it (expert_steps = 150), set a larger rank, or raise "
        "keep",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 3, "expert_steps": 4}, "to adapt an expert"),
        ({"rank": "auto", "expert_steps": 4}, "to adapt an expert or to choose its rank"),
        ({"rank": "auto", "expert_steps": 0}, "to choose its rank"),
    ],
)
def test_few_seeds_neither_adapt_nor_size_and_that_is_said(tmp_path, given, said) -> None:
    write_task_file(tmp_path, tasks=1, **given)
    model = merge(tmp_path / "TASKS.toml", tmp_path / "a", device="cpu")
    record = model.task("task0").record
    assert record["warnings"] == [f"task 'task0': 6 calibration images are too few {said}, which takes 10; give more"]
    assert "forms" not in record


def test_a_merged_model_records_rank_and_forms_and_continues_where_it_stopped(folder, tmp_path) -> None:
    parts = (folder / "TASKS.toml").read_text().split("[[task]]")
    chosen = '[settings]\nrank = "auto"\nkeep = 30\nexpert_steps = 4\n'
    for name, tasks in (("BOTH", parts[1:]), ("SECOND", parts[2:])):
        head = parts[0].replace("[settings]\n", chosen)
        (folder / f"{name}.toml").write_text("[[task]]".join([head, *tasks]))
    stopped = []

    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        stopped.append((stage, detail))
        if stage == "adapt" and ("merge", "task1") in stopped and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(folder / "BOTH.toml", tmp_path / "BOTH", device="cpu", progress=stop)
    assert [task["name"] for task in json.loads((tmp_path / "BOTH/mingle.json").read_text())["tasks"]] == ["task0"]
    first = (tmp_path / "BOTH/experts/task0.safetensors").read_bytes()
    model = merge(folder / "BOTH.toml", tmp_path / "BOTH", device="cpu")
    merge(folder / "SECOND.toml", tmp_path / "SECOND", device="cpu")
    assert (tmp_path / "BOTH/experts/task0.safetensors").read_bytes() == first
    both, second = (tmp_path / name / "experts/task1.safetensors" for name in ("BOTH", "SECOND"))
    assert both.read_bytes() == second.read_bytes(), "an expert depends on no other task"
    for name in ("task0", "task1"):
        record, expert = model.task(name).record, model.expert(name)
        ranks = {form["rank"] for form in record["forms"]}
        assert record["rank"] == max(ranks) == max(len(array) for key, array in expert.items() if key.endswith(".A"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "automatic"}, "rank must be a whole number or 'auto', not 'automatic'"),
        ({"keep": -0.1}, "keep must not be negative"),
        ({"keep": 101}, "keep must be at most 100.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(TaskFileError, match=message.replace("(", r"\(")):
        Settings.from_mapping(settings)


LOGITS = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(*(st.integers(1, 6) for _ in range(2)), st.just(classes), st.integers(0, 2**31))
)


@settings(max_examples=80, deadline=None)
@given(LOGITS)
def test_points_lost_are_those_of_a_loop_over_all_pairs(sizes) -> None:
    n, m, classes, seed = sizes
    random = np.random.default_rng(seed)
    seeds, teacher, logits = (4 * random.standard_normal((count, classes)) for count in (n, m, m))
    expected = []
    for wanted, given_ in zip(teacher, logits, strict=True):
        lost = []
        for of_seed in seeds:
            probabilities = np.exp(of_seed) / np.exp(of_seed).sum()
            preferred = np.argsort(-of_seed)
            moved = of_seed[preferred] + (given_ - wanted)[np.argsort(-wanted)]
            lost.append(probabilities[preferred[0]] - probabilities[preferred[moved.argmax()]])
        expected.append(100 * np.mean(lost))
    np.testing.assert_allclose(points_lost(*map(torch.tensor, (seeds, teacher, logits))).numpy(), expected, atol=1e-9)


def test_an_expert_without_errors_loses_nothing() -> None:
    teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert not points_lost(teacher, teacher, teacher + 3.0).any()


def test_few_images_count_for_more_than_their_mean() -> None:
    values = np.array([0.0, 0.5, 1.0, 4.0])
    assert upper_mean(torch.tensor(values)) == pytest.approx(values.mean() + 2 * stats.sem(values))
    assert upper_mean(torch.tensor([2.0])) == 2.0
