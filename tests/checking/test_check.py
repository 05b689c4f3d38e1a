"""`check`: its figures recomputed from the files with numpy, and all faults of a task file found in one run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import damages
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from damages import DAMAGES, RANK, change, change_weights
from expected_figures import explained, layers_of, task_vectors
from parsed_page import body, card, check_alone, check_phone, rows
from safetensors.numpy import load_file, save_file
from tiny_clip import LAYERS, WIDTH, write_images, write_open_clip, write_task, write_task_file

from mingle_edge.checking import weights
from mingle_edge.checking.check import check
from mingle_edge.checking.report import CheckReport, Finding
from mingle_edge.cli import main
from mingle_edge.core.errors import MingleError
from mingle_edge.merging.merge import merge
from mingle_edge.routing.router import DIRECTIONS
from mingle_edge_export import ExportOptions, export_bundle


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_file(tmp_path_factory.mktemp("sound"), tasks=3, tune=True, rank=RANK, expert_steps=0)


@pytest.fixture(scope="module")
def report(sound: Path) -> CheckReport:
    return check(sound)


@pytest.fixture
def task_file(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound one, to be damaged."""
    shutil.copytree(sound.parent, tmp_path / "tasks")
    return tmp_path / "tasks" / sound.name


def test_figures_are_those_of_numpy(sound: Path, report: CheckReport) -> None:
    plain = dict(layers_of(sound.parent / "backbone.safetensors"))
    flat = []
    for task in report.tasks:
        facts, vectors = task.weights, task_vectors(sound.parent, task.name)
        assert facts is not None
        moved = {name: np.linalg.norm(vector) / np.linalg.norm(plain[name]) for name, vector in vectors.items()}
        assert facts.movement == pytest.approx(moved, rel=1e-4)
        lengths = [np.sqrt(sum((x**2).sum() for x in matrices.values())) for matrices in (vectors, plain)]
        assert facts.linear_movement == pytest.approx(lengths[0] / lengths[1], rel=1e-4)
        old, new = (
            np.concatenate([w.ravel() for name, w in layers if name.startswith("blocks")]).astype(np.float64)
            for layers in (plain.items(), layers_of(sound.parent / f"{task.name}.safetensors"))
        )
        assert facts.backbone_cosine == pytest.approx(old @ new / np.linalg.norm(old) / np.linalg.norm(new), rel=1e-5)
        assert facts.explained_norm == pytest.approx({rank: explained(vectors, rank) for rank in (4, 8, 16, 32, 64, 128)})
        flat.append(np.concatenate([vector.ravel() for vector in vectors.values()]))
    assert report.similarity is not None
    np.testing.assert_allclose(report.similarity.cosines, np.corrcoef(flat), atol=2e-3)  # of zero mean, almost
    unit = np.stack([vector / np.linalg.norm(vector) for vector in flat])
    np.testing.assert_allclose(report.similarity.cosines, unit @ unit.T, atol=1e-6)
    assert report.spectrum_blocks == list(range(LAYERS))


def test_the_rest_of_a_tower_moved_by_what_its_vectors_did(sound: Path, report: CheckReport) -> None:
    folder, linear = (
        sound.parent,
        re.compile(r".*(conv1\.weight|in_proj_weight|out_proj\.weight|c_fc\.weight|c_proj\.weight|proj)$"),
    )
    plain, new = (load_file(folder / f"{name}.safetensors") for name in ("backbone", "task0"))
    others = [name for name in new if not linear.fullmatch(name)]
    moved, length = (
        np.sqrt(sum((x**2).sum() for x in arrays))
        for arrays in ([new[name] - plain[name] for name in others], [plain[name] for name in others])
    )
    facts = report.tasks[0].weights
    assert facts is not None
    assert facts.vector_movement == pytest.approx(moved / length, rel=1e-4)


def test_what_it_says_of_checkpoints_and_images_is_what_they_are(sound: Path, report: CheckReport) -> None:
    for number, task in enumerate(report.tasks):
        path = sound.parent / f"task{number}.safetensors"
        assert task.checkpoint is not None
        assert (task.checkpoint.path, task.checkpoint.bytes) == (str(path), path.stat().st_size)
        assert (task.checkpoint.naming, task.checkpoint.container, task.checkpoint.dtypes) == (
            "open_clip",
            "safetensors",
            ["float32"],
        )
        assert task.images is not None
        assert task.images.count == 6
        assert task.images.per_class == {f"{shape} {number}": 2 for shape in ("circle", "square", "star")}
        assert (task.images.duplicates, task.images.overlap) == (0, {"test": 0, "tune": 0})
        assert (task.head, task.classes) == ("text tower of the backbone", 3)


