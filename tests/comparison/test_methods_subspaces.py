"""TSV-Merge and isotropic merging against their papers' formulas in numpy, on random vectors and on tiny towers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_compared import TinyComparison

from mingle_edge.comparison.methods import isotropic, tsv_merge
from mingle_edge.comparison.methods.singular_components import Components, nearest_orthonormal

SHAPES = {
    "class_token": (6,),
    "positions": (5, 6),
    "patch_embedding.weight": (6, 12),
    "blocks.0.q.weight": (6, 6),
    "blocks.0.q.bias": (6,),
    "blocks.0.fc1.weight": (13, 6),
    "blocks.0.fc2.weight": (6, 13),
    "projection.weight": (4, 6),
}
MATRICES = ["positions", "blocks.0.q.weight", "blocks.0.fc1.weight", "blocks.0.fc2.weight", "projection.weight"]
METHODS = {"tsv-m": {}, "iso-c": {}, "iso-cts": {"share": 0.5}}
every_method = pytest.mark.parametrize("name", METHODS)


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def run(name, task_vectors, **changes):
    rule = {"tsv-m": tsv_merge.merge, "iso-c": isotropic.merge, "iso-cts": isotropic.merge_with_subspaces}[name]
    memory = None
    for count, vector in enumerate(task_vectors, start=1):
        memory = rule(memory, vector, count, **{"scaling": 1.0, **METHODS[name], **changes})
    return {key: value.numpy() for key, value in memory.merged.items()}


# ---- second implementations, in numpy


def whitened(columns):
    """`X (X' X)^(-1/2)`: what the authors show to be the nearest matrix with orthonormal columns."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return columns @ (vectors / np.sqrt(values)) @ vectors.T


def naive_tsv(matrices):
    count = min(matrices[0].shape) // len(matrices)
    parts = [np.linalg.svd(matrix, full_matrices=False) for matrix in matrices]
    U = whitened(np.concatenate([U[:, :count] for U, _, _ in parts], axis=1))
    V = whitened(np.concatenate([Vh[:count].T for _, _, Vh in parts], axis=1))
    return U @ np.diag(np.concatenate([s[:count] for _, s, _ in parts])) @ V.T


def naive_iso_c(matrices):
    total = sum(matrices)
    small = total if total.shape[0] >= total.shape[1] else total.T  # of full column rank
    flat = whitened(small)
    flat = flat if small is total else flat.T
    return np.linalg.norm(total, "nuc") / min(total.shape) * flat


