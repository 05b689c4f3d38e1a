"""Merging: what must hold of the result, and that no interruption or bad input costs anything."""

import dataclasses
import inspect
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_clip import first_tasks, write_open_clip, write_task, write_task_file

from mingle_edge.checkpoints import open_checkpoint
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.core.errors import DiskSpaceError, MergeConflictError, MergedModelError, MingleError
from mingle_edge.core.progress import WARNING
from mingle_edge.data.images import load_images
from mingle_edge.data.settings import IMAGE_SCOPE, LAYER_SCOPE, Settings
from mingle_edge.merging import merge as merging
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.merging.task_warnings import settings_warnings


@pytest.fixture
def copied(task_file, tmp_path):
    """The task file with all that it names, to be changed."""
    shutil.copytree(task_file.parent, tmp_path / "copied")
    return tmp_path / "copied" / task_file.name


def tensors(folder):
    """All bytes of a merged model but the timings in its index."""
    files = sorted(p.relative_to(folder) for p in folder.rglob("*.safetensors"))
    return {str(name): (folder / name).read_bytes() for name in files}


def seed_images(model, task_file):
    paths = sorted((task_file.parent / "seeds").rglob("*.png"))
    return load_images(paths, model.architecture)


def test_merging_in_two_calls_is_bit_identical_to_one_and_rewrites_nothing(merge_of_each_scope, tmp_path):
    model, file = merge_of_each_scope
    merge(first_tasks(file, 1), tmp_path / "m")
    before = merge(first_tasks(file, 2), tmp_path / "m", into=True)
    old = {path: load_file(path) for path in before.path.rglob("*.safetensors")}
    assert merge(file, tmp_path / "m", into=True).task_names == model.task_names
    assert tensors(tmp_path / "m") == tensors(model.path)
    for path, arrays in old.items():
        now = load_file(path)
        for key, value in arrays.items():
            assert now[key].tobytes() == value.tobytes(), (path, key)


def test_an_interrupted_merge_continues_to_the_same_result(layer_task_file, layer_model, tmp_path, monkeypatch):
    renamed = []

    def replace(source, target, original=os.replace):
        renamed.append(target)
        if len(renamed) == 9:
            signal.raise_signal(signal.SIGINT)
        original(source, target)

    # A shell that starts a job in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                merge(layer_task_file, tmp_path / "m")
    finally:
        signal.signal(signal.SIGINT, before)
    merge(layer_task_file, tmp_path / "m")
    assert tensors(tmp_path / "m") == tensors(layer_model.path)
    assert not list((tmp_path / "m").rglob(".*"))


def test_a_finished_merge_run_again_does_nothing(image_model, task_file):
    before = tensors(image_model.path)
    assert merge(task_file, image_model.path).task_names == image_model.task_names
    assert tensors(image_model.path) == before


def test_a_full_rank_complete_expert_is_its_fine_tuned_model(tmp_path):
    file = write_task_file(tmp_path / "tasks", tasks=2, rank=4096)
    model = merge(file, tmp_path / "m")
    tower, images = GatedTower(model), seed_images(model, file)
    for task in model.task_names:
        checkpoint = open_checkpoint(f"{task}.safetensors", base=file.parent, architecture=model.architecture)
        expected = torch.nn.functional.normalize(embed_images(images, dict(checkpoint.tensors()), model.architecture), dim=-1)
        torch.testing.assert_close(tower.embed(images, task), expected, rtol=1e-4, atol=2e-6)
        assert (tower.embed(images) - expected).abs().max() > 1e-2


def test_new_gates_do_not_react_to_what_earlier_tasks_protect(layer_model):
    """Hard null space: an input inside the saved subspace meets a gate value of zero, to float rounding."""
    names = layer_model.task_names
    checked = 0
    for t, name in enumerate(names[1:], start=1):
        for layer, (weight, bias) in layer_model.gates(name).items():
            protected = np.concatenate([layer_model.null_space(earlier)[layer] for earlier in names[:t]])
            gate = np.concatenate([weight, bias])
            assert np.abs(gate).max() > 1e-3
            assert np.abs(protected @ gate).max() < 1e-6
            checked += 1
    assert checked == 2 * len(layer_model.gates(names[0]))


