"""The demonstration's images, splits, files and tiny model, without training anything for long."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.checkpoints.class_embeddings import class_embeddings
from mingle_edge.checkpoints.text_tower import build_text_tower
from mingle_edge.cli import main
from mingle_edge.core.progress import silent
from mingle_edge.data.image_folder import labeled_images, list_images
from mingle_edge.data.images import load_images
from mingle_edge.data.settings import Settings
from mingle_edge.data.task_file import read_task_file
from mingle_edge.demo import task_files, tiny_clip
from mingle_edge.demo.canvas import SIDE
from mingle_edge.demo.captions import captioned_images
from mingle_edge.demo.classification import answer_cell
from mingle_edge.demo.contact_sheet import COLUMNS, Cell, Row, write_contact_sheet
from mingle_edge.demo.demo import MARK, DemoFolderError, run_demo
from mingle_edge.demo.splits import LabeledImages, Split, make_split, write_labeled, write_unlabeled
from mingle_edge.demo.tasks import TASKS, ImageTask
from mingle_edge_runtime import Prediction
from mingle_edge_runtime.scopes.route import Route

BY_NAME = {task.name: task for task in TASKS}


def few(task: ImageTask, split: Split, seed: int = 0) -> LabeledImages:
    """A split of a few images, for what does not depend on how many there are."""
    return make_split(task, split, seed, {"test": 2, "seeds": 1, "train": 3})


def test_the_folders_read_back_as_they_were_drawn(tmp_path) -> None:
    task = BY_NAME["signs"]
    split = few(task, "test")
    write_labeled(tmp_path / "test", split, task.classes)
    write_unlabeled(tmp_path / "seeds", split)
    pairs = {path.name: (path, label) for path, label in labeled_images("test/<class>/*.png", tmp_path, task.classes)}
    for number, path in enumerate(list_images(tmp_path / "seeds")):
        labelled, label = pairs[path.name]
        for file in (path, labelled):
            assert (np.asarray(Image.open(file)) == split.images[number]).all()
        assert label == split.labels[number]


def test_seed_files_are_not_in_order_of_class() -> None:
    labels = make_split(BY_NAME["digits"], "seeds", 0).labels
    assert (np.diff(labels) < 0).sum() > 10


def test_pretraining_names_every_class_and_shows_no_task() -> None:
    images, subjects = captioned_images((None, *TASKS), 0, 1000)
    assert len(images) == len(subjects) == 1000
    assert {subject for task in TASKS for subject in task.subjects} <= set(subjects)
    assert not any("handwritten" in subject for subject in subjects)
    shown = {image.tobytes() for task in TASKS for image in few(task, "train").images}
    assert not shown & {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the untrained model as the demonstration writes it, and the model."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "models").mkdir()
    model = tiny_clip.new_model(0)
    tiny_clip.save_config(folder / task_files.CONFIG)
    tiny_clip.save(model, folder / task_files.BACKBONE)
    for number, task in enumerate(TASKS):
        tiny_clip.save(model, folder / task_files.weights(task), visual_only=number % 2 == 1)
        for part in (task_files.calibration_images(task), task_files.test_images(task)):
            (folder / part).mkdir(parents=True)
    return folder, model


def test_the_checkpoints_are_what_merge_reads(models) -> None:
    folder, model = models
    architecture = read_architecture(task_files.CONFIG, folder, task_files.BACKBONE)
    assert (architecture.width, architecture.image_size, architecture.activation) == (tiny_clip.WIDTH, SIDE, "quick_gelu")
    for file in [task_files.BACKBONE, *(task_files.weights(task) for task in TASKS)]:
        checkpoint = open_checkpoint(file, base=folder, architecture=architecture)
        check_checkpoint(checkpoint, architecture, backbone=file == task_files.BACKBONE)
        tensors = dict(checkpoint.tensors())
        assert (tensors["class_token"] == model.visual.class_embedding).all()


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_the_task_files_are_valid_and_equal_task_by_task(models, scope) -> None:
    folder, _ = models
    together, steps = task_files.write_task_files(folder, scope)
    whole = read_task_file(together)
    assert [task.name for task in whole.tasks] == [task.name for task in TASKS]
    assert Settings.from_mapping(whole.settings).scope == scope
    for task, step in zip(whole.tasks, map(read_task_file, steps), strict=True):
        assert step.settings == whole.settings
        assert step.tasks[0].classes == task.classes
        assert (step.path.parent / step.tasks[0].seeds.files).resolve() == (folder / task.seeds.files).resolve()


def test_heads_of_the_demo_are_the_heads_of_the_merge(models) -> None:
    folder, model = models
    text = build_text_tower(task_files.CONFIG, task_files.BACKBONE, folder)
    for task in TASKS:
        ours = tiny_clip.text_embeddings(model, task.prompts)
        torch.testing.assert_close(ours, class_embeddings(text, task.classes, [task.template]), rtol=0, atol=1e-6)


def test_pixels_in_training_are_those_of_open_clip(tmp_path, models) -> None:
    folder, _ = models
    split = few(BY_NAME["textures"], "seeds")
    write_unlabeled(tmp_path / "seeds", split)
    architecture = read_architecture(task_files.CONFIG, folder, task_files.BACKBONE)
    loaded = load_images(list_images(tmp_path / "seeds"), architecture)
    torch.testing.assert_close(tiny_clip.to_pixels(split.images), loaded, rtol=0, atol=1e-6)


def test_fine_tuning_moves_every_visual_parameter_and_nothing_else() -> None:
    task, model, before = BY_NAME["textures"], tiny_clip.new_model(0), tiny_clip.new_model(0).state_dict()
    split, losses = few(task, "train"), []

    def note(stage: str, done: int, total: int, detail: str = "") -> None:
        losses.append((stage, done, total, float(detail.removeprefix("loss "))))

    tiny_clip.fine_tune(model, split.images, split.labels, task.prompts, 0, note, tiny_clip.Training("fine-tune", 12, 1e-3))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("visual.")}
    assert [entry[:3] for entry in losses] == [("fine-tune", step, 12) for step in range(1, 13)]
    assert losses[-1][3] < losses[0][3]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_text_tower_learns_to_look_through_templates() -> None:
    model, subjects = tiny_clip.new_model(0), ["red square", "digit one", "striped texture", "lake from above"]
    tiny_clip.train_text_tower(model, subjects, 0, silent, tiny_clip.Training("text", 20, 2e-3))
    first, second = (
        tiny_clip.text_embeddings(model, [template.format(s) for s in subjects]) for template in tiny_clip.CAPTIONS[:2]
    )
    assert ((first @ second.T).argmax(1) == torch.arange(4)).all()
    assert torch.equal(model.visual.proj, tiny_clip.new_model(0).visual.proj)


def test_making_a_model_leaves_the_callers_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert isinstance(tiny_clip.new_model(0), open_clip.CLIP)
    assert torch.equal(torch.rand(3), expected)


def test_the_contact_sheet_shows_every_image_and_marks_the_wrong_ones(tmp_path) -> None:
    Image.new("RGB", (32, 32), "orange").save(tmp_path / "image.png")

    def cell(task: str, said: str) -> Cell:
        route = Route((said,), (1.0,)) if said else Route((), ())
        prediction = Prediction(("x",), (said or task,), (1.0,), route)
        return answer_cell(tmp_path / "image.png", task, "x", prediction, {"a": "blue", "b": "green"})

    right = [[cell("a", "a")] * (COLUMNS + 1), [cell("b", "")] * 3]
    for name, cells in (("right", right), ("wrong", [[*right[0][1:], cell("a", "b")], right[1]])):
        write_contact_sheet(tmp_path / f"{name}.png", [Row("a", "", cells[0]), Row("b", "", cells[1])], lines=3)
    sheets = [np.asarray(Image.open(tmp_path / name)) for name in ("right.png", "wrong.png")]
    assert sheets[0].shape == sheets[1].shape
    pictures = [(sheet == (255, 165, 0)).all(-1).sum() for sheet in sheets]
    assert pictures == [14 * 96 * 96] * 2
    red = [(np.abs(sheet.astype(int) - (207, 34, 46)).max(-1) < 3).sum() for sheet in sheets]
    assert red[0] == 0 < red[1]
    assert [(sheet == (0, 128, 0)).all(-1).any() for sheet in sheets] == [False, True]  # the frame of b's expert


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1  # nothing is promised before
    assert "holds thesis.txt; name another with -o" in result.stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(DemoFolderError, match="this is a file"):
        run_demo(tmp_path / "thesis.txt")


def test_an_interrupted_demo_is_replaced(tmp_path, monkeypatch) -> None:
    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "demo", progress=stop)
        assert [path.name for path in (tmp_path / "demo").iterdir()] == [MARK]
        (tmp_path / "demo" / "left-over").mkdir()
