"""Adaptation of truncated experts: what it gains on images it never saw, and when it leaves an expert as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_clip import write_images, write_task_file

from mingle_edge import merge
from mingle_edge.core.progress import silent
from mingle_edge.data.images import load_images
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import read_task_file
from mingle_edge.experts import expert_adaptation
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_adaptation import adapt_expert
from mingle_edge.merging.merge_inputs import read_merge_inputs
from mingle_edge.merging.task_merging import complete_expert

SETTINGS = Settings(rank=3, expert_steps=40, expert_learning_rate=2e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task file of two tasks with twenty seeds each, and images of the first that no seed shows."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task_file(folder, tasks=2)
    for number in range(2):
        write_images(folder / "seeds" / f"task{number}", count=20, seed=number)
    write_images(folder / "unseen", count=40, seed=0, variant=9)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    """The backbone and the first task, in memory."""
    inputs = read_merge_inputs(read_task_file(folder / "TASKS.toml"), silent)
    pretrained = inputs.load(torch.device("cpu"))
    return pretrained, inputs.tasks[0].load(pretrained)


def truncated(loaded, settings=SETTINGS):
    pretrained, task = loaded
    return complete_expert(task, pretrained, settings)[0]


def weights(expert: CompleteExpert, pretrained):
    """The tower of an expert, multiplied out."""
    moved = {f"{layer}.weight": pretrained.backbone[f"{layer}.weight"] + B @ A for layer, (B, A) in expert.factors.items()}
    return {**pretrained.backbone, **expert.unfactored, **moved}


def embeddings(loaded, folder, parameters):
    pretrained, _ = loaded
    paths = sorted((folder / "unseen").iterdir())
    with torch.no_grad():
        return pretrained.embed(load_images(paths, pretrained.architecture), parameters)


def test_an_adapted_expert_is_closer_to_its_model_on_images_it_never_saw(loaded, folder) -> None:
    pretrained, task = loaded
    before = truncated(loaded)
    adaptation = adapt_expert(before, task, pretrained, SETTINGS)
    teacher = embeddings(loaded, folder, task.finetuned)
    distances = [1 - (embeddings(loaded, folder, weights(e, pretrained)) * teacher).sum(1) for e in (before, adaptation.expert)]
    assert distances[1].mean() < 0.8 * distances[0].mean()
    assert adaptation.adapted_loss < 0.8 * adaptation.truncated_loss
    assert len(adaptation.losses) == 40
    assert adaptation.warning is None
    assert {layer: (B.shape, A.shape) for layer, (B, A) in adaptation.expert.factors.items()} == {
        layer: (B.shape, A.shape) for layer, (B, A) in before.factors.items()
    }
    assert adaptation.expert.unfactored.keys() == before.unfactored.keys()


def test_directions_stay_orthonormal_and_the_strongest_first(loaded) -> None:
    pretrained, task = loaded
    expert = adapt_expert(truncated(loaded), task, pretrained, SETTINGS).expert
    for B, A in expert.factors.values():
        torch.testing.assert_close(B.T @ B, torch.eye(3), rtol=0, atol=1e-5)
        norms = A.norm(dim=1)
        assert (norms.diff() <= 1e-6).all()
        products = A @ A.T
        torch.testing.assert_close(products, products.diag().diag(), rtol=0, atol=1e-4 * float(norms[0]) ** 2)


def test_the_recorded_loss_is_that_of_the_definition(loaded) -> None:
    """One minus cosine, plus the Kullback-Leibler divergence as torch computes it, on the tower multiplied out."""
    pretrained, task = loaded
    expert = truncated(loaded)
    images = task.calibration_images.load(range(6), pretrained.architecture)
    student = expert_adaptation._Student(expert, task, pretrained)
    with torch.no_grad():
        teacher, embeds = (pretrained.embed(images, p) for p in (task.finetuned, weights(expert, pretrained)))
    logits = [task.head.logits(e).log_softmax(1) for e in (embeds, teacher)]
    divergence = torch.nn.functional.kl_div(*logits, reduction="batchmean", log_target=True)
    expected = float((1 - (embeds * teacher).sum(1)).mean() + divergence)
    assert student.mean_loss(student.taught(images)) == pytest.approx(expected, rel=1e-4)


def test_parts_that_fit_in_memory_add_up_to_the_batch(loaded, monkeypatch) -> None:
    pretrained, task = loaded
    settings = replace(SETTINGS, expert_steps=3)
    whole = adapt_expert(truncated(loaded), task, pretrained, settings)
    monkeypatch.setattr(expert_adaptation, "CHUNK_BYTES", 1)
    assert expert_adaptation.images_at_once(pretrained.architecture) == 1
    parts = adapt_expert(truncated(loaded), task, pretrained, settings)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert parts.adapted_loss == pytest.approx(whole.adapted_loss, rel=1e-3)


def test_an_exact_expert_and_no_steps_leave_an_expert_as_it_was(loaded) -> None:
    pretrained, task = loaded
    exact = truncated(loaded, replace(SETTINGS, rank=512))
    adaptation = adapt_expert(exact, task, pretrained, SETTINGS)
    assert adaptation.expert is exact
    assert (adaptation.losses, adaptation.step) == ([], 0)


def test_where_adaptation_does_harm_the_truncated_expert_is_kept(loaded) -> None:
    pretrained, task = loaded
    before = truncated(loaded)
    adaptation = adapt_expert(before, task, pretrained, replace(SETTINGS, expert_learning_rate=2.0, expert_steps=1))
    assert adaptation.expert is before
    assert adaptation.step == 0
    assert adaptation.adapted_loss == adaptation.truncated_loss


def test_a_loss_that_is_no_number_ends_the_adaptation_and_names_the_step(loaded, monkeypatch) -> None:
    pretrained, task = loaded
    before, batches = truncated(loaded), expert_adaptation._batches

    def with_a_hole(*arguments):
        for step, batch in enumerate(batches(*arguments), start=1):
            yield batch * torch.nan if step == 3 else batch

    monkeypatch.setattr(expert_adaptation, "_batches", with_a_hole)
    adaptation = adapt_expert(before, task, pretrained, SETTINGS)
    assert adaptation.expert is before
    assert len(adaptation.losses) == 2
    assert adaptation.warning == (
        "task 'task0': the loss of its expert's adaptation was not finite in step 3, and the truncated expert was kept; lower "
        "expert_learning_rate"
    )


def test_few_seeds_are_not_adapted_on_and_that_is_said(tmp_path) -> None:
    write_task_file(tmp_path, tasks=1, rank=3, expert_steps=4)
    plain = tmp_path / "PLAIN.toml"
    plain.write_text((tmp_path / "TASKS.toml").read_text().replace("expert_steps = 4", "expert_steps = 0"))
    warned = merge(tmp_path / "TASKS.toml", tmp_path / "a", device="cpu")
    merge(plain, tmp_path / "b", device="cpu")
    assert warned.task("task0").record["warnings"] == [
        "task 'task0' has 6 seeds, and its expert was not adapted, which takes 10; give it more"
    ]
    assert (tmp_path / "a/experts/task0.safetensors").read_bytes() == (tmp_path / "b/experts/task0.safetensors").read_bytes()


def test_an_expert_depends_on_no_other_task(folder, tmp_path) -> None:
    text = (folder / "TASKS.toml").read_text()
    parts = text.split("[[task]]")
    settings = "[settings]\nrank = 3\nexpert_steps = 4\n"
    for name, chosen in (("BOTH", parts[1:]), ("SECOND", parts[2:])):
        head = parts[0].replace("[settings]\n", settings)
        (folder / f"{name}.toml").write_text("[[task]]".join([head, *chosen]))
        merge(folder / f"{name}.toml", tmp_path / name, device="cpu")
    both, second = (tmp_path / name / "experts/task1.safetensors" for name in ("BOTH", "SECOND"))
    assert both.read_bytes() == second.read_bytes()
