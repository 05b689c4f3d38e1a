"""The suite of real images: what is held out, its images and models from tiny stand-ins for the packages, and its errors."""

from __future__ import annotations

import gzip
import json
import subprocess
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_sources import DIGITS_EACH, idx, write_sources

from mingle_edge.core.progress import silent
from mingle_edge.data.image_folder import labeled_images
from mingle_edge.data.task_file import read_task_file
from mingle_edge.demo.tiny_clip import Training
from research.suite.__main__ import main
from research.suite.real import fetch, fonts, photos, scans, vectors, vendors
from research.suite.real.packages import MissingSourceError
from research.suite.real.real import Real
from research.suite.real.tasks import GROUPS, SIMILAR, TASKS, packages
from research.suite.scale import Scale
from research.suite.suite import make_suite

SHORT = Training("short", 10, 1e-3)
SMALL = Scale(test=10, tune=10, seeds=5, train=4, captioned=33, text=SHORT, pretraining=SHORT, fine_tuning=SHORT)
PARTS = ("test", "tune", "seeds", "train")
BY_NAME = {task.name: task for task in TASKS}
MADE = [BY_NAME["garments"], BY_NAME["stamps"]]
OF_VENDORS = {
    "smileys": vendors.EMOJI,
    "animals": vendors.EMOJI,
    "flags": vendors.FLAG_SETS,
    "icons": vendors.ICON_SETS,
    "stamps": vendors.STAMP_SETS,
}
ALIKE = {"noto-v1": "noto", "fluent-emoji-flat": "fluent-emoji", "emojione-v1": "emojione"}
"""Sets that a vendor of another set drew, by the other set."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


def test_the_tasks_are_ten_of_many_classes() -> None:
    assert len(BY_NAME) == len(TASKS) == GROUPS[-1] == 10
    assert all(10 <= len(set(task.classes)) == len(task.classes) for task in TASKS)
    assert {name for pair in SIMILAR for name in pair} <= set(BY_NAME)
    assert all(Scale().per_class(len(task.classes))["test"] * len(task.classes) >= 300 for task in TASKS)


@pytest.mark.parametrize("name", OF_VENDORS)
def test_no_vendor_is_in_two_parts(name) -> None:
    sets = OF_VENDORS[name]
    drew = {part: {ALIKE.get(p.name.split("/")[1], p.name.split("/")[1]) for p in sets[part]} for part in sets}
    assert set(drew) == {"train", "tune", "test"}
    assert all(drew.values())
    assert not any(drew[one] & drew[other] for one, other in combinations(drew, 2))


@pytest.mark.parametrize("name", OF_VENDORS)
def test_vendors_draw_the_parts_they_are_given(name, sources, monkeypatch) -> None:
    task, sets, read = BY_NAME[name], OF_VENDORS[name], {}
    original = vectors._read
    for part in PARTS:
        opened = read.setdefault(part, set())
        monkeypatch.setattr(vectors, "_read", lambda path, opened=opened: opened.add(path) or original(path))
        task.load(sources, part)
        assert opened == {package.path(sources) / "icons.json" for package in sets["train" if part == "seeds" else part]}
    assert read["seeds"] == read["train"]


@pytest.mark.parametrize("name", ["lettering", "numerals"])
def test_a_font_package_is_read_for_one_part(name, sources, monkeypatch) -> None:
    read = {}
    original = fonts.mask
    for part in PARTS:
        opened = read.setdefault(part, set())
        monkeypatch.setattr(fonts, "mask", lambda path, text, opened=opened: opened.add(path) or original(path, text))
        masks = BY_NAME[name].load(sources, part)
        assert [len(of_class) for of_class in masks] == [len(fonts.PARTS[part])] * 10
    everything = [path for opened in read.values() for path in opened]
    assert len(everything) == len(set(everything)) == sum(map(len, fonts.PARTS.values()))


def test_fonts_are_upright_and_of_one_name(tmp_path) -> None:
    folder = fonts.TRAINING[0].path(tmp_path) / "usr/share/fonts/opentype"
    folder.mkdir(parents=True)
    for name in ("A-Bold.otf", "A-BoldItalic.otf", "A-Light.otf", "A_I.otf", "A[wght].ttf", "A-Initials.ttf", "A.ttf", "B.ttf"):
        (folder / name).touch()
    assert [path.name for path in fonts.font_files(tmp_path, fonts.TRAINING[0])] == ["A-Bold.otf", "A.ttf", "B.ttf"]


def test_no_pixel_of_a_photograph_is_in_two_parts(sources) -> None:
    cells = {part: photos.cells(sources, part) for part in PARTS}
    for number, name in enumerate(photos.PHOTOS):
        if name in ("pagoda", "flower"):  # real ones, whose colors repeat
            continue
        pixels = {part: {tuple(p) for cell in cells[part][number] for p in cell.reshape(-1, 3).tolist()} for part in PARTS}
        assert not any(pixels[one] & pixels[other] for one, other in combinations(PARTS, 2))
        assert len(set.union(*pixels.values())) == 30 * 48  # whole cells of 6 pixels
        right, left = ({column for _, column, _ in pixels[part]} for part in ("test", "train"))
        assert min(right) > max(left)
        assert len(right) == 48 // 4


@pytest.mark.parametrize("name", ["garments", "handwriting"])
def test_no_scan_is_in_two_parts(name, sources) -> None:
    parts = [{scan.tobytes() for of_class in BY_NAME[name].load(sources, part) for scan in of_class} for part in PARTS]
    assert not any(one & other for one, other in combinations(parts, 2))
    assert len(parts[0]) == (120 if name == "garments" else 1797)  # its own test set; scikit-learn's digits
    assert sum(map(len, parts[1:])) == 10 * DIGITS_EACH


def test_idx_files_are_read_as_specified(tmp_path) -> None:
    array = np.arange(2 * 3 * 300).reshape(2, 3, 300) % 251
    (tmp_path / "some.gz").write_bytes(gzip.compress(idx(array)))
    assert (scans.read_idx(tmp_path / "some.gz") == array).all()


def test_a_digit_is_cut_to_a_square_about_its_ink(tmp_path, sources) -> None:
    scan = np.zeros((28, 28), np.uint8)
    scan[2:22, 11:15] = 200
    square = scans._squared(scan)
    assert square.shape == (20, 20)
    assert (square[:, 8:12] == 200).all()
    assert square.sum() == scan.sum()


def test_an_icon_is_drawn_as_its_set_says(tmp_path) -> None:
    body = '<path fill="#ff0000" d="M-5 10h20v10h-20z"/>'
    document = {
        "icons": {"bar": {"body": body, "left": -10, "width": 40}, "dot": {"body": '<circle cx="8" cy="8" r="4"/>'}},
        "aliases": {"other": {"parent": "bar"}, "turned": {"parent": "bar", "rotate": 1}},
        "height": 20,
    }
    package = vectors.icon_set("fake", "1", "none")
    package.path(tmp_path).mkdir(parents=True)
    (package.path(tmp_path) / "icons.json").write_text(json.dumps(document))
    found = vectors.icons(tmp_path, package, ["bar", "other", "turned", "absent", "dot"])
    assert len(found) == 2  # the same drawing once
    bar, dot = vectors.sprite(found[0]), vectors.stencil(found[1])
    assert bar.shape == (24, 48, 4)  # 40 x 20 units are 96 x 48 pixels
    assert (bar == [255, 0, 0, 255]).all()
    assert dot.shape[0] == pytest.approx(dot.shape[1], abs=1)
    assert dot.mean() / 255 == pytest.approx(np.pi / 4, abs=0.03)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_images_are_balanced_and_reproducible(task, sources) -> None:
    real = Real(sources)
    of_suite = next(each for each in real.tasks if each.name == task.name)
    for part in PARTS:
        split = real.split(of_suite, part, 5, SMALL)
        each = SMALL.per_class(len(task.classes))[part]
        assert split.images.shape == (each * len(task.classes), 32, 32, 3)
        assert np.bincount(split.labels).tolist() == [each] * len(task.classes)
    again, other = (real.split(of_suite, "train", seed, SMALL) for seed in (5, 6))
    assert (again.images == split.images).all()
    assert (again.labels == split.labels).all()
    assert (other.images != split.images).any()


def test_every_original_is_drawn_before_one_is_drawn_again(sources, monkeypatch) -> None:
    real, drawn = Real(sources), []
    garments = replace(BY_NAME["garments"], draw=lambda rng, scan: drawn.append(scan.tobytes()) or np.zeros((32, 32, 3)))
    monkeypatch.setattr("research.suite.real.real.TASKS", [garments])
    real.split(real.tasks[0], "test", 1, Scale(test=240))
    assert len(set(drawn)) == 120
    assert {drawn.count(scan) for scan in set(drawn)} == {2}


def test_captions_are_of_training_originals_in_other_styles(sources, monkeypatch) -> None:
    asked = set()
    for task in TASKS:
        load = task.load
        spied = replace(task, load=lambda folder, part, load=load: asked.add(part) or load(folder, part))
        monkeypatch.setattr("research.suite.real.real.TASKS", [spied if t is task else t for t in TASKS])
    images, subjects = Real(sources).captioned(3, SMALL)
    assert images.shape == (33, 32, 32, 3)
    assert set(subjects[::11]) <= set(BY_NAME["garments"].classes)
    assert asked == {"train"}


def test_ink_is_dark_in_the_task_and_light_in_captions(sources, monkeypatch) -> None:
    monkeypatch.setattr("research.suite.real.real.TASKS", [BY_NAME["lettering"]])
    monkeypatch.setattr("research.suite.real.real.choose_style", lambda rng: lambda rng, image: image)
    real = Real(sources)
    of_task, captioned = real.split(real.tasks[0], "train", 1, SMALL).images, real.captioned(1, SMALL)[0][::2]  # else shapes
    for images, dark_paper in ((of_task, False), (captioned, True)):
        tones = images.mean(3).reshape(len(images), -1)  # a letter covers less than half of its image
        middle = (tones.max(1) + tones.min(1)) / 2
        assert ((np.median(tones, axis=1) < middle) == dark_paper).mean() > 0.9


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory) -> Path:
    """A small suite of two of the tasks and one pretraining seed."""
    output = tmp_path_factory.mktemp("real-suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("research.suite.real.real.TASKS", MADE)
        make_suite(output, [7], torch.device("cpu"), silent, processes=1, collection=Real(sources), data_seed=2, scale=SMALL)
    return output


def test_task_files_name_what_is_there(made) -> None:
    assert sorted(path.name for path in (made / "seed-7").glob("*.toml")) == ["10.toml", "5.toml"]
    read = read_task_file(made / "seed-7/10.toml")
    assert [task.name for task in read.tasks] == [task.name for task in MADE]
    for task in read.tasks:
        per_class = SMALL.per_class(len(task.classes))
        for part, given in (("test", task.test), ("tune", task.tune), ("seeds", task.seeds)):
            assert len(labeled_images(given.files, made / "seed-7", task.classes)) == per_class[part] * len(task.classes)
        assert (made / "seed-7" / f"{task.name}.safetensors").is_file()


def test_another_source_makes_only_what_depends_on_it(made, sources) -> None:
    real = Real(sources)
    before = {task.name: real.images_recipe(task, 2, SMALL) for task in real.tasks}
    assert all((made / f"images/{task.name}.recipe").read_text() == before[task.name] for task in MADE)
    path = vectors.icon_set("mdi", "1.2.3", "Apache-2.0").path(sources) / "icons.json"
    text = path.read_text()
    path.write_text(text + " ")
    after = {task.name: real.images_recipe(task, 2, SMALL) for task in real.tasks}
    path.write_text(text)
    assert {name for name in before if before[name] != after[name]} == {"icons", "stamps"}


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (scans.FASHION, "garments"),
        (photos.SKIMAGE, "photos"),
        (fonts.TEST[0], "numerals"),
        (vendors.EMOJI["test"][0], "smileys"),
    ],
)
def test_a_missing_source_is_told_before_anything_is_made(package, name, sources, tmp_path, capsys) -> None:
    aside, there = tmp_path / "aside", package.path(sources)
    there.rename(aside)
    needs = next(task for task in Real(sources).tasks if task.name == name)
    try:
        with pytest.raises(MissingSourceError, match=f"package {package.name} {package.version}"):
            Real(sources).images_recipe(needs, 1, SMALL)
        with pytest.raises(SystemExit) as stop:
            main(["-o", str(tmp_path / "out"), "--images", "real", "--sources", str(sources)])
    finally:
        aside.rename(there)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert f"python -m research.suite.real.fetch {sources}" in message
    assert not (tmp_path / "out").exists()


def test_fetching_asks_for_every_package_by_name_and_version(tmp_path, monkeypatch) -> None:
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, cwd, **_: ran.append((command, cwd)))
    fetch.main([str(tmp_path / "sources")])
    words = [word for command, _ in ran for word in command]
    for package in packages():
        joint = {"apt": "=", "npm": "@", "pip": "=="}[package.manager]
        assert words.count(f"{package.name}{joint}{package.version}") == 1
    assert len([command for command, _ in ran if command[0] == "npm"]) == 1  # a second one would remove what the first brought
    assert {cwd for command, cwd in ran if command[0] == "dpkg-deb"} == {
        package.path(tmp_path / "sources") for package in packages() if package.manager == "apt"
    }