def test_merge_keeps_what_the_check_says_and_takes_as_many_bytes(sound: Path, report: CheckReport, tmp_path: Path) -> None:
    assert not report.refused
    model = merge(sound, tmp_path / "merged")
    told = [task.weights.explained_norm[RANK] for task in report.tasks if task.weights]
    assert [record.record["explained_norm"] for record in model.tasks] == pytest.approx(told, abs=1e-5)
    assert [record.record["warnings"] for record in model.tasks] == [[], [], []]
    export_bundle(tmp_path / "merged", tmp_path / "bundle", ExportOptions())
    size = report.sizes[0]
    written = sum(path.stat().st_size for path in (tmp_path / "merged").rglob("*") if path.is_file())
    bundle = sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*") if path.is_file())
    assert size.rank == RANK
    assert size.merged_model == pytest.approx(written, rel=0.1)
    deepest, there = model.layout.depths - 1, model.layout.of_stages(model.cascade())
    most = [model.layout.columns(None), model.layout.columns(deepest), model.layout.columns(deepest, embedding=True)]
    unread = sum(map(len, most)) - sum(map(len, there))  # features of a router that would read all blocks it may
    a_feature = 4 * len(model.tasks) * (1 + DIRECTIONS)
    assert unread >= 0
    # The graphs themselves weigh as much as a tower of this size.
    assert size.bundle - unread * a_feature == pytest.approx(bundle, rel=0.25)
    experts = [path.stat().st_size for path in (tmp_path / "merged" / "experts").iterdir()]
    assert experts == pytest.approx([size.expert] * 3, rel=0.1)  # with headers
    assert [size.rank for size in report.sizes] == [8, 16, 32, 64, 128]
    larger = report.sizes[1]
    more = larger.expert - size.expert
    assert (larger.merged_model - size.merged_model, larger.bundle - size.bundle) == (3 * more, 3 * more)
    assert larger.memory - size.memory == more