def naive_iso_cts(matrices, share):
    size, tasks = min(matrices[0].shape), len(matrices)
    specific = round((size - int(share * size)) / tasks) * tasks
    common = size - specific
    U, s, Vh = np.linalg.svd(sum(matrices), full_matrices=False)
    left, values, right = list(U.T[:common]), list(s[:common]), list(Vh[:common])
    for matrix in matrices:
        outside = matrix.copy()
        for u in U.T[:common]:
            outside -= np.outer(u, u @ outside)
        own_U, own_s, own_Vh = np.linalg.svd(outside, full_matrices=False)
        left += list(own_U.T[: specific // tasks])
        values += list(own_s[: specific // tasks])
        right += list(own_Vh[: specific // tasks])
    return np.mean(values) * whitened(np.array(left).T) @ whitened(np.array(right).T).T


NAIVE = {"tsv-m": naive_tsv, "iso-c": naive_iso_c, "iso-cts": lambda matrices: naive_iso_cts(matrices, 0.5)}


@pytest.mark.parametrize("tasks", [1, 2, 3])
@every_method
def test_merged_vectors_are_those_of_the_paper_in_numpy(name, tasks):
    vectors = [draw(seed) for seed in range(tasks)]
    merged = run(name, vectors, scaling=1.5)
    assert merged.keys() == SHAPES.keys()
    for key, value in merged.items():
        own = [vector[key].numpy() for vector in vectors]
        expected = NAIVE[name](own) if key in MATRICES else np.mean(own, axis=0)
        np.testing.assert_allclose(value, 1.5 * expected, rtol=0, atol=1e-9, err_msg=key)


@every_method
def test_every_order_of_tasks_gives_the_same(name):
    vectors = [draw(seed) for seed in range(3)]
    first, other = run(name, vectors), run(name, [vectors[2], vectors[0], vectors[1]])
    for key in SHAPES:
        np.testing.assert_allclose(other[key], first[key], rtol=0, atol=1e-9, err_msg=key)


def test_components_that_do_not_overlap_are_summed_as_they_are():
    """Two tasks of three directions each, orthogonal to each other on both sides."""
    basis = [np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0] for seed in (0, 1)]
    own = [
        sum(s * np.outer(basis[0][:, i], basis[1][:, i]) for i, s in part.items())
        for part in ({0: 3, 1: 2, 2: 1}, {3: 5, 4: 4, 5: 1})
    ]
    merged = run("tsv-m", [{"blocks.0.q.weight": torch.from_numpy(matrix)} for matrix in own])
    np.testing.assert_allclose(merged["blocks.0.q.weight"], sum(own), rtol=0, atol=1e-12)


def test_a_task_that_left_a_layer_as_it_was_takes_nothing_from_the_others():
    vectors = [draw(seed) for seed in range(2)]
    vectors[1]["blocks.0.q.weight"] = torch.zeros(6, 6, dtype=torch.float64)
    U, s, Vh = np.linalg.svd(vectors[0]["blocks.0.q.weight"].numpy())
    np.testing.assert_allclose(run("tsv-m", vectors)["blocks.0.q.weight"], U[:, :3] * s[:3] @ Vh[:3], rtol=0, atol=1e-12)


def test_more_tasks_than_directions_leave_a_matrix_as_it_was():
    merged = run("tsv-m", [{"projection.weight": draw(seed)["projection.weight"]} for seed in range(5)])
    assert not merged["projection.weight"].any()


@pytest.mark.parametrize("name", ["iso-c", "iso-cts"])
def test_all_directions_of_an_isotropic_merge_are_equally_strong(name):
    merged = run(name, [draw(seed) for seed in range(3)])
    for key in MATRICES:
        singular = np.linalg.svd(merged[key], compute_uv=False)
        assert singular[0] == pytest.approx(singular[-1])


def test_common_directions_alone_are_iso_c():
    vectors = [draw(seed) for seed in range(3)]
    alone, isotropic_sum = run("iso-cts", vectors, share=1.0), run("iso-c", vectors)
    for key in SHAPES:
        np.testing.assert_allclose(alone[key], isotropic_sum[key], rtol=0, atol=1e-12)


def test_decomposed_matrices_keep_the_directions_they_have():
    generator = torch.Generator().manual_seed(0)
    B, A = torch.randn(9, 4, generator=generator), torch.randn(4, 7, generator=generator)
    components = Components.of(B @ A)
    assert components.singular.shape == (4,)
    assert components.smaller_side == 7
    torch.testing.assert_close(components.U * components.singular @ components.Vh, B @ A)
    torch.testing.assert_close(components.U.T @ components.U, torch.eye(4))
    torch.testing.assert_close(components.Vh @ components.Vh.T, torch.eye(4))


def test_no_matrix_with_orthonormal_columns_is_nearer():
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.normal(size=(7, 3)))
    nearest = nearest_orthonormal(matrix)
    torch.testing.assert_close(nearest.T @ nearest, torch.eye(3, dtype=torch.float64))
    for _ in range(50):
        other = torch.from_numpy(np.linalg.qr(nearest.numpy() + 0.1 * rng.normal(size=(7, 3)))[0])
        other *= torch.sign((other * nearest).sum(0))
        assert (nearest - matrix).norm() <= (other - matrix).norm()


# ---- towers


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file)


def test_one_task_is_its_fine_tuned_model(tiny):
    method = tiny.merged("tsv-m", order=(1,))
    for name, value in tiny.tasks[1].finetuned.items():
        torch.testing.assert_close(method.tower[name], value, rtol=0, atol=2e-7)


@every_method
def test_towers_are_merged_and_take_the_bytes_of_one(tiny, name):
    method = tiny.merged(name)
    for key, plain in tiny.backbone.items():
        own = [(task.finetuned[key] - plain).double().numpy() for task in tiny.tasks]
        matrix = plain.ndim == 2 and key != "patch_embedding.weight"
        published = {"iso-cts": lambda matrices: naive_iso_cts(matrices, 0.8)}
        expected = published.get(name, NAIVE[name])(own) if matrix else np.mean(own, axis=0)
        np.testing.assert_allclose(method.tower[key] - plain, expected, rtol=0, atol=2e-6, err_msg=key)
    assert method.stored_bytes() == method.active_bytes() == 4 * sum(value.numel() for value in tiny.backbone.values())
    assert method.bytes_per_task() == 0
