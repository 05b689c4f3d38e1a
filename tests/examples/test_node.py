"""The example for Node, against the answers of the runtime for Python."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from answers import TOP, assert_python_s
from javascript import EXAMPLES, node
from kinds import KINDS, LOSSLESS
from PIL import Image

CLASSIFY = EXAMPLES / "node/classify.mjs"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_python_s(exported, fifty, kind: str) -> None:
    output, _ = node(CLASSIFY, "--json", "--top", TOP, "--threads", 1, exported(kind), *fifty)
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["image"] for answer in answers] == list(map(str, fifty))
    assert_python_s(answers, exported(kind), fifty, 0.99999 if kind in LOSSLESS else 0.999)


def test_the_pictures_take_every_route_and_several_labels(exported, fifty) -> None:
    output, _ = node(CLASSIFY, "--json", exported("image-fp32"), *fifty)
    answers = [json.loads(line) for line in output.splitlines()]
    assert len({tuple(answer["route"]["tasks"]) for answer in answers}) == 4  # each task's, and the plain backbone
    assert len({(answer["task"], answer["label"]) for answer in answers}) >= 5


@pytest.mark.parametrize("kind", ["image-fp32", "layer-fp32"])
@pytest.mark.parametrize("named", [{"task": "task2"}, {"head": "task0"}])
def test_a_task_or_a_head_can_be_named(exported, fifty, kind: str, named: dict[str, str]) -> None:
    options = [part for name, value in named.items() for part in (f"--{name}", value)]
    output, _ = node(CLASSIFY, "--json", "--top", TOP, *options, exported(kind), *fifty[:6])
    assert_python_s([json.loads(line) for line in output.splitlines()], exported(kind), fifty[:6], 0.99999, **named)


def test_a_budget_of_one_expert_changes_no_answer_and_holds(exported, fifty) -> None:
    bundle = exported("image-fp32")
    size = max(path.stat().st_size for path in (bundle / "experts").iterdir())
    mixed = [image for pair in zip(fifty[20:26], fifty[26:32], strict=True) for image in pair]
    free, tight = (
        node(CLASSIFY, "--top", 1, *budget, bundle, *mixed)[0].splitlines() for budget in ([], ["--budget", f"{size}B"])
    )
    assert [line.rpartition(",")[0] for line in tight[:-1]] == [line.rpartition(",")[0] for line in free[:-1]]  # but for times
    _, misses, resident = re.match(r"experts: (\d+) hits, (\d+) misses, ([\d.]+) MB resident", tight[-1]).groups()
    assert int(misses) > int(re.search(r"(\d+) misses", free[-1])[1])
    assert float(resident) <= round(size / 1e6, 1)


def test_a_broken_image_costs_the_others_nothing(exported, fifty, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    whole = (fifty[0].read_bytes(), fifty[-1].read_bytes())
    (tmp_path / "cut.png").write_bytes(whole[1][: len(whole[1]) // 2])
    Image.new("I;16", (40, 40)).save(tmp_path / "deep.png")
    Image.new("CMYK", (40, 40)).save(tmp_path / "cmyk.jpg")
    broken = [tmp_path / name for name in ("missing.png", ".", "text.png", "cut.png", "deep.png", "cmyk.jpg")]
    output, errors = node(CLASSIFY, "--json", exported("folded"), broken[0], fifty[0], *broken[1:], fifty[1], status=1)
    assert [json.loads(line)["image"] for line in output.splitlines()] == list(map(str, fifty[:2]))
    reasons = ["there is no such file", "it is a folder", "is no image of a format", "is broken", "more than 8 bits", "in CMYK"]
    for line, path, reason in zip(errors.splitlines(), broken, reasons, strict=True):
        assert line.startswith(f"error: {path} cannot be read as an image: ")
        assert reason in line
    assert node(CLASSIFY, "--json", exported("folded"), *broken, status=3)[0] == ""


def test_what_is_wrong_is_one_line_and_an_exit_code(exported, fifty, tmp_path) -> None:
    bundle, image = exported("image-fp32"), fifty[0]
    for arguments, status, message in [
        ([], 2, "name a bundle and at least one image"),
        (["--top", "0", bundle, image], 2, "--top must be a whole number"),
        (["--budget", "some", bundle, image], 3, '"some" is no number of bytes: write 64MB'),
        (
            ["--budget", "1KB", bundle, image],
            3,
            "an expert budget of 1000 bytes is too small: the largest experts of one image",
        ),
        (["--budget", "1KB", exported("layer-fp32"), image], 3, "in the layer scope all experts are in memory here"),
        (["--bogus", bundle, image], 2, "Unknown option '--bogus'"),
        (["--task", "nothing", bundle, image], 3, 'there is no task "nothing" in the bundle, which has task0, task1, task2'),
        ([tmp_path, image], 3, "bundle.json does not exist: name a folder that `mingle-edge export` wrote"),
    ]:
        _, errors = node(CLASSIFY, *arguments, status=status)
        assert message in errors
        assert errors.startswith("error: ")
        assert len(errors.splitlines()) == (2 if status == 2 else 1)


def test_help_is_no_error() -> None:
    output, errors = node(CLASSIFY, "--help")
    assert (output.startswith("usage: node classify.mjs"), errors) == (True, "")


@pytest.mark.parametrize("name", ["backbone.bin", "tower_required_inputs.onnx", "router.onnx", "heads/task1.npy"])
def test_a_changed_file_is_refused(exported, fifty, tmp_path, name: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported("image-fp32"), bundle)
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    _, errors = node(CLASSIFY, bundle, fifty[0], status=4)
    assert (
        errors == f"error: {name} has another sha256 than bundle.json says: it is damaged or of another bundle, copy it again\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format_version=6), "format_version is 6, this reads 7"),
        (lambda index: index.pop("tower_required_inputs"), "has no tower for JavaScript"),
        (lambda index: index["files"].update({"../x": {"size": 1, "sha256": "0" * 64}}), "stay inside the bundle"),
        (lambda index: index["tasks"][0].update(head="other.npy"), "tasks[0]: other.npy is not in files"),
        (lambda index: index["tasks"][1].update(name="TASK0"), "two tasks have the same name"),
        (lambda index: index.update(top_k=4), "top_k must be from 1 to 3"),
    ],
)
def test_an_index_that_breaks_a_rule_is_refused(exported, fifty, tmp_path, change, message: str) -> None:
    index = json.loads((exported("image-fp32") / "bundle.json").read_text())
    shutil.copytree(exported("image-fp32"), tmp_path / "bundle")
    change(index)
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(index))
    _, errors = node(CLASSIFY, tmp_path / "bundle", fifty[0], status=4)
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_an_adapter_that_does_not_fit_is_refused(exported, fifty, tmp_path) -> None:
    bundle, other = tmp_path / "bundle", exported("image-int8")
    shutil.copytree(exported("image-fp32"), bundle)
    index, others = (json.loads((folder / "bundle.json").read_text()) for folder in (bundle, other))
    for i, task in enumerate(index["tasks"]):  # codes of 8 bits, for a tower of floating experts
        shutil.copy(other / task["expert"], bundle / task["expert"])
        index["files"][task["expert"]] = others["files"][task["expert"]]
        task["expert_bytes"] = others["tasks"][i]["expert_bytes"]
    (bundle / "bundle.json").write_text(json.dumps(index))
    _, errors = node(CLASSIFY, "--task", "task0", bundle, fifty[0], status=4)
    assert "which the tower does not take" in errors