def test_official_semantics_keep_one_direction_per_qr_column(tmp_path):
    file = write_task_file(tmp_path / "t", tasks=2, scope="layer", semantics="official", rank=4, steps=2)
    model = merge(file, tmp_path / "m")
    assert model.settings.gate_pooling == "batch"
    for layer, directions in model.null_space("task1").items():
        d_in = model.architecture.linear_shape(layer)[1]
        assert directions.shape == (3, d_in)
        both = np.concatenate([model.null_space("task0")[layer], directions])
        np.testing.assert_allclose(both @ both.T, np.eye(6), atol=1e-5)


@pytest.mark.parametrize("layers", ["attn+mlp", "qkv+fc1"])
def test_the_layer_setting_says_which_layers_carry_experts(tmp_path, layers):
    file = write_task_file(tmp_path / "t", tasks=1, rank=4, layers=layers)
    model = merge(file, tmp_path / "m")
    kinds = {name.rsplit(".", 2)[-2] for name in model.expert("task0") if name.endswith(".A")}
    expected = {"q", "k", "v", "fc1"} | ({"out", "fc2"} if layers == "attn+mlp" else set())
    assert kinds == expected | {"patch_embedding", "projection"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file.write_text(file.read_text().replace("rank = 8", "rank = 4")),
            r"other settings .*rank: 8, 4.*another output folder",
        ),
        (lambda file: write_open_clip(file.parent / "backbone.safetensors", seed=9), "another backbone"),
        (
            lambda file: write_task(file.parent / "task1.safetensors", file.parent / "backbone.safetensors", seed=77),
            "already holds a task 'task1' from another checkpoint",
        ),
        (
            lambda file: file.write_text(file.read_text().replace('"square 1"', '"box"')),
            r"already holds a task 'task1' with other classes \('square 1' there, the task file has 'box'\); .*head",
        ),
        (
            lambda file: file.write_text(file.read_text().replace('name = "task2"', 'name = "task2"\ntemplates = ["{}"]')),
            r"already holds a task 'task2' with other templates \('a photo of a {}\.' there, the task file has '{}'\)",
        ),
    ],
)
def test_what_does_not_belong_to_the_merged_is_refused(image_model, copied, change, message):
    change(copied)
    with pytest.raises(MergedModelError, match=message):
        merge(copied, image_model.path, into=True)


def test_seeds_that_came_later_are_said_to_be_left_out(image_model, copied):
    shutil.copy(copied.parent / "seeds/task0/000.png", copied.parent / "seeds/task1/another.png")
    warnings = []
    before = tensors(image_model.path)
    merge(
        copied,
        image_model.path,
        progress=lambda stage, done, total, detail="": warnings.append(detail) if stage == WARNING else None,
    )
    assert [text.split(";")[0] for text in warnings] == [
        "task 'task1' was merged with 6 seeds, which stay, and the task file has 7"
    ]
    assert tensors(image_model.path) == before


