"""The comparison against plain loops, against itself interrupted, and on Ray against one process."""

import dataclasses
import json
import random
import re
import shutil

import numpy as np
import pytest
import ray
import tiny_clip
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from tiny_compared import TinyComparison

from mingle_edge.cli import main
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.comparison import execution
from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.compare import ComparisonOptions, compare, task_orders, tuning_order
from mingle_edge.comparison.entries import ABLATIONS, parse_entries, with_ablations
from mingle_edge.comparison.kept_cells import KeptCells
from mingle_edge.comparison.material import Material
from mingle_edge.comparison.registry import DEFAULT, SPECS, TRIALS
from mingle_edge.comparison.results import Finished, between_tasks, method_figures, steps, summarize
from mingle_edge.core.errors import ComparisonError
from mingle_edge.core.progress import silent
from mingle_edge.data.corruptions import Corruption

PLAN = ComparisonOptions("weight-averaging,ties,image", orders=2, tune=True, parallel=False, device="cpu")


@pytest.fixture(scope="session")
def compared_file(tmp_path_factory):
    """Three tiny tasks with test and validation images and a pool of seeds."""
    return tiny_clip.write_task_file(tmp_path_factory.mktemp("compared"), tasks=3, tune=True, rank=8)


@pytest.fixture(scope="session")
def compared(compared_file, tmp_path_factory):
    """A comparison, and the folder it is in."""
    folder = tmp_path_factory.mktemp("comparison")
    return compare(compared_file, folder, PLAN), folder


def timeless(results):
    """Results without what differs from run to run."""
    kept = json.loads(json.dumps({key: value for key, value in results.items() if key != "seconds"}))
    for method in kept["methods"].values():
        for key in ("latency_ratio", "seconds_per_task"):
            method.pop(key, None)
    return kept


def averaged_accuracies(tiny, order):
    """Accuracy of running averages `[step, task]` under P1 and P3, by a plain loop over images."""
    tasks = {task.name: task for task in tiny.tasks}
    table = {p: np.full((len(order) + 1, len(order)), np.nan) for p in ("P1", "P3")}
    for step in range(len(order) + 1):
        towers = [tasks[name].finetuned for name in order[:step]] or [tiny.backbone]
        merged = {name: torch.stack([tower[name] for tower in towers]).mean(0) for name in tiny.backbone}
        for column, name in enumerate(order):
            right = {"P1": [], "P3": []}
            for image, label in zip(tiny.batches[name].images, tiny.labels[name].tolist(), strict=True):
                embeds = F.normalize(embed_images(image[None], merged, tiny.architecture), dim=-1)[0]
                right["P1"].append(int((tasks[name].head.weight @ embeds).argmax()) == label)
                if column < step:
                    scores = [float(row @ embeds) for t in order[:step] for row in tasks[t].head.weight]
                    right["P3"].append(int(np.argmax(scores)) == 3 * column + label)
            for protocol, of_images in right.items():
                table[protocol][step, column] = 100 * np.mean(of_images) if of_images else np.nan
    return table


def test_orders_are_shuffles_by_the_rule_of_the_paper():
    names = [f"t{i}" for i in range(8)]
    for i, order in enumerate(task_orders(names, 10, 42)):
        expected = list(names)
        random.seed(42 + i)
        random.shuffle(expected)
        assert order == expected
    assert tuning_order(names, 42) not in task_orders(names, 10, 42)


def test_averaging_equals_a_plain_loop_in_every_state(compared, compared_file):
    results, _ = compared
    tiny = TinyComparison(compared_file)
    tables = [averaged_accuracies(tiny, order) for order in results["orders"]]
    figures = results["accuracy"]["weight-averaging"]
    for protocol in ("P1", "P3"):
        final = [table[protocol][-1].mean() for table in tables]
        own = [np.diag(table[protocol][1:]) for table in tables]
        lost = [(table[protocol][-1] - o)[:-1].mean() for table, o in zip(tables, own, strict=True)]
        assert figures[protocol]["acc"] == pytest.approx(np.mean(final))
        assert figures[protocol]["acc_std"] == pytest.approx(np.std(final, ddof=1))
        assert figures[protocol]["bwt"] == pytest.approx(np.mean(lost))
        assert figures[protocol]["bwt_std"] == pytest.approx(np.std(lost, ddof=1))
        curve = np.mean([[row[: t + 1].mean() for t, row in enumerate(table[protocol][1:])] for table in tables], axis=0)
        assert results["steps"]["weight-averaging"][protocol]["mean"] == pytest.approx(curve)
    gained = [(np.diag(table["P1"][:-1]) - table["P1"][0])[1:].mean() for table in tables]
    assert figures["P1"]["fwt"] == pytest.approx(np.mean(gained))
    assert results["accuracy"]["pretrained"]["P1"]["acc"] == pytest.approx(tables[0]["P1"][0].mean())


