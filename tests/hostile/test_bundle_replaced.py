"""A bundle that is replaced, overwritten or damaged while it is served: what was opened is served on, or it is an error."""

from __future__ import annotations

import gc
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from damage import flip_bit, put
from PIL import Image
from tiny_bundle import KINDS, TASKS, Weights, images, write_image_bundle, write_layer_bundle

from mingle_edge.cli import main
from mingle_edge_runtime import Bundle, BundleError, EdgeError, EdgeModel, ExpertError
from mingle_edge_runtime.bundle import mapped_file
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.ort.session import CPU, Session

IMAGES = images(0, 1, 2, 3, 2, 1, 0, seed=3)


@pytest.fixture(scope="module")
def answers(bundles) -> dict[tuple[str, int], list[np.ndarray]]:
    """What the old bundle of every kind computes, routed and with each task named."""
    return {kind: everything(EdgeModel.open(path, threads=1)) for kind, path in bundles.items()}


def everything(model: EdgeModel) -> list[np.ndarray]:
    """Embeddings, routed and with each task named."""
    with model:
        return [model.embed(IMAGES), *(model.embed(IMAGES, task=task) for task in TASKS)]


def assert_same(answers: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Assert that all are equal, bit for bit."""
    for actual, reference in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(actual, reference)


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def kind(request) -> tuple[str, int]:
    """Scope and experts of a route."""
    return request.param


@pytest.fixture
def served(kind, bundles, tmp_path) -> Path:
    """The folder that is served."""
    return Path(shutil.copytree(bundles[kind], tmp_path / "served"))


@pytest.fixture
def new(kind, tmp_path) -> Path:
    """A new version of it beside."""
    write = {"image": write_image_bundle, "layer": write_layer_bundle}
    return write[kind[0]](tmp_path / "new", Weights(1), kind[1])


image_bundle = pytest.mark.parametrize("kind", [("image", 1)])


def test_a_new_folder_in_its_place_changes_nothing_while_the_old_one_exists(kind, served, new, answers, tmp_path) -> None:
    opened = Bundle.open(served)
    budget = kind[1] * opened.index.tasks[0].expert_bytes
    model = EdgeModel.open(served, expert_budget=budget, threads=1)  # evicts every other expert, has not loaded the router yet
    model.embed(IMAGES[:1], task="red")
    served.rename(tmp_path / "aside")
    new.rename(served)
    assert_same(everything(model), answers[kind])
    assert_same(everything(EdgeModel.open(opened, threads=1)), answers[kind])
    with EdgeModel.open(served, threads=1) as fresh:
        assert np.abs(fresh.embed(IMAGES) - answers[kind][0]).max() > 0.01


def test_a_system_that_cannot_follow_the_old_folder_raises(kind, served, new, answers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mapped_file, "_DESCRIPTORS", tmp_path / "absent")
    assert_same(everything(EdgeModel.open(served, threads=1)), answers[kind])
    opened = Bundle.open(served)
    model = EdgeModel.open(served, threads=1)
    served.rename(tmp_path / "aside")
    new.rename(served)
    with pytest.raises(BundleError, match=r"tower.onnx was replaced while the bundle was open: open the bundle again"):
        EdgeModel.open(opened)
    if kind == ("image", 1):
        with pytest.raises(ExpertError, match=r"expert 'red' in .* was replaced while the bundle was open"):
            model.embed(IMAGES, task="red")
        with pytest.raises(BundleError, match=r"router.onnx was replaced while the bundle was open"):
            model.embed(IMAGES)


@image_bundle
def test_what_was_deleted_is_an_error_and_what_is_in_use_is_served(served, new) -> None:
    with EdgeModel.open(served, threads=1) as model:
        red = model.embed(IMAGES, task="red")
        shutil.rmtree(served)
        new.rename(served)
        np.testing.assert_array_equal(model.embed(IMAGES, task="red"), red)
        with pytest.raises(ExpertError, match=r"green.onnx_adapter is gone since the bundle was opened: open the bundle again"):
            model.embed(IMAGES, task="green")
        with pytest.raises(BundleError, match=r"router.onnx was replaced while the bundle was open: open the bundle again"):
            model.embed(IMAGES)
        assert model.stats().resident_bytes == model.bundle.index.tasks[0].expert_bytes


@image_bundle
@pytest.mark.parametrize("replace", [Path.replace, shutil.copy], ids=["renamed over it", "overwritten"])
@pytest.mark.parametrize("name", ["experts/green.onnx_adapter", "router.onnx"])
def test_a_file_replaced_before_its_first_use_is_an_error(served, new, name: str, replace) -> None:
    with EdgeModel.open(served) as model:
        replace(new / name, served / name)
        with pytest.raises(BundleError, match=f"{name} was replaced while the bundle was open: open the bundle again"):
            model.embed(IMAGES, task="green" if "green" in name else None)
        assert np.isfinite(model.embed(IMAGES, task="red")).all()


@pytest.mark.parametrize("kind", [("image", 1), ("image", 2)])
def test_an_expert_replaced_while_it_is_in_use_is_served_and_raises_after_an_eviction(kind, served, new) -> None:
    size, name = Bundle.open(served).index.tasks[0].expert_bytes, "experts/red.onnx_adapter"
    with EdgeModel.open(served, expert_budget=kind[1] * size, threads=1) as model:
        red = model.embed(IMAGES, task="red")
        (new / name).replace(served / name)
        np.testing.assert_array_equal(model.embed(IMAGES, task="red"), red)
        model.prefetch(["green", "blue"][: kind[1]])
        model.embed(IMAGES, task="green")
        model.embed(IMAGES, task="blue")
        with pytest.raises(ExpertError, match=f"{name} was replaced while the bundle was open"):
            model.embed(IMAGES, task="red")


@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [
        (("image", 1), "experts/red.onnx_adapter", ExpertError),
        (("image", 1), "backbone.bin", ExpertError),
        (("layer", 1), "experts.bin", BundleError),
    ],
)
def test_a_mapped_file_that_was_overwritten_is_an_error(served, new, name: str, error: type[BundleError]) -> None:
    os.utime(served / name, ns=(0, 0))  # clocks of file systems are coarse
    with EdgeModel.open(served, low_memory=True) as model:
        model.embed(IMAGES, task="red")
        shutil.copy(new / name, served / name)
        with pytest.raises(error, match=f"{name} was overwritten while it was in use: .* reopen the bundle"):
            model.embed(IMAGES, task="red")


@image_bundle
@pytest.mark.parametrize("name", ["tower.onnx", "backbone.bin"])
def test_what_is_swapped_while_a_graph_loads_is_an_error(served, new, name: str) -> None:
    graph = Bundle.open(served).graph("tower.onnx")  # has been checked, and is loaded next
    (new / name).replace(served / name)
    with pytest.raises(BundleError, match=f"{name} was replaced while the bundle was open"):
        Session(graph, [CPU])


def test_verify_reads_the_index_once(bundle) -> None:
    verify(bundle, progress=lambda done, total: (bundle / "bundle.json").unlink(missing_ok=True)).check()
    assert not (bundle / "bundle.json").exists()


def test_every_byte_of_an_answer_is_hashed_once_where_that_is_asked_for(kind, bundles, monkeypatch) -> None:
    bundle, hashed = bundles[kind], []
    check = MappedFile.check_hash

    def counted(file: MappedFile, *rest: object) -> None:
        hashed.append(os.path.relpath(file.name.split()[-1], bundle))
        check(file, *rest)

    monkeypatch.setattr(MappedFile, "check_hash", counted)
    budget = kind[1] * Bundle.open(bundle).index.tasks[0].expert_bytes
    with EdgeModel.open(bundle, expert_budget=budget, check_hashes=True) as model:
        for task in [*TASKS, *TASKS, None]:
            model.embed(IMAGES, task=task)
    unused = {"dense.onnx", "golden.npz"}
    assert sorted(hashed) == sorted(model.bundle.index.files.keys() - unused)
    hashed.clear()
    with EdgeModel.open(bundle, verify=True, check_hashes=True) as model:
        model.embed(IMAGES)
    assert sorted(hashed) == sorted(model.bundle.index.files)


@pytest.mark.parametrize(
    ("kind", "name", "always"),
    [
        (("image", 1), "tower.onnx", True),
        (("image", 1), "router.onnx", True),
        (("image", 1), "heads/blue.npy", True),
        (("image", 1), "backbone.bin", False),
        (("image", 1), "experts/blue.onnx_adapter", False),
        (("layer", 1), "experts.bin", False),
    ],
)
def test_a_flipped_bit_is_found_when_the_file_is_first_opened(served, tmp_path, name: str, always: bool) -> None:
    flip_bit(served / name)

    def use(**options: bool) -> None:
        with EdgeModel.open(served, **options) as model:
            assert len(model.embed(IMAGES, task="red")) == len(IMAGES)
            model.embed(IMAGES, task="blue")

    with pytest.raises(BundleError, match=rf"{name} has sha256 .*\.\.\., bundle.json says .*\.\.\.: the file is damaged"):
        use(check_hashes=True)
    with pytest.raises(BundleError, match=f"{name} has sha256") if always else nullcontext():
        use()
    Image.fromarray(IMAGES[0]).save(tmp_path / "red.png")
    arguments = ["run", str(served), str(tmp_path / "red.png"), "--task", "blue"]
    assert CliRunner().invoke(main, arguments).exit_code == (4 if always else 0)
    result = CliRunner().invoke(main, [*arguments, "--check-hashes"])
    assert (result.exit_code, f"{name} has sha256" in result.output.replace("\n", " ")) == (4, True)


def test_no_descriptor_is_left_open(bundles, bundle, tmp_path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    put(bundle, "tower.onnx", b"no graph")
    gc.collect()
    before = open_files()
    for path in bundles.values():
        with EdgeModel.open(path, verify=True, check_hashes=True) as model:
            everything(model)
        assert open_files() == before, path
        assert model.tasks == TASKS
        with pytest.raises(EdgeError, match="is closed: open it again"):
            model.bundle.read("golden.npz")
    for _ in range(3):
        with pytest.raises(BundleError):
            EdgeModel.open(bundle)
        with pytest.raises(BundleError):
            Bundle.open(tmp_path)
    assert open_files() == before
    own = Bundle.open(bundles["image", 1])
    EdgeModel.open(own).close()
    assert len(own.read("golden.npz")) == own.index.files["golden.npz"].size  # a bundle of the caller's own stays open
    del own
    assert open_files() == before