def test_an_output_folder_in_use_is_refused(task_file, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(MergeConflictError, match=r"must be new or empty, and holds precious\.txt"):
        merge(task_file, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_merge_of_other_tasks_is_not_continued_without_into(image_model, task_file):
    with pytest.raises(MergeConflictError, match="holds a merge of other tasks"):
        merge(first_tasks(task_file, 1), image_model.path)


def test_nan_in_the_last_checkpoint_is_found_before_any_work(copied, tmp_path):
    path = copied.parent / "task2.safetensors"
    state = load_file(path)
    state["visual.ln_post.weight"][3] = np.nan
    save_file(state, path)
    with pytest.raises(MingleError, match=r"task2\.safetensors.*visual\.ln_post\.weight"):
        merge(copied, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_disk_without_room_is_refused_before_any_work(task_file, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match=r"the merge needs about \d+ MB and the disk has 0 MB free"):
        merge(task_file, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_write_that_fails_midway_keeps_merged_tasks_and_leaves_no_remains(task_file, image_model, tmp_path):
    """A limit on file sizes stands in for a disk that fills up."""
    merge(first_tasks(task_file, 2), tmp_path / "m")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(MingleError, match="cannot be written"):
            merge(task_file, tmp_path / "m", into=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert MergedModel.open(tmp_path / "m").task_names == ["task0", "task1"]
    assert not list((tmp_path / "m").rglob(".*"))
    merge(task_file, tmp_path / "m", into=True)
    assert tensors(tmp_path / "m") == tensors(image_model.path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "mingle.json").unlink(), "not a merged model"),
        (lambda folder: (folder / "mingle.json").write_text("{"), "is no valid JSON"),
        (
            lambda folder: (folder / "mingle.json").write_text('{"format": "mingle-edge merged model", "format_version": 99}'),
            r"format version 99; this release reads \d",
        ),
        (lambda folder: (folder / "mingle.json").write_text("{}"), "not the index of a merged model"),
        (lambda folder: (folder / "experts" / "task1.safetensors").unlink(), "missing from the merged model"),
        (lambda folder: (folder / "experts" / "task1.safetensors").write_bytes(b"\x10" * 40), "cannot be read"),
    ],
)
def test_a_damaged_model_is_named(image_model, tmp_path, damage, message):
    shutil.copytree(image_model.path, tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(MergedModelError, match=message):
        MergedModel.open(tmp_path / "m").expert("task1")


def test_a_view_knows_only_its_tasks(image_model):
    view = image_model.select(["task1"])
    assert view.task_names == ["task1"]
    with pytest.raises(MergedModelError, match="no task 'task0'; tasks are: task1"):
        view.expert("task0")
    assert dataclasses.replace(view, tasks=image_model.tasks) == image_model
    assert Path(view.path) == image_model.path


@pytest.mark.parametrize(
    ("rank", "said"), [(48, []), (49, ["rank 49 is more than the tower's width, 48, and brings nothing more"])]
)
def test_a_rank_above_the_width_is_said_to_bring_nothing(tmp_path, rank, said):
    warnings = []

    def progress(stage, done, total, detail=""):
        if stage == WARNING:
            warnings.append(detail)

    tasks = write_task_file(tmp_path / "tasks", tasks=1, rank=rank, expert_steps=0)
    model = merge(tasks, tmp_path / "merged", progress=progress)
    assert [warning.split(";")[0] for warning in warnings] == said
    assert max(len(factor) for name, factor in model.expert("task0").items() if name.endswith(".A")) == 48


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"router_augmentations": 2}, None),
        ({"steps": 3}, "steps does nothing in the image scope; leave it out, or choose the other scope"),
        (
            {"scope": "layer", "router_blocks": 1, "router_augmentations": 2, "relaxation": 1.0},
            "router_blocks, router_augmentations do nothing in the layer scope; leave them out, or choose the other scope",
        ),
        ({"semantics": "official", "scope": "image"}, None),
    ],
)
def test_a_setting_of_the_other_scope_is_said_to_do_nothing(settings, said):
    assert settings_warnings(Settings.from_mapping(settings), width=768) == ([said] if said else [])


def test_every_setting_of_one_scope_says_so():
    lines = re.findall(r"^(\w+): (image|layer) scope\.", inspect.getdoc(Settings).replace("    ", ""), re.MULTILINE)
    assert [name for name, scope in lines if scope == "image"] == list(IMAGE_SCOPE)
    assert [name for name, scope in lines if scope == "layer"] == list(LAYER_SCOPE)