def test_the_references_are_always_there_and_individual_forgets_nothing(compared):
    results, _ = compared
    assert list(results["methods"]) == ["pretrained", "individual", "weight-averaging", "ties", "image"]
    assert results["accuracy"]["individual"]["P1"]["bwt"] == 0
    assert results["failed"] == []


def test_tuning_tries_as_often_for_every_method_and_takes_the_best(compared):
    results, _ = compared
    tried = {label: method["tuning"] for label, method in results["methods"].items() if SPECS[method["method"]].grid}
    assert "ties" in tried
    for tuning in tried.values():
        assert len(tuning["trials"]) == 5
        best = max(trial["acc"] for trial in tuning["trials"])
        assert next(t for t in tuning["trials"] if t["acc"] == best)["parameters"] == tuning["chosen"]


def test_a_finished_comparison_computes_nothing_again(compared, compared_file, monkeypatch):
    results, folder = compared
    monkeypatch.setattr(execution, "run_cell", None)
    again = compare(compared_file, folder, PLAN)
    assert timeless(again) == timeless(results)
    more = compare(compared_file, folder, ComparisonOptions("image", orders=1, parallel=False, device="cpu"))
    assert more["failed"] == []
    assert json.loads((folder / "results.json").read_text()) == more


def test_a_damaged_cell_and_a_changed_image_are_computed_again(compared_file, tmp_path):
    copy = tmp_path / "tasks"
    shutil.copytree(compared_file.parent, copy)
    file, plan = copy / compared_file.name, ComparisonOptions("pretrained", orders=1, parallel=False, device="cpu")
    folder = tmp_path / "out"
    results = compare(file, folder, plan)
    assert len(list((folder / "cells").iterdir())) == 2
    kept = KeptCells(folder / "cells")
    for path in (folder / "cells").iterdir():
        path.write_text(path.read_text()[:-20])
        assert kept.load(path.stem) is None
    assert timeless(compare(file, folder, plan)) == timeless(results)
    image = next((copy / "test" / "task0").rglob("*.png"))
    shutil.copy(next((copy / "test" / "task1").rglob("*.png")), image)
    compare(file, folder, plan)
    assert len(list((folder / "cells").iterdir())) == 4


def test_a_cell_that_fails_is_named_costs_no_other_and_is_tried_again(compared_file, tmp_path):
    plan = ComparisonOptions("image(rank=0),weight-averaging", orders=1, parallel=False, device="cpu")
    for _ in range(2):
        results = compare(compared_file, tmp_path, plan)
        (failed,) = results["failed"]
        assert failed["method"] == "image(rank=0)"
        assert "rank must be at least 1" in failed["error"]
        assert set(results["accuracy"]) == {"pretrained", "individual", "weight-averaging"}


def test_on_ray_a_dead_worker_costs_its_cell_alone_and_all_others_are_the_same(compared, compared_file, tmp_path, monkeypatch):
    def work(source, cell):
        import os

        from mingle_edge.comparison import execution

        if cell.method == "individual":
            os._exit(1)
        return execution._work(source, cell)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_work", work)
        try:
            results = compare(compared_file, tmp_path, dataclasses.replace(PLAN, parallel=True))
        finally:
            ray.shutdown()
    assert {failed["method"] for failed in results["failed"]} == {"individual"}
    assert "individual" not in results["accuracy"]
    computed = []
    run_cell = execution.run_cell
    monkeypatch.setattr(execution, "run_cell", lambda cell, *others: computed.append(cell.method) or run_cell(cell, *others))
    completed = compare(compared_file, tmp_path, PLAN)
    assert set(computed) == {"individual"}
    assert timeless(completed) == timeless(compared[0])


