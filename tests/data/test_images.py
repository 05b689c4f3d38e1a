"""Image folders: what is listed, what is refused, and that pixels reach the tower as open_clip prepares them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tiny_clip import write_images
from transformers import CLIPImageProcessorPil

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.image_decoding import check_images
from mingle_edge.data.image_folder import labeled_images, list_images
from mingle_edge.data.images import load_images
from mingle_edge_runtime.bundle.index import Preprocess

TINY = VisionArchitecture(Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), 8, 48, 3, 3, 192, 32, "quick_gelu")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def test_listing(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "deep/er/c.webp", "d.tiff", ".hidden.png", ".cache/e.png", "f.bmp")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a.JPG", "b.png", "d.tiff", "deep/er/c.webp", "f.bmp"]


def test_a_hidden_folder_may_be_the_root(tmp_path: Path) -> None:
    touch(tmp_path / ".seeds", "a.png")
    assert list_images(tmp_path / ".seeds") == [tmp_path / ".seeds" / "a.png"]


def test_listing_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match="there is no image folder"):
        list_images(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        ImageFolderError, match=r"holds no image; put images there \(read are JPEG, PNG, .* usually called .*\.jfif, .*\.png"
    ):
        list_images(tmp_path)


@pytest.mark.parametrize("size", [(40, 36), (32, 32), (31, 97), (200, 33), (7, 5)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_loading_equals_open_clip(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    Image.fromarray(pixels).convert(mode).save(path)
    transform = open_clip.image_transform(32, is_train=False, mean=TINY.preprocess.mean, std=TINY.preprocess.std)
    images = load_images([path, path], TINY)
    assert images.shape == (2, 3, 32, 32)
    assert torch.equal(images[1], transform(Image.open(path)))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_loading_equals_transformers_and_corrupts_at_the_input_size(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 51, 4), dtype=np.uint8)).convert(mode).save(path)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32})
    spec = Preprocess(32, resized_side=37, crop_offset="down", rgb="before_resize_on_white")
    architecture = replace(TINY, preprocess=spec)
    with Image.open(path) as image:
        expected = processor(image, return_tensors="pt")["pixel_values"]
        pixels = processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    seen = []
    assert torch.equal(load_images([path], architecture), expected)
    assert torch.equal(load_images([path], architecture, lambda image: seen.append(np.asarray(image)) or image), expected)
    np.testing.assert_array_equal(seen[0].transpose(2, 0, 1), pixels)


class TestBroken:
    def test_images_are_named(self, tmp_path: Path) -> None:
        write_images(tmp_path, count=6, seed=0)
        paths = list_images(tmp_path)
        check_images(paths)
        content = paths[1].read_bytes()
        paths[1].write_bytes(content[: len(content) // 2])
        paths[3].write_bytes(b"")
        paths[4].write_bytes(b"GIF89a nothing")
        paths[5].write_bytes(content[:60] + b"\0" * 30 + content[90:])
        with pytest.raises(ImageFolderError) as error:
            check_images(paths)
        for path in (paths[1], paths[3], paths[4]):
            assert f"{path} cannot be decoded" in str(error.value)
        assert str(error.value).endswith("; and 1 more")
        assert str(paths[0]) not in str(error.value)
        with pytest.raises(ImageFolderError, match=r"003\.png cannot be decoded"):
            load_images(paths[2:4], TINY)

    def test_decompression_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        Image.new("RGB", (80, 80)).save(tmp_path / "bomb.png")
        with pytest.raises(ImageFolderError, match=r"bomb\.png cannot be decoded .*decompression bomb"):
            check_images(list_images(tmp_path))

    @pytest.mark.parametrize(
        ("mode", "suffix", "message"),
        [
            ("I;16", "png", "more than 8 bits per channel, mode I;16"),
            ("F", "tif", "more than 8 bits per channel, mode F"),
        ],
    )
    def test_modes_that_a_device_refuses_are_refused_before_work_begins(
        self, tmp_path: Path, mode: str, suffix: str, message: str
    ) -> None:
        path = tmp_path / f"image.{suffix}"
        Image.new(mode, (8, 8)).save(path)
        for call in (check_images, lambda paths: load_images(paths, TINY)):
            with pytest.raises(ImageFolderError, match=rf"image\.{suffix} cannot be decoded \({message}"):
                call([path])


class TestLabelled:
    def test_in_the_order_of_classes(self, tmp_path: Path) -> None:
        touch(tmp_path / "test", "sea/b.png", "sea/a.png", "sea/notes.jpg", "river/c.png", ".trash/x.png")
        assert labeled_images("test/<class>/*.png", tmp_path, ["sea", "river"]) == [
            (tmp_path / "test/sea/a.png", 0),
            (tmp_path / "test/sea/b.png", 0),
            (tmp_path / "test/river/c.png", 1),
        ]

    def test_deeper_and_absolute_patterns(self, tmp_path: Path) -> None:
        touch(tmp_path, "sea/val/a.png", "sea/train/b.png", "river/val/.c.png", "river/val/x/d.png")
        found = labeled_images(f"{tmp_path}/<class>/val/**/*.png", Path("elsewhere"), ["sea", "river"])
        assert [(path.name, index) for path, index in found] == [("a.png", 0), ("d.png", 1)]

    def test_names_match_however_they_are_composed_and_spaced(self, tmp_path: Path) -> None:
        """File systems of macOS store names decomposed."""
        touch(tmp_path, "cafe\u0301/a.png", "lake /b.png", "river/c.png", "River/d.png")
        classes = ["caf\u00e9", "lake", "River", "river"]
        names = [(path.parent.name, index) for path, index in labeled_images("<class>/*", tmp_path, classes)]
        assert names == [("cafe\u0301", 0), ("lake ", 1), ("River", 2), ("river", 3)]

    @pytest.mark.parametrize("folder", ["Sea Lake", "sea_lake", "SEA-lake", "sea lakes"])
    def test_a_name_that_is_only_like_it_is_suggested_and_not_taken(self, tmp_path: Path, folder: str) -> None:
        touch(tmp_path, f"{folder}/a.png", "forest/b.png")
        message = f"classes without a folder: 'sea lake' \\(did you mean '{folder}'\\?\\); folders of no class: '{folder}'"
        with pytest.raises(ImageFolderError, match=message):
            labeled_images("<class>/*", tmp_path, ["sea lake", "forest"])

    def test_no_guessing_between_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, "sea /a.png", " sea/b.png")
        with pytest.raises(ImageFolderError, match=r"without a folder: 'sea' \(did you mean ' sea' or 'sea '\?\)"):
            labeled_images("<class>/*", tmp_path, ["sea"])

    def test_braces_stand_for_either(self, tmp_path: Path) -> None:
        touch(tmp_path, "sea/a.jpg", "sea/b.png", "sea/c.gif")
        found = labeled_images("<class>/*.{jpg,png}", tmp_path, ["sea"])
        assert [path.name for path, _ in found] == ["a.jpg", "b.png"]

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            (["sea", "river", "forest"], "classes without a folder: 'forest'; folders of no class: none"),
            (["sea"], "classes without a folder: none; folders of no class: 'river'"),
            (["sea", "hill"], "classes without a folder: 'hill'; folders of no class: 'river'"),
        ],
    )
    def test_folders_and_classes_must_match(self, tmp_path: Path, classes: list[str], message: str) -> None:
        touch(tmp_path, "sea/a.png", "river/b.png")
        with pytest.raises(ImageFolderError, match=message):
            labeled_images("<class>/*.png", tmp_path, classes)

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("<class>/*.jpg", "holds no image that matches"),
            ("<class>/**.png", "is malformed"),
            ("*.png", "needs one folder <class>"),
            ("<class>", "needs one folder <class>"),
            ("<class>/<class>/*.png", "needs one folder <class>"),
            ("gone/<class>/*.png", "there is no folder"),
        ],
    )
    def test_patterns(self, tmp_path: Path, pattern: str, message: str) -> None:
        touch(tmp_path, "sea/a.png")
        with pytest.raises(ImageFolderError, match=message):
            labeled_images(pattern, tmp_path, ["sea"])
