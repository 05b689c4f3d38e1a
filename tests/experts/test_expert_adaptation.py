"""Adaptation of truncated experts: what it gains on images it never saw, and when it leaves an expert as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapted_experts import SETTINGS, embeddings, truncated, weights

from mingle_edge.data.calibration_images import task_generator
from mingle_edge.experts import expert_adaptation
from mingle_edge.experts.expert_adaptation import adapt_expert
from mingle_edge.experts.left_out_seeds import LeftOutSeeds


def adapted(loaded, ranks=(3,), settings=SETTINGS, progress=None):
    pretrained, task = loaded
    generator = task_generator(0, task.name, "expert")
    left_out = LeftOutSeeds(task, pretrained, generator)
    told = {} if progress is None else {"progress": progress}
    expert = truncated(loaded, replace(settings, rank=max(ranks)))
    return adapt_expert(expert, ranks, task, pretrained, left_out, settings, generator, **told), expert, left_out


def test_an_adapted_expert_is_closer_to_its_model_on_images_it_never_saw(loaded, folder) -> None:
    pretrained, task = loaded
    adaptation, before, left_out = adapted(loaded)
    teacher = embeddings(loaded, folder, task.finetuned)
    distances = [1 - (embeddings(loaded, folder, weights(e, pretrained)) * teacher).sum(1) for e in (before, adaptation.expert)]
    assert distances[1].mean() < 0.8 * distances[0].mean()
    assert left_out.mean_loss(adaptation.expert, (3,)) < 0.8 * left_out.mean_loss(before, (3,))
    assert len(adaptation.losses) == 40
    assert adaptation.warning is None
    assert {layer: (B.shape, A.shape) for layer, (B, A) in adaptation.expert.factors.items()} == {
        layer: (B.shape, A.shape) for layer, (B, A) in before.factors.items()
    }
    assert adaptation.expert.unfactored.keys() == before.unfactored.keys()


def test_the_first_directions_are_a_better_expert_of_every_rank(loaded, folder) -> None:
    """Of ranks that steps were taken at, and of one between two of them."""
    pretrained, task = loaded
    adaptation, before, _ = adapted(loaded, (2, 6))
    teacher = embeddings(loaded, folder, task.finetuned)
    for rank in (2, 4, 6):
        far, near = (
            1 - (embeddings(loaded, folder, weights(e.first(rank), pretrained)) * teacher).sum(1).mean()
            for e in (before, adaptation.expert)
        )
        assert near < 0.9 * far, rank


def test_a_step_s_loss_is_that_of_the_definition(loaded) -> None:
    """Cosine, divergence as torch computes it, and tokens, on the tower of the rounded expert multiplied out."""
    pretrained, task = loaded
    expert, generator = truncated(loaded), task_generator(0, task.name, "expert")
    left_out = LeftOutSeeds(task, pretrained, generator)
    student = expert_adaptation._Student(expert, task, pretrained, left_out)
    images = task.calibration_images.load(range(6), pretrained.architecture)
    rounded = weights(expert_adaptation.rounded_expert(expert.first(2), pretrained.backbone, "int4"), pretrained)
    with torch.no_grad():
        teacher, embeds = (pretrained.embed(images, p) for p in (task.finetuned, rounded))
        logits = [task.head.logits(e).log_softmax(1) for e in (embeds, teacher)]
        divergence = torch.nn.functional.kl_div(*logits, reduction="none", log_target=True).sum(1)
        tokens = [list(tokens_of(pretrained, images, p)) for p in (rounded, task.finetuned)]
        seen = list(tokens_of(pretrained, left_out.images[0], task.finetuned))
        shares = [
            ((a - b) ** 2).flatten(1).mean(1) / c.flatten(0, 1).var(0, correction=0).mean()
            for a, b, c in zip(*tokens, seen, strict=True)
        ]
        expected = 1 - (embeds * teacher).sum(1) + divergence + expert_adaptation.TOKENS * sum(shares) / len(shares)
        torch.testing.assert_close(student.loss(images, 2, "int4"), expected, rtol=1e-3, atol=1e-5)


def tokens_of(pretrained, images, parameters):
    from mingle_edge.clip import vision_tower

    linear = vision_tower.plain_linear(parameters)
    patches = vision_tower.embed_patches(images, parameters, pretrained.architecture, linear)
    return vision_tower.blocks(patches, parameters, pretrained.architecture, linear)


def test_parts_that_fit_in_memory_add_up_to_the_batch(loaded, monkeypatch) -> None:
    settings = replace(SETTINGS, expert_steps=3)
    whole, *_ = adapted(loaded, settings=settings)
    monkeypatch.setattr(expert_adaptation, "CHUNK_BYTES", 1)
    assert expert_adaptation.images_at_once(loaded[0].architecture) == 1
    parts, *_ = adapted(loaded, settings=settings)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)


def test_where_adaptation_does_harm_the_expert_is_returned_as_it_was(loaded) -> None:
    adaptation, before, _ = adapted(loaded, settings=replace(SETTINGS, expert_learning_rate=2.0, expert_steps=1))
    assert adaptation.expert is before
    assert adaptation.step == 0


def test_a_loss_that_is_no_number_ends_the_adaptation_and_names_the_step(loaded, monkeypatch) -> None:
    batches = expert_adaptation._batches

    def with_a_hole(*arguments):
        for step, batch in enumerate(batches(*arguments), start=1):
            yield batch * torch.nan if step == 3 else batch

    monkeypatch.setattr(expert_adaptation, "_batches", with_a_hole)
    adaptation, before, _ = adapted(loaded)
    assert adaptation.expert is before
    assert len(adaptation.losses) == 2
    assert adaptation.warning == (
        "task 'task0': the loss of its expert's adaptation was not finite in step 3, and the truncated expert was kept; lower "
        "expert_learning_rate"
    )


def test_progress_is_told_of_every_step_with_its_loss(loaded) -> None:
    told = []
    adaptation, *_ = adapted(loaded, settings=replace(SETTINGS, expert_steps=3), progress=lambda *state: told.append(state))
    assert told == [("adapt", step, 3, f"loss {loss:.4f}") for step, loss in enumerate(adaptation.losses, start=1)]
