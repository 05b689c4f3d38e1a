"""Heads written for bundles that are on devices already, against open_clip's own text tower."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_bundle import images
from tiny_clip import tiny_model, write_task, write_task_file

from mingle_edge import merge, write_head
from mingle_edge.core.errors import CheckpointError, MingleError, OutputError, TaskFileError
from mingle_edge_export import export_bundle
from mingle_edge_runtime import EdgeModel, HeadError

PICTURES = images(0, 90, 200)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two tasks as a bundle, and their task file."""
    folder = tmp_path_factory.mktemp("served")
    task_file = write_task_file(folder, tasks=2, rank=4)
    merge(task_file, folder / "merged", device="cpu")
    export_bundle(folder / "merged", folder / "bundle")
    return task_file, folder / "bundle"


@pytest.fixture(scope="module")
def model(served):
    """The backbone in open_clip, as the task file has it."""
    whole = tiny_model()
    whole.load_state_dict(load_file(served[0].parent / "backbone.safetensors"))
    return whole.eval()


@torch.no_grad()
def text_rows(model, classes, templates):
    """Zero-shot class embeddings `[classes, dim]` as open_clip computes them."""
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    rows = [F.normalize(model.encode_text(tokenizer([t.format(c) for t in templates])), dim=-1).mean(0) for c in classes]
    return F.normalize(torch.stack(rows), dim=-1).numpy()


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def test_the_head_of_a_task_is_the_one_that_its_bundle_has(served, tmp_path) -> None:
    task_file, bundle = served
    write_head(task_file, tmp_path / "head.npz", task="task0")
    with EdgeModel.open(bundle) as edge:
        before = edge.classify(PICTURES)
        assert edge.load_head(tmp_path / "head.npz") == "task0"
        assert edge.heads == edge.tasks
        assert [p.to_dict() for p in edge.classify(PICTURES)] == [p.to_dict() for p in before]


@pytest.mark.parametrize("task", [None, "task1"])
def test_new_labels_have_the_probabilities_that_open_clip_gives_them(served, model, tmp_path, task) -> None:
    task_file, bundle = served
    classes, templates = ["a cat", "a dog", "snow", "sand"], ["a drawing of {}.", "{}, from above"]
    write_head(task_file, tmp_path / "h", task=task, name="animals", classes=classes, templates=templates)
    with EdgeModel.open(bundle) as edge:
        name = edge.load_head(tmp_path / "h")
        assert edge.heads == ("task0", "task1", "animals")
        assert edge.labels("animals") == tuple(classes)
        for expert in (None, "task0"):
            answers = edge.classify(PICTURES, task=expert, head=name, top=4)
            scale = model.logit_scale.exp().item()
            expected = softmax(scale * edge.embed(PICTURES, task=expert) @ text_rows(model, classes, templates).T)
            for answer, row in zip(answers, expected, strict=True):
                given = dict(zip(answer.labels, answer.probabilities, strict=True))
                assert [given[c] for c in classes] == pytest.approx(row.tolist(), abs=1e-5)
                assert set(answer.tasks) == {"animals"}
        assert (
            len({p for a in edge.classify(PICTURES, top=99) for p in a.tasks}) == 2
        )  # it competes where it is asked for alone


def test_labels_of_a_task_are_replaced_everywhere(served, tmp_path) -> None:
    task_file, bundle = served
    changed = task_file.with_name("CHANGED.toml")
    changed.write_text(task_file.read_text().replace('"circle 1"', '"crater"'))
    write_head(changed, tmp_path / "h", task="task1")
    with EdgeModel.open(bundle) as edge:
        pictures = sorted(task_file.parent.glob("seeds/*/*.png"))
        old = edge.classify(pictures, top=99)
        edge.load_head(tmp_path / "h")
        new = edge.classify(pictures, top=99)
        assert any(answer.route.tasks for answer in old)
        assert set(edge.labels("task1")) == {"crater", "square 1", "star 1"}
        for before, after in zip(old, new, strict=True):
            assert set(after.labels) == set(before.labels) - {"circle 1"} | {"crater"}
            kept = dict(zip(after.labels, after.probabilities, strict=True))
            for label, task, value in zip(before.labels, before.tasks, before.probabilities, strict=True):
                if task == "task0" and before.route.tasks:  # weighted by the posterior, which labels do not change
                    assert kept[label] == value


