"""A bundle that is replaced, overwritten or damaged while it is served: what was opened is served on, or it is an error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_bundle import KINDS, TASKS, Weights, images, relist, write_image_bundle, write_kinds, write_layer_bundle

from mingle_edge.cli import main
from mingle_edge_runtime import Bundle, BundleError, EdgeError, EdgeModel, ExpertError
from mingle_edge_runtime.bundle import mapped_file
from mingle_edge_runtime.bundle.mapped_file import MappedFile
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.ort.session import CPU, Session

IMAGES = images(0, 1, 2, 3, 2, 1, 0, seed=3)
OLD, NEW = Weights(0), Weights(1)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[tuple[str, int], list[np.ndarray]]:
    """What the old bundle of every kind computes, routed and with each task named."""
    return {kind: everything(EdgeModel.open(path, threads=1)) for kind, path in kinds(tmp_path_factory.mktemp("old"), OLD)}


def kinds(root: Path, weights: Weights) -> list[tuple[tuple[str, int], Path]]:
    """A bundle of every kind."""
    return list(write_kinds(root, weights).items())


def everything(model: EdgeModel) -> list[np.ndarray]:
    """Embeddings, routed and with each task named."""
    with model:
        return [model.embed(IMAGES), *(model.embed(IMAGES, task=task) for task in TASKS)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def served(request, tmp_path) -> tuple[tuple[str, int], Path, Path]:
    """A kind, the folder that is served, and a new version of it beside."""
    return request.param, dict(kinds(tmp_path / "a", OLD))[request.param], dict(kinds(tmp_path / "b", NEW))[request.param]


def test_a_new_folder_in_its_place_changes_nothing_while_the_old_one_exists(served, answers, tmp_path) -> None:
    kind, bundle, new = served
    with EdgeModel.open(bundle, threads=1) as model:
        budget = kind[1] * model.bundle.index.tasks[0].expert_bytes
    opened = Bundle.open(bundle)
    model = EdgeModel.open(bundle, expert_budget=budget, threads=1)  # evicts every other expert, has not loaded the router yet
    model.embed(IMAGES[:1], task="red")
    bundle.rename(tmp_path / "aside")
    new.rename(bundle)
    for actual, expected in zip(everything(model), answers[kind], strict=True):
        np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(everything(EdgeModel.open(opened, threads=1)), answers[kind], strict=True):
        np.testing.assert_array_equal(actual, expected)
    with EdgeModel.open(bundle, threads=1) as fresh:
        assert np.abs(fresh.embed(IMAGES) - answers[kind][0]).max() > 0.01


def test_a_system_that_cannot_follow_the_old_folder_raises(served, answers, tmp_path, monkeypatch) -> None:
    kind, bundle, new = served
    monkeypatch.setattr(mapped_file, "_DESCRIPTORS", tmp_path / "absent")
    for actual, expected in zip(everything(EdgeModel.open(bundle, threads=1)), answers[kind], strict=True):
        np.testing.assert_array_equal(actual, expected)
    opened = Bundle.open(bundle)
    model = EdgeModel.open(bundle, threads=1)
    bundle.rename(tmp_path / "aside")
    new.rename(bundle)
    with pytest.raises(BundleError, match=r"tower.onnx was replaced while the bundle was open: open the bundle again"):
        EdgeModel.open(opened)
    if kind == ("image", 1):
        with pytest.raises(ExpertError, match=r"expert 'red' in .* was replaced while the bundle was open"):
            model.embed(IMAGES, task="red")
        with pytest.raises(BundleError, match=r"router.onnx was replaced while the bundle was open"):
            model.embed(IMAGES)


def test_what_was_deleted_is_an_error_and_what_is_in_use_is_served(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "image", OLD)
    with EdgeModel.open(bundle, threads=1) as model:
        red = model.embed(IMAGES, task="red")
        shutil.rmtree(bundle)
        write_image_bundle(bundle, NEW)
        np.testing.assert_array_equal(model.embed(IMAGES, task="red"), red)
        with pytest.raises(ExpertError, match=r"green.onnx_adapter is gone since the bundle was opened: open the bundle again"):
            model.embed(IMAGES, task="green")
        with pytest.raises(BundleError, match=r"router.onnx was replaced while the bundle was open: open the bundle again"):
            model.embed(IMAGES)
        assert model.stats().resident_bytes == model.bundle.index.tasks[0].expert_bytes


@pytest.mark.parametrize("how", ["renamed over it", "overwritten"])
@pytest.mark.parametrize("name", ["experts/green.onnx_adapter", "router.onnx"])
def test_a_file_replaced_before_its_first_use_is_an_error(tmp_path, name: str, how: str) -> None:
    bundle, new = write_image_bundle(tmp_path / "image", OLD), write_image_bundle(tmp_path / "new", NEW)
    with EdgeModel.open(bundle) as model:
        if how == "overwritten":
            (bundle / name).write_bytes((new / name).read_bytes())
        else:
            (new / name).replace(bundle / name)
        with pytest.raises(BundleError, match=f"{name} was replaced while the bundle was open: open the bundle again"):
            model.embed(IMAGES, task="green" if "green" in name else None)
        assert np.isfinite(model.embed(IMAGES, task="red")).all()


@pytest.mark.parametrize("top_k", [1, 2])
def test_an_expert_replaced_while_it_is_in_use_is_served_and_raises_after_an_eviction(tmp_path, top_k: int) -> None:
    bundle, new = write_image_bundle(tmp_path / "image", OLD, top_k), write_image_bundle(tmp_path / "new", NEW, top_k)
    size = Bundle.open(bundle).index.tasks[0].expert_bytes
    name = "experts/red.onnx_adapter"
    with EdgeModel.open(bundle, expert_budget=top_k * size, threads=1) as model:
        red = model.embed(IMAGES, task="red")
        (new / name).replace(bundle / name)
        np.testing.assert_array_equal(model.embed(IMAGES, task="red"), red)
        model.prefetch(["green"] if top_k == 1 else ["green", "blue"])
        model.embed(IMAGES, task="green")
        model.embed(IMAGES, task="blue")
        with pytest.raises(ExpertError, match=f"{name} was replaced while the bundle was open"):
            model.embed(IMAGES, task="red")


@pytest.mark.parametrize(
    ("write", "name", "error"),
    [
        (write_image_bundle, "experts/red.onnx_adapter", ExpertError),
        (write_image_bundle, "backbone.bin", ExpertError),
        (write_layer_bundle, "experts.bin", BundleError),
    ],
)
def test_a_mapped_file_that_was_overwritten_is_an_error(tmp_path, write, name: str, error: type[BundleError]) -> None:
    bundle, new = write(tmp_path / "bundle", OLD), write(tmp_path / "new", NEW)
    os.utime(bundle / name, ns=(0, 0))  # clocks of file systems are coarse
    with EdgeModel.open(bundle, low_memory=True) as model:
        model.embed(IMAGES, task="red")
        (bundle / name).write_bytes((new / name).read_bytes())
        with pytest.raises(error, match=f"{name} was overwritten while it was in use: .* reopen the bundle"):
            model.embed(IMAGES, task="red")


@pytest.mark.parametrize("name", ["tower.onnx", "backbone.bin"])
def test_what_is_swapped_while_a_graph_loads_is_an_error(tmp_path, name: str) -> None:
    bundle, new = write_image_bundle(tmp_path / "image", OLD), write_image_bundle(tmp_path / "new", NEW)
    graph = Bundle.open(bundle).graph("tower.onnx")  # has been checked, and is loaded next
    (new / name).replace(bundle / name)
    with pytest.raises(BundleError, match=f"{name} was replaced while the bundle was open"):
        Session(graph, [CPU])


def test_verify_reads_the_index_once(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "image", OLD)
    verify(bundle, progress=lambda done, total: (bundle / "bundle.json").unlink(missing_ok=True)).check()
    assert not (bundle / "bundle.json").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_an_answer_is_hashed_once_where_that_is_asked_for(tmp_path, monkeypatch, kind) -> None:
    bundle = dict(kinds(tmp_path, OLD))[kind]
    hashed: list[str] = []
    check = MappedFile.check_hash
    monkeypatch.setattr(
        MappedFile,
        "check_hash",
        lambda self, *rest: hashed.append(os.path.relpath(self.name.split()[-1], bundle)) or check(self, *rest),
    )
    budget = kind[1] * Bundle.open(bundle).index.tasks[0].expert_bytes
    with EdgeModel.open(bundle, expert_budget=budget, check_hashes=True) as model:
        for _ in range(3):
            for task in TASKS:
                model.embed(IMAGES, task=task)
        model.embed(IMAGES)
    unused = {"dense.onnx", "golden.npz"}
    assert sorted(hashed) == sorted(model.bundle.index.files.keys() - unused)
    hashed.clear()
    with EdgeModel.open(bundle, verify=True, check_hashes=True) as model:
        model.embed(IMAGES)
    assert sorted(hashed) == sorted(model.bundle.index.files)


@pytest.mark.parametrize(
    ("write", "name", "always"),
    [
        (write_image_bundle, "tower.onnx", True),
        (write_image_bundle, "router.onnx", True),
        (write_image_bundle, "heads/blue.npy", True),
        (write_image_bundle, "backbone.bin", False),
        (write_image_bundle, "experts/blue.onnx_adapter", False),
        (write_layer_bundle, "experts.bin", False),
    ],
)
def test_a_flipped_bit_is_found_when_the_file_is_first_opened(tmp_path, write, name: str, always: bool) -> None:
    bundle = write(tmp_path / "bundle", OLD)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)

    def use(**options: bool) -> None:
        with EdgeModel.open(bundle, **options) as model:
            assert len(model.embed(IMAGES, task="red")) == len(IMAGES)
            model.embed(IMAGES, task="blue")

    with pytest.raises(BundleError, match=rf"{name} has sha256 .*\.\.\., bundle.json says .*\.\.\.: the file is damaged"):
        use(check_hashes=True)
    if always:
        with pytest.raises(BundleError, match=f"{name} has sha256"):
            use()
    else:
        use()


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted by /proc")
def test_no_descriptor_is_left_open(tmp_path) -> None:
    bundles = [path for _, path in kinds(tmp_path, OLD)]
    damaged = write_image_bundle(tmp_path / "damaged", OLD)
    (damaged / "tower.onnx").write_bytes(b"no graph")
    relist(damaged, "tower.onnx")
    before = open_files()
    for bundle in bundles:
        with EdgeModel.open(bundle, verify=True, check_hashes=True) as model:
            everything(model)
        assert open_files() == before, bundle
        assert model.tasks == TASKS
        with pytest.raises(EdgeError, match="is closed: open it again"):
            model.bundle.read("golden.npz")
    for _ in range(3):
        with pytest.raises(BundleError):
            EdgeModel.open(damaged)
        with pytest.raises(BundleError):
            Bundle.open(tmp_path)
    assert open_files() == before
    own = Bundle.open(bundles[0])
    EdgeModel.open(own).close()
    assert len(own.read("golden.npz")) == own.index.files["golden.npz"].size  # a bundle of the caller's own stays open
    del own
    assert open_files() == before


def test_the_command_line_checks_hashes_where_it_is_asked_to(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "image", OLD)
    Image.fromarray(IMAGES[0]).save(tmp_path / "red.png")
    path = bundle / "experts/red.onnx_adapter"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    arguments = ["run", str(bundle), str(tmp_path / "red.png"), "--task", "red"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    found = CliRunner().invoke(main, [*arguments, "--check-hashes"])
    assert found.exit_code == 2
    assert "red.onnx_adapter has sha256" in found.output.replace("\n", " ")
