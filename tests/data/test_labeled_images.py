"""Labelled images: shares that divide every class, and seeds drawn from them again and again alike."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hub_parquet import labeled_pairs, write_shard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from tiny_clip import write_task_file

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_folder import list_images
from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import draw_calibration_images, read_calibration_images
from mingle_edge.data.task_file import read_task_file
from mingle_edge.merging.merge import merge

COUNTS = {"sea": 7, "river": 12, "lake": 20}
CLASSES = list(COUNTS)
SOURCE = ImageSource("train/<class>/*.png")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("labelled")
    for name, count in COUNTS.items():
        (folder / "train" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (2, 2)).save(folder / "train" / name / f"{number:02d}.png")
    return folder


class TestDrawing:
    def test_as_many_of_every_class_and_none_twice(self, base: Path) -> None:
        seeds = draw_calibration_images(SOURCE, base, CLASSES, 5, seed=0).paths
        assert Counter(path.parent.name for path in seeds) == dict.fromkeys(CLASSES, 5)
        assert len(set(seeds)) == 15

    def test_is_repeatable_and_follows_the_seed(self, base: Path) -> None:
        draws = [draw_calibration_images(SOURCE, base, CLASSES, 5, seed).paths for seed in (0, 0, 1)]
        assert draws[0] == draws[1]
        assert set(draws[0]) != set(draws[2])

    def test_a_smaller_draw_is_part_of_a_larger_one(self, base: Path) -> None:
        none, one, three, five = (set(draw_calibration_images(SOURCE, base, CLASSES, k, seed=3).paths) for k in (0, 1, 3, 5))
        assert none == set()
        assert one < three < five

    def test_another_class_changes_nothing_about_a_class(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        for name in ("sea", "lake"):
            (tmp_path / "train" / name).symlink_to(base / "train" / name)
        few = {
            path.relative_to(tmp_path) for path in draw_calibration_images(SOURCE, tmp_path, ["lake", "sea"], 5, seed=0).paths
        }
        assert few < {path.relative_to(base) for path in draw_calibration_images(SOURCE, base, CLASSES, 5, seed=0).paths}

    def test_the_order_says_nothing_of_classes(self, base: Path) -> None:
        names = [path.parent.name for path in draw_calibration_images(SOURCE, base, CLASSES, 7, seed=0).paths]
        changes = sum(a != b for a, b in pairwise(names))
        assert changes >= 8  # 2 if they were in the order of classes, about 13 of 20 at random

    def test_every_image_is_drawn_about_equally_often(self, base: Path) -> None:
        drawn = Counter(path for seed in range(300) for path in draw_calibration_images(SOURCE, base, CLASSES, 5, seed).paths)
        for name, count in COUNTS.items():
            for path in (base / "train" / name).iterdir():
                share = 5 / count
                assert abs(drawn[path] - 300 * share) < 4 * (300 * share * (1 - share)) ** 0.5

    def test_a_class_with_too_few(self, base: Path) -> None:
        with pytest.raises(ImageFolderError, match=r"class 'sea' has 7 images, and 8 seeds of each class are asked for"):
            draw_calibration_images(SOURCE, base, CLASSES, 8, seed=0)
        with pytest.raises(ImageFolderError, match="class 'sea' has 4 images, and 5 seeds"):
            draw_calibration_images(replace(SOURCE, share=(0.0, 0.5)), base, CLASSES, 5, seed=0)  # half of 7, rounded


class TestShares:
    @given(st.lists(st.floats(0, 1), max_size=3, unique=True))
    def test_neighbours_divide_every_class(self, base: Path, borders: list[float]) -> None:
        ends = sorted({0.0, 1.0, *borders})
        everything = labeled_pairs(SOURCE, base, CLASSES)
        parts = []
        for share in pairwise(ends):
            sizes = {name: round(share[1] * n) - round(share[0] * n) for name, n in COUNTS.items()}
            if 0 in sizes.values():
                return  # refused, see below
            part = labeled_pairs(replace(SOURCE, share=share), base, CLASSES)
            assert Counter(path.parent.name for path, _ in part) == sizes
            parts += part
        assert sorted(parts) == sorted(everything)
        assert all(path.parent.name == CLASSES[label] for path, label in everything)

    def test_not_just_the_first_in_order(self, base: Path) -> None:
        half = {path for path, _ in labeled_pairs(replace(SOURCE, share=(0.0, 0.5)), base, CLASSES)}
        lake = sorted((base / "train/lake").iterdir())
        assert half & set(lake) not in (set(lake[:10]), set(lake[10:]))

    def test_none_of_a_class(self, base: Path) -> None:
        with pytest.raises(ImageFolderError, match=r"class 'sea' has no image in the share \[0.0, 0.05\]; add images"):
            labeled_pairs(replace(SOURCE, share=(0.0, 0.05)), base, CLASSES)


class TestMerging:
    def test_seeds_from_labelled_images_are_those_of_a_folder(self, tmp_path: Path) -> None:
        """The merged statistics equal those of a merge that was given the drawn images in a plain folder."""
        drawn = write_task_file(tmp_path, tasks=1, rank=4, seed=7)
        text = drawn.read_text()
        drawn.write_text(text.replace('seeds = "seeds/task0"', 'seeds = "test/task0/<class>/*.png"\nseeds_per_class = 1'))
        file = read_task_file(drawn)
        paths = read_calibration_images(file.tasks[0], tmp_path, seed=7).paths
        assert len(paths) == 3
        (tmp_path / "plain").mkdir()
        for number, path in enumerate(paths):
            (tmp_path / "plain" / f"{number}.png").write_bytes(path.read_bytes())
        plain = tmp_path / "PLAIN.toml"
        plain.write_text(text.replace('seeds = "seeds/task0"', 'seeds = "plain"'))
        assert read_calibration_images(read_task_file(plain).tasks[0], tmp_path, 7).paths == list_images(tmp_path / "plain")
        models = [merge(file, tmp_path / "merged" / file.stem) for file in (drawn, plain)]
        assert [model.tasks[0].seeds for model in models] == [3, 3]
        routers = [load_file(model.path / "router.safetensors") for model in models]
        assert routers[0].keys() == routers[1].keys()
        assert all((routers[0][name] == routers[1][name]).all() for name in routers[0])


def test_merging_from_parquet_equals_merging_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINGLE_EDGE_CACHE", str(tmp_path / "cache"))
    path = write_task_file(tmp_path / "tasks", tasks=1, rank=4)
    images = sorted((tmp_path / "tasks/seeds/task0").iterdir())
    write_shard(tmp_path / "tasks/train.parquet", [p.read_bytes() for p in images], [0, 1, 2] * 2, CLASSES)
    text = path.read_text().replace('classes = ["circle 0", "square 0", "star 0"]', 'classes = ["sea", "river", "lake"]')
    assert "river" in text
    path.write_text(text.replace('seeds = "seeds/task0"', 'seeds = "train.parquet"\nseeds_per_class = 2'))
    from_parquet = merge(path, tmp_path / "a")
    shutil.rmtree(tmp_path / "tasks/seeds/task0")
    (tmp_path / "tasks/seeds/task0").mkdir()
    drawn = draw_calibration_images(ImageSource("train.parquet"), tmp_path / "tasks", CLASSES, 2, seed=0).paths
    for number, file in enumerate(drawn):
        shutil.copy(file, tmp_path / f"tasks/seeds/task0/{number}.png")
    path.write_text(text)
    from_folder = merge(path, tmp_path / "b")
    assert from_parquet.tasks[0].seeds == 6
    assert (from_parquet.path / "router.safetensors").read_bytes() == (from_folder.path / "router.safetensors").read_bytes()
