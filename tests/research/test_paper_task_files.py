"""The task files of the paper's groups: a task is the same in all of them, and fits the data sets it names."""

from __future__ import annotations

import math
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
from hub_cache import write_folder
from hub_parquet import encoded, labeled_pairs, write_shard

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.hub import parse_hub_reference
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images
from mingle_edge.data.task_file import TaskSource, read_task_file

FOLDER = Path(__file__).parents[2] / "research/paper"
CLASSES = {
    "sun397": 397,
    "stanford-cars": 196,
    "resisc45": 45,
    "eurosat": 10,
    "svhn": 10,
    "gtsrb": 43,
    "mnist": 10,
    "dtd": 47,
    "oxford_flowers102": 102,
    "pcam": 2,
    "fer2013": 7,
    "oxford-iiit-pet": 37,
    "stl10": 10,
    "cifar100": 100,
    "cifar10": 10,
    "food101": 101,
    "fashion_mnist": 10,
    "emnist_letters": 26,
    "kmnist": 10,
    "rendered-sst2": 2,
}  # in the order of TALL20, from each data set's own description
MTIL11 = ["aircraft", "caltech101", "cifar100", "dtd", "eurosat", "oxford_flowers102", "food101", "mnist", "oxford-iiit-pet"]
MTIL11 += ["stanford-cars", "sun397"]
BACKBONES = {"ViT-B-32": "clip-vit-base-patch32", "ViT-B-16": "clip-vit-base-patch16", "ViT-L-14": "clip-vit-large-patch14"}
FILES = [f"{group}-{model}.toml" for group in ("TA8", "TALL14", "TALL20") for model in BACKBONES] + ["MTIL11-ViT-B-16.toml"]


def tasks_of(name: str, tmp_path: Path) -> dict[str, TaskSource]:
    """The tasks of a file, with folders for the models that are on no hub."""
    shutil.copytree(FOLDER / "classes", tmp_path / "classes")
    shutil.copy(FOLDER / name, tmp_path)
    for task in ("aircraft", "caltech101"):
        (tmp_path / f"checkpoints/clip-vit-base-patch16_{task}").mkdir(parents=True)
    return {task.name: task for task in read_task_file(tmp_path / name).tasks}


def test_a_task_is_the_same_in_every_file() -> None:
    assert sorted(FILES) == sorted(path.name for path in FOLDER.glob("*.toml"))
    tables: dict[str, list[dict[str, object]]] = {}
    for name in FILES:
        for table in tomllib.loads((FOLDER / name).read_text())["task"]:
            tables.setdefault(table["name"], []).append({key: value for key, value in table.items() if key != "weights"})
    assert all(table == of_task[0] for of_task in tables.values() for table in of_task)
    assert len(tables["sun397"]) == len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_tasks_and_classes(name: str, tmp_path: Path) -> None:
    group, model = name.removesuffix(".toml").split("-", 1)
    tasks = tasks_of(name, tmp_path)
    count = {"TA8": 8, "TALL14": 14, "TALL20": 20}.get(group)
    assert list(tasks) == (MTIL11 if count is None else list(CLASSES)[:count])
    assert read_task_file(tmp_path / name).backbone.model == f"hf://openai/{BACKBONES[model]}"
    for task in tasks.values():
        assert len(task.classes) == (CLASSES | {"aircraft": 100, "caltech101": 101})[task.name]
        assert len({label.casefold() for label in task.classes}) == len(task.classes)
        assert all(label == " ".join(label.split()) for label in task.classes)
        published = f"hf://tanganke/{BACKBONES[model]}_{task.name}"
        assert task.weights == (published if task.name in CLASSES else f"checkpoints/{BACKBONES[model]}_{task.name}")


def test_models_that_are_on_no_hub_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        TaskFileError, match=r"'aircraft' weights names .*checkpoints/clip-vit-base-patch16_aircraft, which does"
    ):
        read_task_file(FOLDER / "MTIL11-ViT-B-16.toml")


def stand_in(task: TaskSource, root: Path) -> None:
    """The files that a task names, as the hub stores them, with as many rows as its shares need; a file has one picture."""
    assert task.tune is not None
    assert task.test is not None
    least, most = task.tune.share
    rows = {task.seeds.files: 10, task.test.files: 1}
    rows[task.tune.files] = max(rows.get(task.tune.files, 1), math.ceil(1.2 / (most - least)))
    for number, (files, per_class) in enumerate(rows.items()):
        reference = parse_hub_reference(files)
        path = reference.path.replace("**", "default").replace("-*", "-00000-of-00001").replace("/*.", "/0000.")
        labels = [label for label in range(len(task.classes)) for _ in range(per_class)]
        write_shard(
            root / reference.repo / (reference.revision or "main") / path,
            [encoded(number)] * len(labels),
            labels,
            image=task.test.image or "image",
            label=task.test.label or "label",
            rows_per_group=1000,
        )


@pytest.mark.parametrize("name", [*CLASSES, "aircraft", "caltech101"])
def test_seeds_tuning_and_test_images_are_found_and_share_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    task = tasks_of("TALL20-ViT-B-32.toml" if name in CLASSES else "MTIL11-ViT-B-16.toml", tmp_path)[name]
    stand_in(task, tmp_path / "data")
    for repository in sorted((tmp_path / "data").glob("*/*")):
        for revision in ("main", "refs/convert/parquet"):
            if (folder := repository / revision).is_dir():
                write_folder(tmp_path / "hub", f"datasets/{repository.parent.name}/{repository.name}", folder, revision)
    assert task.seeds_per_class == 5
    seeds = draw_calibration_images(task.seeds, tmp_path, task.classes, task.seeds_per_class, seed=0).paths
    assert len(set(seeds)) == 5 * len(task.classes)
    parts = [seeds]
    for source in (task.tune, task.test):
        assert isinstance(source, ImageSource)
        pairs = labeled_pairs(source, tmp_path, task.classes)
        assert len(Counter(label for _, label in pairs)) == len(task.classes)
        parts.append([path for path, _ in pairs])
    assert len({path for part in parts for path in part}) == sum(len(part) for part in parts)