def test_calls_that_were_begun_keep_their_labels(served, tmp_path) -> None:
    task_file, bundle = served
    write_head(task_file, tmp_path / "h", task="task0", classes=["other", "labels"])
    with EdgeModel.open(bundle) as edge:
        stream, future = edge.stream(), edge.submit(iter(PICTURES), task="task0", top=9)
        edge.load_head(tmp_path / "h")
        assert {label for answer in future.result() for label in answer.labels} == {"circle 0", "square 0", "star 0"}
        assert set(edge.classify(PICTURES[:1], task="task0")[0].labels) == {"other", "labels"}
        assert {"other", "labels"} < set(stream.classify(PICTURES[0], top=99).labels)


def test_a_head_of_another_model_is_refused(served, tmp_path) -> None:
    _, bundle = served
    other = write_task_file(tmp_path / "other", tasks=1, rank=4)
    state = load_file(other.parent / "backbone.safetensors")
    state["visual.conv1.weight"] += 1e-3
    save_file(state, other.parent / "backbone.safetensors")
    write_head(other, tmp_path / "h", name="new", classes=["a", "b"])
    with EdgeModel.open(bundle) as edge:
        with pytest.raises(HeadError, match=r"h was made with the backbone \w{16}, and the bundle comes from \w{16}"):
            edge.load_head(tmp_path / "h")
        assert edge.heads == edge.tasks


def test_a_head_of_a_task_with_another_text_tower_belongs_to_its_checkpoint(served, tmp_path) -> None:
    _, bundle = served
    folder = tmp_path / "whole"
    retrained = write_task_file(folder, tasks=1, rank=4)
    state = tiny_model(7).state_dict()
    write_task(folder / "vision.safetensors", folder / "backbone.safetensors", seed=0)
    state |= {name: value for name, value in load_file(folder / "vision.safetensors").items() if name.startswith("visual.")}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "task0.safetensors")
    file = write_head(retrained, tmp_path / "h", task="task0")
    assert (file.index.origin, file.index.task) == ("text tower of the task", "task0")
    with (
        EdgeModel.open(bundle) as edge,
        pytest.raises(HeadError, match=r"belongs to the task 'task0', which was fine-tuned to"),
    ):
        edge.load_head(tmp_path / "h")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, TaskFileError, "needs a name"),
        ({"name": "new"}, TaskFileError, "needs class names"),
        ({"task": "task9"}, TaskFileError, "has no task 'task9'; it has task0, task1"),
        ({"name": "a/b", "classes": ["a"]}, TaskFileError, "the name 'a/b' must be 1 to 64 letters"),
        ({"name": "new", "classes": ["a", " a"]}, TaskFileError, "the list of classes holds 'a' twice"),
        ({"name": "new", "classes": []}, TaskFileError, "the list of classes is empty"),
        ({"name": "new", "classes": ["a"], "templates": ["photo"]}, TaskFileError, "the template 'photo' has no {}"),
        ({"name": "new", "classes": ["Cat", "cat"]}, TaskFileError, "are the same tokens"),
        ({"name": "new", "classes": ["a " * 100, "b"]}, CheckpointError, "tokens, the text tower reads"),
    ],
)
def test_what_makes_no_head_is_refused_before_anything_is_written(served, tmp_path, asked, error, message) -> None:
    with pytest.raises(error) as caught:
        write_head(served[0], tmp_path / "h", **asked)
    assert message in str(caught.value)
    assert isinstance(caught.value, MingleError)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_said_at_once(served, tmp_path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder"):
        write_head(served[0], tmp_path / "missing" / "h", task="task0")
