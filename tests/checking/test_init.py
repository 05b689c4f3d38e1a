"""`init`: a task file that a check finds nothing wrong with, from a tree of folders as people have it."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_clip import EMBED_DIM, hugging_face_model, write_config, write_images, write_open_clip, write_task

from mingle_edge.checking.check import check
from mingle_edge.checking.starting_task_file import init
from mingle_edge.cli import main
from mingle_edge.core.errors import CheckpointError, FileError, OutputError
from mingle_edge.merging.merge import merge


def fine_tuned(seed: int) -> Any:
    """The tiny model of transformers with a difference on every parameter of its vision tower."""
    model = hugging_face_model()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.startswith(("vision_model", "visual_projection")):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def classes_below(folder: Path, classes: list[str], count: int, seed: int, variant: int) -> None:
    for number, name in enumerate(classes):
        write_images(folder / name, count, seed, variant=100 * variant + number)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Trainings of three people and the data they trained on, with what they leave beside."""
    root = tmp_path / "work"
    hugging_face_model().save_pretrained(root / "clip-base")
    for step in (9, 100):  # the Trainer of transformers, which never wrote the last step elsewhere
        model = fine_tuned(step)
        model.config.id2label, model.config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
        model.save_pretrained(root / "runs" / "pets" / f"checkpoint-{step}")
        torch.save({"state": {}}, root / "runs" / "pets" / f"checkpoint-{step}" / "optimizer.pt")
    signs = {f"model.{name}": tensor for name, tensor in fine_tuned(1).state_dict().items()}
    (root / "runs" / "signs").mkdir()
    torch.save({"state_dict": signs, "epoch": 3}, root / "runs" / "signs" / "best.ckpt")  # a loop of one's own
    save_file({"weight": torch.eye(3, EMBED_DIM), "bias": torch.zeros(3)}, root / "runs" / "signs" / "head.safetensors")
    (root / "runs" / "signs" / "classes.txt").write_text("stop\nyield\nright of way\n")
    save_file({n: t.contiguous() for n, t in fine_tuned(2).state_dict().items()}, root / "runs" / "field_crops.safetensors")
    (root / "runs" / "notes.txt").write_text("nothing")
    torch.save({"step": torch.zeros(3)}, root / "runs" / "state.pt")
    classes_below(root / "data" / "pets" / "train", ["cat", "dog"], 6, seed=1, variant=1)
    classes_below(root / "data" / "pets" / "val", ["cat", "dog"], 2, seed=1, variant=2)
    classes_below(root / "data" / "pets" / "test", ["cat", "dog"], 2, seed=1, variant=3)
    write_images(root / "data" / "seeds" / "signs", 5, seed=2)
    classes_below(root / "data" / "test" / "signs", ["stop", "yield", "right of way"], 2, seed=2, variant=1)
    classes_below(root / "Field Crops" / "training", ["barley", "maize"], 3, seed=3, variant=1)
    return root