def test_an_address_without_a_cluster_is_refused(compared_file, tmp_path):
    with pytest.raises(ComparisonError, match=r"address '127.0.0.1:1': no Ray cluster answers"):
        compare(compared_file, tmp_path, ComparisonOptions(orders=1, address="127.0.0.1:1"))


def test_corrupted_images_are_reported_beside_the_clean_ones(compared_file, tmp_path):
    changes = {"orders": 1, "tune": False, "corruptions": (Corruption("contrast", 5),), "step_images": 0}
    results = compare(compared_file, tmp_path, dataclasses.replace(PLAN, methods="weight-averaging", **changes))
    assert set(results["corrupted"]["weight-averaging"]) == {"contrast"}
    assert set(results["corrupted"]["weight-averaging"]["contrast"]) == {"P1", "P2", "P3"}
    assert results["steps"] == {}


def test_seeds_that_are_test_images_are_refused_and_listed(compared_file, tmp_path):
    copy = tmp_path / "tasks"
    shutil.copytree(compared_file.parent, copy)
    for index, name in enumerate(("task0", "task2")):
        image = next((copy / "test" / name).rglob("*.png"))
        for target in sorted((copy / "pool" / name).rglob(f"00{index}.png")):
            shutil.copy(image, target)
    with pytest.raises(ComparisonError, match=r"\d seed images are also test images \(.*pool.* = .*test.*\), so"):
        compare(copy / compared_file.name, tmp_path / "out", ComparisonOptions(orders=1, parallel=False))
    assert not (tmp_path / "out").exists()


def test_seeds_by_class_are_drawn_for_a_method_alone(compared_file):
    material = Material.open(compared_file, seed=1, seeds_per_class=(1, 3), progress=silent)
    assert [len(material.calibration_images("task1", n)) for n in (None, 1, 3)] == [6, 3, 9]
    one, two, three = (set(material.calibration_images("task1", n).paths) for n in (1, None, 3))
    assert one < two < three


def test_tuning_without_validation_images_is_refused(task_file, tmp_path):
    with pytest.raises(ComparisonError, match=r"task 'task0' has none; add tune = \"dir/<class>/\*.png\""):
        compare(task_file, tmp_path, ComparisonOptions(tune=True))


def test_seeds_of_a_plain_folder_cannot_be_drawn_by_class(task_file, tmp_path):
    with pytest.raises(ComparisonError, match="3 seeds per class cannot be drawn from 'seeds/task0'"):
        compare(task_file, tmp_path, ComparisonOptions("image(seeds_per_class=3)", parallel=False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tie", "there is no method 'tie'; did you mean 'ties'"),
        ("frobnicate", "there is no method 'frobnicate'; the methods are pretrained, individual"),
        ("mingle(step=3)", "mingle has no parameter 'step'; did you mean 'steps'"),
        ("mingle(steps)", "mingle has no parameter 'steps'"),
        ("mingle(steps=many,", "cannot be read; write names with parameters in parentheses"),
        ("mingle(steps=[1])", "steps is [1], and must be of the kind of 50"),
        ("ties(keep=20)", "ties: keep is 20, and must be a number from 0 to 1"),
        ("opcm(share=half)", "opcm: share is half, and must be a number from 0 to 1"),
        ("image(seeds_per_class=-1)", "seeds_per_class is -1, and must be a whole number"),
        (" ", "none is named"),
    ],
)
def test_what_cannot_be_compared_is_named(text, message):
    with pytest.raises(ComparisonError, match=re.escape(message)):
        parse_entries(text, SPECS, 8, {})


def test_parameters_are_published_then_of_the_file_then_written():
    plain, written = parse_entries("mingle, mingle(rank=4 , relaxation=2)", SPECS, 8, {"rank": 24})
    assert (plain.label, plain.parameters["rank"], plain.given) == ("mingle", 24, {})
    assert (written.label, written.parameters["rank"]) == ("mingle(rank=4,relaxation=2.0)", 4)
    assert isinstance(written.parameters["relaxation"], float)
    assert len(parse_entries("ties,ties", SPECS, 8, {})) == 1


