"""What experts answer to a task's seeds, against towers whose weights are written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_clip import first_tasks
from tiny_compared import TinyComparison

from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import embed_images, normalize
from mingle_edge.data.settings import Settings
from mingle_edge.merging.expert_answers import run_wrong_experts
from mingle_edge.merging.merge import merge
from mingle_edge.merging.task_merging import complete_expert
from mingle_edge.routing.wrong_experts import WrongExperts


@pytest.fixture(scope="module")
def tiny(task_file):
    return TinyComparison(task_file)


def answers(tiny, task, tower):
    """Logits of a task's seeds under a tower."""
    images = task.calibration_images.load(range(6), tiny.architecture)
    embeds = normalize(embed_images(images, tower, tiny.architecture), tiny.architecture)
    return task.head.logits(embeds)


def by_little(tiny, task):
    """The task with a head of four classes between which the images' embeddings, all much alike, differ."""
    weight = torch.randn(4, tiny.architecture.output_dim, generator=torch.Generator().manual_seed(0))
    plain = replace(task, head=Head(weight, None, 1.0))
    return replace(task, head=Head(weight, -answers(tiny, plain, task.finetuned).mean(0), 1.0))


def written_out(tiny, expert):
    moved = {f"{layer}.weight": B @ A for layer, (B, A) in expert.factors.items()}
    tower = tiny.backbone | dict(expert.unfactored)
    return {name: value + moved[name] if name in moved else value for name, value in tower.items()}


def test_labels_that_change_are_those_of_towers_written_out(tiny):
    bench, settings = tiny.workbench(), Settings.from_mapping({"scope": "image", "rank": 8})
    experts = [complete_expert(task, bench, settings)[0] for task in tiny.tasks]
    older = [(task.name, expert) for task, expert in zip(tiny.tasks[:2], experts, strict=False)]
    task = by_little(tiny, tiny.tasks[2])
    seen = run_wrong_experts(task, experts[2], bench, older)
    teacher = answers(tiny, task, task.finetuned).argmax(1)

    def changed(tower):
        return float((answers(tiny, task, tower).argmax(1) != teacher).double().mean())

    assert seen.without_expert == changed(tiny.backbone)
    assert seen.wrong_experts == {
        task.name: changed(written_out(tiny, expert)) for (task, expert) in zip(tiny.tasks[:2], experts, strict=False)
    }
    assert len({seen.without_expert, *seen.wrong_experts.values(), 0.0}) > 1
    torch.testing.assert_close(
        torch.tensor(seen.largest_logits), answers(tiny, task, written_out(tiny, experts[2])).amax(1), rtol=1e-4, atol=1e-4
    )


def test_a_merge_records_what_experts_answered_and_growing_records_the_same(image_model, task_file, tmp_path):
    merge(first_tasks(task_file, 1), tmp_path / "grown")
    grown = merge(task_file, tmp_path / "grown", into=True)
    assert grown.task_names == image_model.task_names
    for number, (one, other) in enumerate(zip(grown.tasks, image_model.tasks, strict=True)):
        seen = WrongExperts.of_record(one.record)
        assert seen == WrongExperts.of_record(other.record)
        assert list(seen.wrong_experts) == image_model.task_names[:number]
        assert len(seen.largest_logits) == one.seeds == 6
    for one, other in zip(grown.cascade().stages, image_model.cascade().stages, strict=True):
        np.testing.assert_array_equal(one.router.weight, other.router.weight)
        assert (one.name, one.doubt, one.router.confidence_bound) == (other.name, other.doubt, other.router.confidence_bound)
    np.testing.assert_array_equal(grown.cascade().losses, image_model.cascade().losses)
