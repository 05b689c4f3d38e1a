"""Mistakes that are found before the work: places that cannot be written, and images that cannot be decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from special_files import bound_by_modes

import mingle_edge.comparison.execution
import mingle_edge.evaluation.evaluate
import mingle_edge.merging.merge_inputs
import mingle_edge.merging.merged_tower
import mingle_edge_export.check.reference
import mingle_edge_export.check.task_images
from mingle_edge.cli import main
from mingle_edge.comparison.compare import ComparisonOptions, compare
from mingle_edge.core.errors import ImageFolderError, MingleError, OutputError
from mingle_edge.demo.demo import MARK, run_demo
from mingle_edge.evaluation.evaluate import evaluate
from mingle_edge.files.output_path import check_output_file, check_output_folder, write_output
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, export_bundle


@contextmanager
def unused(patch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> Iterator[None]:
    """Fail where the work begins."""

    def begun(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the work has begun")

    with patch.context() as context:
        for module, name in places:
            context.setattr(module, name, begun)
        yield


class TestFile:
    def test_what_can_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "there.json").touch()
        (tmp_path / "link.json").symlink_to("new.json")
        for path in (tmp_path / "new.json", tmp_path / "there.json", tmp_path / "link.json", Path("/dev/null"), None):
            check_output_file(path)
        assert {path.name for path in tmp_path.iterdir()} == {"there.json", "link.json"}

    def test_what_cannot(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "astray").symlink_to("gone/new.json")
        for path, message in (
            (tmp_path, "it is a folder; name a file in it"),
            (tmp_path / "gone/new.json", "there is no folder .*gone; create it first"),
            (tmp_path / "file/new.json", "there is no folder .*file; create it first"),
            (tmp_path / "astray", "there is no folder"),
            (tmp_path / "loop", "cannot be written: it cannot be read"),
            (tmp_path / ("x" * 300), "cannot be written: it cannot be read"),
            (tmp_path / "a\0b", "is no name that a file can have"),
        ):
            with pytest.raises(OutputError, match=message):
                check_output_file(path)

    def test_who_may_not(self, open_folder: Path) -> None:
        open_folder.chmod(0o555)
        checks = [(check_output_file, "new.json"), *((check_output_folder, name) for name in ("", "new", "new/deeper"))]
        for check, name in checks:
            with bound_by_modes(), pytest.raises(OutputError, match="may not be; change its permissions, or name another"):
                check(open_folder / name)

    def test_text_that_is_no_utf8_is_written_as_far_as_it_is(self, tmp_path: Path) -> None:
        name = os.fsdecode(b"caf\xe9.toml")
        write_output(tmp_path / "page.html", f"<p>{name}</p>")
        assert (tmp_path / "page.html").read_text(encoding="utf-8") == r"<p>caf\udce9.toml</p>"
        with pytest.raises(OutputError, match=r"gone.*cannot be written"):
            write_output(tmp_path / "file" / "gone" / "page.html", "")


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "results/results.json").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "new/deeper", tmp_path / "results"):
        check_output_folder(folder, "results.csv")
    for folder in (tmp_path / "file", tmp_path / "file/new"):
        with pytest.raises(OutputError, match="file is no folder"):
            check_output_folder(folder)
    with pytest.raises(OutputError, match=r"results\.json cannot be written: it is a folder"):
        check_output_folder(tmp_path / "results", "results.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "{merged}", "{tasks}", "--json", "{file}/figures.json"),
        ("evaluate", "{merged}", "{tasks}", "--json", "{folder}"),
        ("compare", "{tasks}", "-o", "{file}"),
        ("compare", "{tasks}", "-o", "{folder}"),
        ("profile", "{bundle}", "--json", "{folder}"),
        ("profile", "{bundle}", "--html", "{file}/page.html"),
        ("merge", "{tasks}", "-o", "{file}"),
        ("merge", "{tasks}", "-o", "{file}/merged"),
        ("export", "{merged}", "-o", "{file}"),
        ("export", "{merged}", "-o", "{file}/bundle", "--images", "{tasks}"),
        ("demo", "-o", "{file}"),
        ("demo", "-o", "{file}/demo"),
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_every_command_looks_where_it_will_write_first(
    image_model: MergedModel,
    image_bundle: Path,
    task_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/report.html").mkdir(parents=True)
    places = {"merged": image_model.path, "bundle": image_bundle, "tasks": task_file}
    places |= {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    with unused(
        monkeypatch,
        (mingle_edge.evaluation.evaluate, "read_test_images"),
        (mingle_edge.merging.merge_inputs, "check_images"),
        (mingle_edge_export.check.task_images, "read_task_images"),
    ):
        result = CliRunner().invoke(main, [argument.format(**places) for argument in arguments])
    assert result.exit_code == (2 if "Usage" in result.output else 3), result.output
    assert "error" in result.output.lower()
    assert "the work has begun" not in result.output
    assert str(tmp_path) in result.output.replace("\n", "")


class TestImages:
    @pytest.fixture
    def broken(self, copied_tasks: Path) -> Path:
        """A task file whose last test image is cut short: its header is sound."""
        last = sorted((copied_tasks.parent / "test").rglob("*.png"))[-1]
        last.write_bytes(last.read_bytes()[:-40])
        return copied_tasks

    def test_a_broken_test_image_costs_nothing(
        self, image_model: MergedModel, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: evaluate(image_model.path, broken, device="cpu"),
            lambda: export_bundle(image_model.path, tmp_path / "bundle", ExportOptions(images=broken)),
            lambda: compare(broken, tmp_path / "results", ComparisonOptions("image", orders=1, parallel=False, device="cpu")),
        ]
        with unused(
            monkeypatch,
            (mingle_edge.merging.merged_tower, "GatedTower"),
            (mingle_edge_export.check.reference, "compute_reference"),
            (mingle_edge.comparison.execution, "run_cell"),
        ):
            for call in calls:
                with pytest.raises(ImageFolderError, match=r"\.png cannot be decoded \(.*; replace or remove it"):
                    call()
        assert not (tmp_path / "bundle").exists()

    def test_a_broken_seed_costs_nothing(self, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seed = sorted((broken.parent / "seeds").rglob("*.png"))[-1]
        seed.write_bytes(seed.read_bytes()[:-40])
        with (
            unused(monkeypatch, (mingle_edge.merging.merge_inputs, "open_checkpoint")),
            pytest.raises(ImageFolderError, match=seed.name),
        ):
            merge(broken, tmp_path / "merged", device="cpu")
        assert not (tmp_path / "merged").exists()


def test_a_mark_that_is_no_text_is_not_the_demo_s(tmp_path: Path) -> None:
    for make in (lambda path: path.write_bytes(b"\xff"), os.mkfifo):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / MARK)
        with pytest.raises(MingleError, match="must be new, empty or an earlier demo"):
            run_demo(folder)
        assert (folder / MARK).exists()
