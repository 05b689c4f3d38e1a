"""The static peers against naive re-implementations that keep every task vector and go entry by entry."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.comparison.methods import consensus, opcm, ties
from mingle_edge.comparison.methods.static import add_scaled, average, keep_largest

SHAPES = {
    "class_token": (4,),
    "positions": (3, 4),
    "patch_embedding.weight": (4, 6),
    "blocks.0.q.weight": (4, 4),
    "blocks.0.q.bias": (4,),
    "blocks.0.ln_1.weight": (4,),
    "blocks.0.fc1.weight": (7, 4),
    "blocks.0.fc2.weight": (4, 7),
    "blocks.1.q.weight": (4, 4),
    "blocks.1.q.bias": (4,),
    "blocks.1.ln_1.weight": (4,),
    "blocks.1.fc1.weight": (7, 4),
    "blocks.1.fc2.weight": (4, 7),
    "projection.weight": (3, 4),
}
LINEAR = {name for name in SHAPES if name.startswith(("blocks", "projection")) and len(SHAPES[name]) == 2}
RULES = {
    "averaging": average,
    "arithmetic": partial(add_scaled, scaling=0.3),
    "ties": partial(ties.merge, scaling=0.3, keep=0.2),
    "ties published": partial(ties.merge_as_published, scaling=0.3, keep=0.2),
    "magmax": partial(keep_largest, scaling=0.5),
    "consensus": partial(consensus.merge, scaling=0.2, threshold=0.4, required=2),
    "consensus published": partial(consensus.merge_as_published, scaling=0.1, threshold=0.2),
    "opcm": partial(opcm.merge, share=0.5),
    "opcm published": partial(opcm.merge, share=0.5, as_published=True),
}
every_rule = pytest.mark.parametrize("name", RULES)


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}


def run(rule, task_vectors):
    memory = None
    for count, task_vector in enumerate(task_vectors, start=1):
        memory = rule(memory, task_vector, count)
    return memory


def vector(memory):
    return dict(getattr(memory, "merged", memory))


def assert_equal(merged, expected, **tolerance):
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, expected[name], **tolerance)


# ---- the naive forms: one flat list of numbers per task vector, one Python loop per entry


def flat(state):
    return [float(x) for name in sorted(state) for x in state[name].flatten()]


def naive_averaging(tasks):
    return [sum(entries) / len(tasks) for entries in zip(*tasks, strict=True)]


def naive_arithmetic(tasks, scaling):
    return [sum(scaling * x for x in entries) for entries in zip(*tasks, strict=True)]


def naive_trim(values, keep):
    ordered = sorted(abs(x) for x in values)
    bound = ordered[len(values) - int(len(values) * keep) - 1]
    return [x if abs(x) >= bound else 0.0 for x in values]


def naive_ties(rows, keep):
    rows = [naive_trim(row, keep) for row in rows]
    elected = [np.sign(sum(entries)) for entries in zip(*rows, strict=True)]
    majority = np.sign(sum(elected))
    result = []
    for sign, entries in zip(elected, zip(*rows, strict=True), strict=True):
        sign = sign or majority
        result.append(sum(x for x in entries if (x > 0 if sign > 0 else x < 0)))
    return result


def naive_continual_ties(tasks, scaling, keep, published):
    merged = [scaling * x for x in tasks[0]]
    for task in tasks[1:]:
        if published:
            merged = [m + scaling * x for m, x in zip(merged, naive_ties([merged, task], keep), strict=True)]
        else:
            unscaled = naive_ties([[m / scaling for m in merged], task], keep)
            merged = [scaling * x for x in unscaled]
    return merged


def naive_magmax(tasks, scaling):
    return [scaling * max(entries, key=abs) for entries in zip(*tasks, strict=True)]


def naive_consensus(tasks, scaling, threshold, required):
    result = []
    for entries in zip(*tasks, strict=True):
        users = sum(abs(x) > threshold * abs(sum(entries[:t])) for t, x in enumerate(entries))
        result.append(scaling * sum(entries) if users >= min(required, len(tasks)) else 0.0)
    return result


def naive_consensus_published(tasks, scaling, threshold):
    merged = [scaling * x for x in tasks[0]]
    for task in tasks[1:]:
        both = [m + x for m, x in zip(merged, task, strict=True)]
        # The official mask: the task's change against what the two together leave of it.
        masks = [1 + (abs(x) > threshold * abs(b - x)) for x, b in zip(task, both, strict=True)]
        merged = [m + scaling * (b if mask >= 2 else 0.0) for m, b, mask in zip(merged, both, masks, strict=True)]
    return merged


def naive_project(D, M, share, diagonal):
    U, s, Vh = np.linalg.svd(M, full_matrices=True)
    reached, leading = 0.0, 0
    for i, value in enumerate(s):
        reached += value / s.sum()
        if reached > share:
            leading = i
            break
    P = U.T @ D @ Vh.T
    for i in range(P.shape[0]):
        for j in range(P.shape[1]):
            if (i < leading and j < leading) or (diagonal and i == j):
                P[i, j] = 0
    return U @ P @ Vh


def naive_opcm(tasks, share, published):
    """Every weight as the sum of what was projected, divided once by the norm it must have."""
    tasks = [{name: value.double().numpy() for name, value in task.items()} for task in tasks]
    merged, divisor, norms = tasks[0], 1.0, []
    for task in tasks:
        norms.append(math.sqrt(sum(x * x for value in task.values() for x in value.flat)))
        if len(norms) == 1:
            continue
        total = {}
        for name, D in task.items():
            if published and name == "class_token":
                total[name] = merged[name]
            elif name in LINEAR:
                total[name] = divisor * merged[name] + naive_project(D, merged[name], share, not published)
            else:
                total[name] = divisor * merged[name] + D
        divisor = math.sqrt(sum(x * x for value in total.values() for x in value.flat)) / (sum(norms) / len(norms))
        merged = {name: value / divisor for name, value in total.items()}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in merged.items()}


NAIVE = {
    "averaging": naive_averaging,
    "arithmetic": partial(naive_arithmetic, scaling=0.3),
    "ties": partial(naive_continual_ties, scaling=0.3, keep=0.2, published=False),
    "ties published": partial(naive_continual_ties, scaling=0.3, keep=0.2, published=True),
    "magmax": partial(naive_magmax, scaling=0.5),
    "consensus": partial(naive_consensus, scaling=0.2, threshold=0.4, required=2),
    "consensus published": partial(naive_consensus_published, scaling=0.1, threshold=0.2),
}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_a_rule_equals_its_formula_entry_by_entry(name, tasks):
    task_vectors = [draw(seed) for seed in range(tasks)]
    merged = flat(vector(run(RULES[name], task_vectors)))
    assert merged == pytest.approx(NAIVE[name]([flat(task) for task in task_vectors]), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 0.95])
def test_opcm_equals_its_formula_with_a_full_svd(published, share):
    tasks = [draw(seed) for seed in range(5)]
    merged = vector(run(partial(opcm.merge, share=share, as_published=published), tasks))
    assert_equal(merged, naive_opcm(tasks, share, published), rtol=1e-9, atol=1e-10)


def test_opcm_at_full_size_equals_a_full_svd_in_float32_too():
    generator = torch.Generator().manual_seed(0)
    M, D = torch.randn(2, 768, 3072, generator=generator)
    projected = opcm.project_out(D, M, 0.5, diagonal=True)
    U, s, Vh = torch.linalg.svd(M.double(), full_matrices=False)
    leading = int(((s.cumsum(0) / s.sum()) > 0.5).int().argmax())
    P = U.T @ D.double() @ Vh.T  # [768, 768]; what lies outside V is left alone
    removed = torch.diag(P.diagonal())
    removed[:leading, :leading] = P[:leading, :leading]
    assert 200 < leading < 384
    torch.testing.assert_close(projected.double(), D.double() - U @ removed @ Vh, rtol=0, atol=1e-6)


# ---- properties


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_alone_and_the_type_of_numbers_kept(name, dtype):
    task_vectors = [draw(seed, dtype) for seed in range(3)]
    before = [{n: t.clone() for n, t in task.items()} for task in task_vectors]
    first = run(RULES[name], task_vectors[:2])
    kept = {n: t.clone() for n, t in vector(first).items()}
    merged = vector(RULES[name](first, task_vectors[2], 3))
    assert {n: (t.dtype, tuple(t.shape)) for n, t in merged.items()} == {n: (dtype, shape) for n, shape in SHAPES.items()}
    for now, then in zip([*task_vectors, vector(first)], [*before, kept], strict=True):
        assert_equal(now, then, rtol=0, atol=0)


@every_rule
def test_the_order_of_names_changes_no_bit(name):
    task_vectors = [draw(seed, torch.float32) for seed in range(4)]
    turned = [{n: task[n] for n in sorted(task, key=lambda n: n[::-1])} for task in task_vectors]
    assert_equal(vector(run(RULES[name], turned)), vector(run(RULES[name], task_vectors)), rtol=0, atol=0)


@every_rule
def test_exchanging_two_blocks_exchanges_their_results_and_changes_no_bit(name):
    def exchanged(state):
        other = {"blocks.0": "blocks.1", "blocks.1": "blocks.0"}
        return {other.get(n[:8], n[:8]) + n[8:]: value for n, value in state.items()}

    task_vectors = [draw(seed, torch.float32) for seed in range(4)]
    merged = vector(run(RULES[name], [exchanged(task) for task in task_vectors]))
    assert_equal(exchanged(merged), vector(run(RULES[name], task_vectors)), rtol=0, atol=0)


@every_rule
def test_one_task_at_full_scale_is_its_fine_tuned_model(name):
    rule, task = RULES[name], draw(0, torch.float32)
    scale = {"scaling": 1.0} if "scaling" in getattr(rule, "keywords", ()) else {}
    assert_equal(vector(run(partial(rule, **scale), [task])), task, rtol=0, atol=0)


numbers = st.integers(-3, 3).map(float)
entries = st.integers(2, 12).flatmap(lambda d: st.tuples(*[st.lists(numbers, min_size=d, max_size=d)] * 2))


@given(entries, st.sampled_from([0.2, 0.5, 1.0]))
def test_ties_elects_the_sign_of_the_larger_mass(rows, keep):
    """By brute force: small whole numbers, so that equal magnitudes and exact cancellation occur often."""
    kept = []
    for row in rows:
        drop = max(len(row) - int(len(row) * keep), 1) - 1  # as many are smaller than the bound, or equal to it
        bound = sorted(map(abs, row))[drop]
        kept.append([x if abs(x) >= bound else 0.0 for x in row])
    masses = [(sum(x for x in pair if x > 0), -sum(x for x in pair if x < 0)) for pair in zip(*kept, strict=True)]
    tied = sum(p > n for p, n in masses) > sum(p < n for p, n in masses)
    expected = [p if p > n or (p == n and tied) else -n for p, n in masses]
    elected = ties.elect_and_sum(*({"positions": torch.tensor(row)} for row in rows), keep)["positions"]
    assert elected.tolist() == expected


def test_ties_does_not_count_tensors_that_were_not_fine_tuned():
    task_vectors = [draw(seed) for seed in range(3)]
    frozen = [task | {"projection.weight": torch.zeros(90)} for task in task_vectors]
    without = [{n: value for n, value in task.items() if n != "projection.weight"} for task in task_vectors]
    merged, expected = run(RULES["ties"], frozen), run(RULES["ties"], without)
    assert_equal(merged, expected | {"projection.weight": torch.zeros(90)}, rtol=0, atol=0)


def test_opcm_of_models_that_differ_in_nothing_is_zero():
    nothing = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert_equal(run(RULES["opcm"], [nothing, nothing]).merged, nothing, rtol=0, atol=0)