def written(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def test_the_first_merge_is_two_commands(tree: Path) -> None:
    result = CliRunner().invoke(main, ["init", str(tree), "-o", str(tree / "TASKS.toml")])
    assert result.exit_code == 0, result.output
    assert "3 tasks: field_crops, pets, signs" in result.output
    assert "missing" not in result.output
    assert "checkpoint-9: is an earlier step of the training that wrote checkpoint-100" in result.output
    assert "state.pt" in result.output
    document = written(tree / "TASKS.toml")
    assert document["backbone"] == {"model": "clip-base"}
    crops, pets, signs = document["task"]
    assert crops == {
        "name": "field_crops",
        "weights": "runs/field_crops.safetensors",
        "seeds": "Field Crops/training/<class>/*",
        "seeds_per_class": 3,
        "classes": ["barley", "maize"],
    }
    assert pets == {
        "name": "pets",
        "weights": "runs/pets/checkpoint-100",
        "seeds": "data/pets/train/<class>/*",
        "test": "data/pets/test/<class>/*",
        "tune": "data/pets/val/<class>/*",
    }
    assert signs == {
        "name": "signs",
        "weights": "runs/signs/best.ckpt",
        "seeds": "data/seeds/signs",
        "classes": "runs/signs/classes.txt",
        "head": "runs/signs/head.safetensors",
        "test": "data/test/signs/<class>/*",
    }
    report = check(tree / "TASKS.toml")
    assert (report.faults, report.refused) == ([], False)
    assert [task.classes for task in report.tasks] == [2, 2, 3]
    assert [task.head for task in report.tasks] == ["text tower of the task", "text tower of the task", "file"]
    model = merge(tree / "TASKS.toml", tree / "merged", device="cpu")
    assert model.task_names == ["field_crops", "pets", "signs"]


def test_a_file_that_is_there_is_lost_only_when_asked(tree: Path) -> None:
    path = tree / "TASKS.toml"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists and would be lost"):
        init([tree], path)
    assert path.read_text() == "mine"
    assert init([tree], path, overwrite=True).tasks == ["field_crops", "pets", "signs"]
    assert written(path)["backbone"]


def test_what_was_not_found_is_a_comment_and_then_a_fault(tree: Path) -> None:
    shutil.rmtree(tree / "clip-base")
    shutil.rmtree(tree / "data")
    (tree / "runs" / "signs" / "classes.txt").unlink()
    found = init([tree / "runs"], tree / "TASKS.toml")
    told = [sentence.partition(" was not found")[0] for sentence in found.missing]
    assert told == [
        "[backbone]: model",
        "field_crops: seeds",
        "field_crops: classes",
        "pets: seeds",
        "signs: seeds",
        "signs: classes",
    ]
    text = (tree / "TASKS.toml").read_text()
    assert text.count("# not found") == len(told) + text.count("# test =") == 9
    report = check(tree / "TASKS.toml")
    faults = [(fault.task, fault.message) for fault in report.faults]
    assert any("model is missing" in message for _, message in faults)
    for task in ("field_crops", "pets", "signs"):
        assert any(name == task and "seeds is missing" in message for name, message in faults)


def copies(folder: Path, count: int) -> None:
    write_config(folder / "model.json")
    write_open_clip(folder / "first.safetensors", visual_only=True)
    for number in range(count):
        write_task(folder / f"task{number}.safetensors", folder / "first.safetensors", seed=number)


def test_the_one_in_the_middle_of_three_is_the_backbone(tmp_path: Path) -> None:
    copies(tmp_path, 3)
    found = init([tmp_path], tmp_path / "TASKS.toml")
    assert found.tasks == ["task0", "task1", "task2"]
    assert written(tmp_path / "TASKS.toml")["backbone"] == {"model": "model.json", "weights": "first.safetensors"}
    assert "in directions of their own" in (tmp_path / "TASKS.toml").read_text()


def test_a_folder_says_what_a_file_does_not(tmp_path: Path) -> None:
    for number, folder in enumerate(("pretrained", "birds", "cars")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "open_clip_model.safetensors"
        write_open_clip(path) if not number else write_task(path, tmp_path / "pretrained" / path.name, seed=number)
    write_config(tmp_path / "pretrained" / "model.json")
    found = init([tmp_path], tmp_path / "TASKS.toml")
    assert found.tasks == ["birds", "cars"]
    assert "by its name" in found.path.read_text()


def test_what_is_no_checkpoint_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "damaged.bin").write_text("nothing")
    with pytest.raises(CheckpointError) as caught:
        init([tmp_path], tmp_path / "TASKS.toml")
    assert str(caught.value).count(str(tmp_path / "damaged.bin")) == 1


def test_of_fine_tuned_models_alone_none_is_taken_for_the_backbone(tmp_path: Path) -> None:
    copies(tmp_path, 4)
    (tmp_path / "first.safetensors").unlink()
    found = init([tmp_path], tmp_path / "TASKS.toml")
    assert found.tasks == ["task0", "task1", "task2", "task3"]
    assert "backbone" in found.missing[0]
    given = init([tmp_path], tmp_path / "other.toml", backbone="ViT-B-32-quickgelu", backbone_weights="openai")
    assert written(given.path)["backbone"] == {"model": "ViT-B-32-quickgelu", "weights": "openai"}


def test_an_activation_is_never_guessed(tmp_path: Path) -> None:
    copies(tmp_path, 3)
    (tmp_path / "model.json").unlink()
    init([tmp_path], tmp_path / "TASKS.toml")
    text = (tmp_path / "TASKS.toml").read_text()
    assert written(tmp_path / "TASKS.toml")["backbone"] == {"weights": "first.safetensors"}
    assert "do not tell the activation" in text


def test_adapters_and_configurations_tell_where_they_came_from(tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": "openai/clip-vit-base-patch32", "peft_type": "LORA"}
    for name in ("cars", "birds"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(adapter))
        save_file({"x": torch.zeros(1)}, tmp_path / name / "adapter_model.safetensors")
    found = init([tmp_path], tmp_path / "TASKS.toml")
    assert found.tasks == ["birds", "cars"]
    assert written(found.path)["backbone"] == {"model": "hf://openai/clip-vit-base-patch32"}


@pytest.mark.filterwarnings("ignore")  # of PEFT, about its own base class
def test_an_adapter_of_a_found_backbone_is_a_task_whose_movement_has_its_rank(tmp_path: Path) -> None:
    hugging_face_model().save_pretrained(tmp_path / "clip-base")
    adapted = get_peft_model(hugging_face_model(), LoraConfig(r=4, target_modules=r".*vision_model.*(q_proj|v_proj)"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "runs" / "birds" / "checkpoint-50")
    classes_below(tmp_path / "data" / "birds", ["crow", "owl"], 5, seed=0, variant=0)
    assert init([tmp_path], tmp_path / "TASKS.toml").tasks == ["birds"]
    report = check(tmp_path / "TASKS.toml")
    assert report.faults == []
    (task,) = report.tasks
    assert task.checkpoint is not None
    assert task.weights is not None
    assert (task.checkpoint.container, task.head) == ("PEFT adapter", "text tower of the backbone")
    assert task.weights.explained_norm[4] == pytest.approx(1, abs=1e-5)
    moved = {layer.split(".")[-1] for layer, movement in task.weights.movement.items() if movement > 0}
    assert moved == {"q", "v"}


def test_names_are_those_of_what_says_more_and_differ(tmp_path: Path) -> None:
    for path in ("a b/model.safetensors", "x/signs/finetuned.safetensors", "y/signs/epoch_3/weights.safetensors"):
        (tmp_path / path).parent.mkdir(parents=True)
        write_open_clip(tmp_path / path, visual_only=True)
    found = init([tmp_path], tmp_path / "TASKS.toml", backbone="ViT-B-32", backbone_weights="openai")
    assert found.tasks == ["a-b", "signs", "signs-2"]


def test_images_without_a_split_serve_as_seeds_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_open_clip(tmp_path / "models" / "shapes.safetensors", visual_only=True)
    classes_below(tmp_path / "images" / "shapes", ["round", "square"], 7, seed=0, variant=0)
    found = init([tmp_path], tmp_path / "TASKS.toml", backbone="ViT-B-32", backbone_weights="openai")
    (task,) = written(found.path)["task"]
    assert (task["seeds"], task["classes"]) == ("images/shapes/<class>/*", ["round", "square"])
    assert not {"test", "tune", "seeds_per_class"} & task.keys()


@pytest.mark.parametrize(("path", "error"), [("nowhere", FileError), (".", CheckpointError)])
def test_nothing_found_is_an_error_and_no_file(tmp_path: Path, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        init([tmp_path / path], tmp_path / "TASKS.toml")
    assert not (tmp_path / "TASKS.toml").exists()


def test_what_is_given_twice_or_linked_is_one_task(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    copies(tmp_path / "runs", 3)
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    assert init([tmp_path, tmp_path / "runs"], tmp_path / "TASKS.toml").tasks == ["task0", "task1", "task2"]


def test_a_head_called_after_its_task_is_the_task_s(tmp_path: Path) -> None:
    copies(tmp_path, 2)
    for name in ("head_task0", "head_task1"):
        save_file({"weight": torch.eye(3, EMBED_DIM)}, tmp_path / f"{name}.safetensors")
    init(
        [tmp_path],
        tmp_path / "TASKS.toml",
        backbone=str(tmp_path / "model.json"),
        backbone_weights=str(tmp_path / "first.safetensors"),
    )
    document = written(tmp_path / "TASKS.toml")
    assert document["backbone"] == {"model": "model.json", "weights": "first.safetensors"}
    assert [task["head"] for task in document["task"]] == ["head_task0.safetensors", "head_task1.safetensors"]
    assert load_file(tmp_path / "head_task0.safetensors")["weight"].shape == (3, EMBED_DIM)