def test_of_many_blocks_some_are_decomposed_and_stand_for_all(
    sound: Path, report: CheckReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These tasks moved all blocks alike."""
    monkeypatch.setattr(weights, "MOST_WORK", 1.0)
    sampled = check(sound)
    assert sampled.spectrum_blocks == [1]
    for some, every in zip(sampled.tasks, report.tasks, strict=True):
        assert some.weights is not None
        assert every.weights is not None
        assert some.weights.explained_norm == pytest.approx(every.weights.explained_norm, rel=0.05)
        assert some.weights.movement == every.weights.movement
    lines = CliRunner().invoke(main, ["check", str(sound)]).output
    assert "sampled: of the blocks 1 and all layers outside" in " ".join(lines.split())


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_says_what_merge_says(task_file: Path, damage: Callable[[Path], None]) -> None:
    damage(task_file.parent)
    report = check(task_file)
    with pytest.raises(MingleError) as refused:
        merge(task_file, task_file.parent / "merged", device="cpu")
    assert report.refused
    assert str(refused.value).splitlines()[0] in [fault.message.splitlines()[0] for fault in report.faults]
    assert len(report.faults) == (3 if damage is damages.too_few_images else 1)


def test_all_faults_are_found_in_one_run(task_file: Path) -> None:
    folder = task_file.parent
    change(task_file, "[settings]", "[setings]\n[settings]")
    for damage in damages.SEVERAL:
        damage(folder)
    text = task_file.read_text()
    extra = ['[[task]]\nname = "task 3"\nweights = "nowhere"\nseeds = "nothing"\ntest = "nowhere/<class>/*"\nlearn = 1']
    extra += ['[[task]]\nname = "task4"\nweights = "task4.safetensors"\nseeds = "seeds/task0"\nclasses = ["a", "a"]']
    write_task(folder / "task4.safetensors", folder / "backbone.safetensors", seed=4)
    change_weights(folder / "task4.safetensors", lambda state: state["visual.proj"].__setitem__((1, 1), np.nan))
    task_file.write_text("\n\n".join([text, *extra]) + "\n")
    report = check(task_file)
    expected = [
        (None, "setings is not a known key"),
        (None, "there is no setting 'ranks'"),
        (None, "router_blocks is 9"),
        ("task0", "visual.proj (projection.weight) are NaN"),
        ("task1", "cannot be decoded"),
        ("task1", "missing     ln_post.bias"),
        ("task2", "damaged"),
        ("task 3", "name must be 1 to 64 letters"),
        ("task 3", "weights names"),
        ("task 3", "seeds names"),
        ("task 3", "test looks for class folders"),
        ("task 3", "learn is not a known key"),
        ("task4", "holds the class 'a' twice"),
        ("task4", "visual.proj (projection.weight) are NaN"),
    ]
    for task, words in expected:
        assert any(fault.task == task and words in fault.message for fault in report.faults), (task, words, report.faults)
    assert len(report.faults) == len(expected)
    assert [task.name for task in report.tasks][:3] == ["task0", "task1", "task2"]
    assert report.tasks[2].images is not None


def warned(report: CheckReport) -> list[tuple[str | None, str]]:
    return [(finding.task, finding.part) for finding in report.warnings]


def message(findings: list[Finding], words: str) -> str:
    return next(finding.message for finding in findings if words in finding.message)


def test_strange_tasks_are_warned_of_here_and_by_merge(task_file: Path) -> None:
    folder = task_file.parent
    write_open_clip(folder / "task1.safetensors", seed=9, visual_only=True)
    plain = {name: tensor for name, tensor in load_file(folder / "backbone.safetensors").items() if name.startswith("visual.")}
    save_file(plain, folder / "task2.safetensors")
    told: list[str] = []
    report = check(task_file)
    model = merge(
        task_file,
        folder / "merged",
        device="cpu",
        progress=lambda stage, done, total, detail="": told.append(detail) if stage == "warning" else None,
    )
    assert not report.refused
    assert warned(report) == [("task1", "checkpoint"), ("task2", "checkpoint")]
    assert "looks fine-tuned from another model" in report.warnings[0].message
    assert "has the very weights of the backbone" in report.warnings[1].message
    moved = report.tasks[1].weights
    assert moved is not None
    assert moved.linear_movement == pytest.approx(2**0.5, rel=0.05)
    messages = [finding.message for finding in report.warnings]
    assert told == messages
    assert [record.record["warnings"] for record in model.tasks] == [[], messages[:1], messages[1:]]


def test_what_is_strange_about_settings_and_images_is_a_warning(task_file: Path) -> None:
    folder = task_file.parent
    change(task_file, f"rank = {RANK}", f"rank = {WIDTH + 1}")
    shutil.copy(folder / "task0.safetensors", folder / "task2.safetensors")
    text = task_file.read_text().split("[[task]]")
    text[2] = re.sub(r"seeds = .*\nseeds_per_class = 2", 'seeds = "one"', text[2])
    text[3] = re.sub(r"seeds = .*\nseeds_per_class = 2", 'seeds = "copies"', text[3])
    task_file.write_text("[[task]]".join(text))
    write_images(folder / "one", count=1, seed=1)
    write_images(folder / "copies", count=4, seed=2)
    shutil.copy(folder / "copies" / "000.png", folder / "copies" / "again.png")
    shutil.copy(next((folder / "test" / "task2").rglob("*.png")), folder / "copies" / "tested.png")
    report = check(task_file)
    assert not report.refused
    assert "there is 1 only" in message(report.warnings, "a router learns nothing")
    assert message(report.warnings, "exact copies").startswith("1 of 6")
    assert message(report.warnings, "among the test images").startswith("1 of 6")
    assert "'task0' and task 'task2' have the very same weights" in message(report.warnings, "very same weights")
    assert f"rank {WIDTH + 1} is more than the tower's width, {WIDTH}" in message(report.warnings, "tower's width")
    assert len(report.warnings) == 5


def test_tasks_with_images_alike_are_those_that_the_router_confuses(task_file: Path) -> None:
    """Two tasks have images of the same colors, the third others."""
    folder = task_file.parent
    text = re.sub(r"seeds = .*\nseeds_per_class = 2", 'seeds = "SEEDS"', task_file.read_text()).split('"SEEDS"')
    task_file.write_text("".join(part + f'"seeds-{n}"' for n, part in enumerate(text[:-1])) + text[-1])
    for number, (seed, variant) in enumerate([(3, 1), (3, 2), (8, 3)]):
        write_images(folder / f"seeds-{number}", count=12, seed=seed, variant=variant)
    report = check(task_file)
    assert report.confusion is not None
    shares = np.array([report.confusion.routed[f"task{number}"] for number in range(3)])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares[2].tolist() == [0, 0, 1]
    assert shares[0, 2] == shares[1, 2] == 0
    assert shares[0, 1] + shares[1, 0] > 0.5
    assert {finding.task for finding in report.warnings if finding.part == "router"} <= {"task0", "task1"} != set()


def test_test_images_of_other_classes_are_no_fault(task_file: Path) -> None:
    """Merge does not look at them."""
    (task_file.parent / "test" / "task0" / "star 0").rename(task_file.parent / "test" / "task0" / "planet")
    report = check(task_file)
    assert not report.refused
    assert warned(report) == [("task0", "test images")]


def test_test_images_in_a_folder_without_classes_are_no_fault(task_file: Path) -> None:
    """Also where only the folder is named, which may hold class folders, splits or archives."""
    change(task_file, 'test = "test/task0/<class>/*.png"', 'test = "seeds/task0"')
    report = check(task_file)
    assert not report.refused
    assert warned(report) == [("task0", "test images")]
    change(task_file, 'test = "seeds/task0"', 'test = "test/task0"')
    assert warned(check(task_file)) == []


def test_an_automatic_rank_takes_images_to_choose_by_and_is_one_of_those_listed(task_file: Path) -> None:
    change(task_file, f"rank = {RANK}", 'rank = "auto"')
    report = check(task_file)
    assert warned(report) == [(f"task{number}", "calibration images") for number in range(3)]
    assert "6 calibration images are too few to choose its rank, which takes 10" in report.warnings[0].message
    assert [size.rank for size in report.sizes] == [4, 8, 16, 32, 64, 128]


def test_the_layer_scope_has_no_router_and_no_experts_outside_blocks(task_file: Path) -> None:
    change(task_file, f"rank = {RANK}", f'rank = {RANK}\nscope = "layer"\nlayers = "qkv+fc1"')
    report = check(task_file)
    assert report.confusion is None
    vectors = {n: v for n, v in task_vectors(task_file.parent, "task0").items() if re.fullmatch(r"blocks\.\d\.(q|k|v|fc1)", n)}
    assert report.tasks[0].weights is not None
    assert report.tasks[0].weights.explained_norm[RANK] == pytest.approx(explained(vectors, RANK))


def test_the_command_prints_all_and_exits_with_3_where_merge_would_refuse(task_file: Path) -> None:
    folder = task_file.parent
    arguments = ["check", str(task_file), "--json", str(folder / "check.json"), "--html", str(folder / "check.html")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "3 tasks, merge would take them, no warnings" in result.output
    damages.not_a_number(folder)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert "next: " not in result.output
    assert "fault: task0, checkpoint: " in result.output
    assert "merge would refuse them (1 fault)" in result.output
    assert CliRunner().invoke(main, ["check", str(folder / "nowhere.toml")]).exit_code == 3
    stored = json.loads((folder / "check.json").read_text())
    assert (stored["refused"], [fault["task"] for fault in stored["faults"]]) == (True, ["task0"])
    text = (folder / "check.html").read_text()
    check_alone(text)
    check_phone(body(text))
    assert "-0.00<" not in text
    faults, explained_norm = card(body(text), "Faults"), card(body(text), "Explained norm")
    assert faults is not None
    assert explained_norm is not None
    table = explained_norm.find(".//table")
    assert table is not None
    by_depth = card(body(text), "Movement by depth")
    assert by_depth is not None
    moved = stored["tasks"][2]["weights"]["movement"]
    last = list(by_depth.iter("table"))[-1]  # of the last task
    kinds = ("q", "k", "v", "out", "fc1", "fc2")
    assert rows(last) == {
        str(block): [f"{100 * moved[f'blocks.{block}.{kind}']:.1f}" for kind in kinds] for block in range(LAYERS)
    }
    norms = stored["tasks"][1]["weights"]["explained_norm"]
    assert rows(table)["task1"] == [f"{100 * norms[rank]:.1f}" if norms[rank] < 0.9995 else "100" for rank in norms]


def test_memory_holds_one_parameter_of_all_tasks_and_no_tower(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor that was read is gone before the next parameter but one is read."""
    import weakref

    from mingle_edge.checkpoints import Checkpoint

    alive: list[tuple[str, weakref.ref[torch.Tensor]]] = []
    most = 0
    read = Checkpoint.tensor

    def counted(self: Checkpoint, name: str) -> torch.Tensor:
        nonlocal most
        tensor = read(self, name)
        alive.append((name, weakref.ref(tensor)))
        most = max(most, len({held for held, reference in alive if reference() is not None}))
        return tensor

    monkeypatch.setattr(Checkpoint, "tensor", counted)
    monkeypatch.setattr("mingle_edge.checking.inputs_check.router_confusion", lambda *arguments: None)
    check(sound)
    assert most <= 2