def test_the_default_and_every_ablation_can_be_read():
    for text in (DEFAULT, *ABLATIONS.values()):
        assert parse_entries(text, SPECS, 20, {})
    assert with_ablations(None, ()) == DEFAULT
    assert with_ablations("ties", ("steps",)) == f"ties,{ABLATIONS['steps']}"
    with pytest.raises(ComparisonError, match="there is no ablation 'step'; did you mean 'steps'"):
        with_ablations(None, ("step",))


def test_every_method_is_tuned_with_the_same_effort_and_its_published_parameters_among_what_is_tried():
    untuned = {"pretrained", "individual", "weight-averaging", "image", "image-weighted", "image-low-rank-only"}
    untuned |= {"tsv-compress", "tvq", "rtvq", "image-truncated", "image-int8", "image-int4"}  # nothing but bytes to choose
    untuned |= {"image-nearest", "image-final-rda"}
    assert {name for name, spec in SPECS.items() if not spec.grid} == untuned
    for name in SPECS.keys() - untuned:
        for tasks in (8, 14, 20):
            published = SPECS[name].published(tasks)
            tried = [published | change for change in SPECS[name].grid]
            assert all(parameters.keys() == published.keys() for parameters in tried)
            assert published in tried
            assert len({tuple(sorted(parameters.items())) for parameters in tried}) == len(tried) == TRIALS


def test_figures_of_a_known_history():
    def finished(order, rows):
        accuracy = dict.fromkeys(("P1", "P2", "P3"), rows)
        routes = [[90.0, 5.0, 5.0], [20.0, 70.0, 10.0]]
        return Finished(Cell("x", "ties", {}, order, 0), CellResult(accuracy, [1.0, 2.0], routes=routes))

    cells = [
        finished(("a", "b"), [[10.0, None], [80.0, 30.0], [60.0, 90.0]]),
        finished(("b", "a"), [[20.0, None], [70.0, 14.0], [72.0, 50.0]]),
    ]
    summary = summarize(cells, {"a": 10.0, "b": 20.0})["P1"]
    assert summary["acc"] == (75 + 61) / 2
    assert summary["bwt"] == (-20 + 2) / 2
    assert summary["fwt"] == (10 + 4) / 2
    assert summary["acc_std"] == pytest.approx(14 / np.sqrt(2))
    assert steps(cells)["P1"]["mean"] == [75.0, 68.0]
    # In the order a, b: the second cell's rows and columns change places, the plain backbone stays last.
    assert between_tasks(cells, ["a", "b"], lambda r: r.routes) == [[80.0, 12.5, 7.5], [12.5, 80.0, 7.5]]


def test_times_are_given_in_the_plain_backbones_which_is_1_whatever_noise_it_was_measured_with():
    def latency(method):
        results = [CellResult({}, [1.0], latency_ratio=measured) for measured in (1.07, 1.04, 1.3)]
        return method_figures([Finished(Cell(method, method, {}, ("a",), 0), result) for result in results])["latency_ratio"]

    assert latency("pretrained") == 1
    assert latency("ties") == 1.07


def test_the_command_writes_the_report_and_names_failures(compared_file, tmp_path):
    done = CliRunner().invoke(
        main, ["compare", str(compared_file), "-o", str(tmp_path), "--methods", "ties", "--orders", "1", "--no-ray"]
    )
    assert done.exit_code == 0, done.output
    assert "ties" in done.output
    assert {path.name for path in tmp_path.iterdir()} >= {"results.json", "results.csv", "report.html", "cells"}
    assert json.loads((tmp_path / "results.json").read_text())["machine"]["device"] in ("cpu", "cuda")
    failed = CliRunner().invoke(
        main, ["compare", str(compared_file), "-o", str(tmp_path), "--methods", "image(rank=0)", "--orders", "1", "--no-ray"]
    )
    assert failed.exit_code == 1
    assert "failed: image(rank=0), order" in failed.output


def test_the_command_lists_methods_and_refuses_unknown_ones(compared_file, tmp_path):
    listed = CliRunner().invoke(main, ["compare", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in (*SPECS, *ABLATIONS))
    wrong = CliRunner().invoke(main, ["compare", str(compared_file), "-o", str(tmp_path), "--methods", "mingel"])
    assert wrong.exit_code == 3
    assert wrong.output.startswith("error: methods: there is no method 'mingel'; did you mean 'mingle'?")
