"""`mingle-edge card`: what the hub and PyYAML read of it, where its figures come from, and what it leaves to a person."""

from __future__ import annotations

import json
import re
from pathlib import Path

import markdown
import pytest
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from tiny_bundle import TASKS, Weights, rewrite, write_image_bundle, write_layer_bundle
from tiny_cascade import write_cascade_bundle

from mingle_edge.card.card import model_card
from mingle_edge.cli import main
from mingle_edge_runtime import Bundle

ACCURACY = {"P1": [80.0, 85.5, 90.25], "P2": [91.0, 92.0, 93.0], "P3": [70.0, 75.0, 80.0]}
REPORT = {"tasks": [*reversed(TASKS)], "final": ACCURACY, "images": [10, 20, 30], "own_route": [99.0, 98.0, 97.0]}
"""As `evaluate --json` writes it, in another order than the bundle's."""


@pytest.fixture
def evaluation(tmp_path) -> Path:
    """The report's file."""
    (tmp_path / "evaluation.json").write_text(json.dumps(REPORT | {"summary": {}, "router_blocks": 0, "unclaimed": [0, 0, 0]}))
    return tmp_path / "evaluation.json"


def call(*arguments: object) -> Result:
    """Run `mingle-edge card`."""
    return CliRunner().invoke(main, ["card", *map(str, arguments)])


def head(text: str) -> dict:
    """What PyYAML reads between the two rules."""
    return yaml.safe_load(text.split("---\n")[1])


def rows(text: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section."""
    lines = text.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    return [line.strip("|").replace("**", "").split("|") for line in lines if line.startswith("|")]


def test_the_hub_reads_what_was_measured(image_bundle, evaluation) -> None:
    text = model_card(image_bundle, evaluation)
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.library_name == "mingle-edge"
    assert card.data.pipeline_tag == "image-classification"
    assert {"onnx", "onnxruntime"} <= set(card.data.tags)
    assert card.data.model_name == image_bundle.name
    measured = {(r.dataset_type, r.metric_name): (r.metric_type, r.metric_value) for r in card.data.eval_results}
    assert len(measured) == 9
    for task, value in zip(REPORT["tasks"], ACCURACY["P2"], strict=True):
        assert measured[task, "Accuracy in percent, task told (P2)"] == ("accuracy", value)
    assert yaml.safe_load(str(card.data)) == head(text) == card.data.to_dict()
    accuracy = rows(text, "Accuracy")
    assert [cell.strip() for cell in accuracy[2]] == ["red", "30", "90.2", "93.0", "80.0", "97.0"]
    assert [cell.strip() for cell in accuracy[-1]] == ["mean of the tasks", "", "85.2", "92.0", "75.0", ""]
    assert "at least 97.0% were routed to it" in text


@pytest.mark.parametrize("write", [write_image_bundle, write_cascade_bundle, write_layer_bundle])
def test_a_bundle_alone_says_what_it_is_and_guesses_nothing(tmp_path, write) -> None:
    text = model_card(write(tmp_path / "sorter", Weights()))
    index = Bundle.open(tmp_path / "sorter").index
    data = head(text)
    assert not {"license", "base_model", "datasets", "model-index"} & set(data)
    assert all(f"# FILL IN {name}: " in text for name in ("license", "base_model", "datasets"))
    assert len(re.findall(r"^- \*\*.*: FILL IN$", text, re.M)) == 6
    assert "## Accuracy\nFILL IN: no labeled test images were given." in text
    assert 'EdgeModel.open("sorter")' in text
    assert f"ONNX Runtime {index.minimum_onnxruntime} or newer" in text
    assert [row[0].strip() for row in rows(text, "Tasks and labels")[2:]] == list(TASKS)
    for task in index.tasks:
        assert f"<summary>{task.name}: 4 labels</summary>\n\n{', '.join(task.labels)}\n" in text
        assert f"| {task.name} | `{index.source.tasks[task.name]}` |" in text
    assert index.source.backbone_sha256 in text
    assert Bundle.open(tmp_path / "sorter").digest in text
    told = ("The router sees how an image looks", "an image of no task may be claimed", "Images that the router is in doubt of")
    assert [sentence in text for sentence in told] == [index.scope == "image"] * len(told)
    assert ("two experts" in text) == (write is write_cascade_bundle)
    assert "Nothing calibrates the probabilities of labels" in text


def test_a_profile_of_the_bundle_is_shown_and_one_of_another_is_refused(profile_of, bundles, tmp_path) -> None:
    report = profile_of("image")[0]
    (tmp_path / "profile.json").write_text(json.dumps(report.to_json()))
    text = model_card(bundles["image", 1], profile=tmp_path / "profile.json")
    cells = {row[0].strip(): float(row[1]) for row in rows(text, "Size and speed")[2:]}
    assert cells["one image, the task told"] == pytest.approx(1e3 * report.latency["named"].p50, rel=0.01)
    assert f"ONNX Runtime {report.machine.onnxruntime}, 1 thread;" in text
    assert ("**Beware: the machine was busy" in text) == bool(report.busy)
    result = call(bundles["image", 2], "--profile", tmp_path / "profile.json")
    assert result.exit_code == 3
    assert "profile.json is of another bundle, " in result.stderr


def test_names_are_shown_and_obeyed_by_nobody(bundle) -> None:
    evil = "a|b](http://x.test) <script>alert(1)</script> `*_# ---"

    def rename(record: dict) -> None:
        record["tasks"][0]["labels"][0] = evil
        record["producer"]["x"] = evil

    rewrite(bundle, rename)
    text = model_card(bundle)
    assert ModelCard(text).data.library_name == "mingle-edge"
    page = markdown.markdown(text.split("---\n", 2)[2], extensions=["tables"])
    assert "<script" not in page
    assert "<a " not in page
    assert "b](http://x.test) &lt;script&gt;alert(1)&lt;/script&gt; `*_# ---" in page  # of the producer
    assert r"a\|b\](http://x.test) &lt;script&gt;alert(1)&lt;/script&gt; \`\*\_\# ---, red 1" in text  # of the label


def test_the_command_writes_a_file_or_prints(image_bundle, tmp_path) -> None:
    printed = call(image_bundle)
    assert (printed.exit_code, printed.stdout) == (0, model_card(image_bundle))
    result = call(image_bundle, "-o", tmp_path / "README.md")
    assert result.stdout == f"card: {tmp_path}/README.md, with 10 places marked FILL IN, which only you can know\n"
    assert (tmp_path / "README.md").read_text() == model_card(image_bundle)
    again = call(image_bundle, "-o", tmp_path / "README.md")
    assert again.exit_code == 3
    assert "README.md exists, and may hold what somebody filled in; name another file, or take it away" in again.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["x", "green", "blue"]}, "is of the tasks x, green, blue, and the bundle also has red; evaluate the merged"),
        (
            {"images": [1]},
            "is no report of an evaluation: a column has not one figure for each task; write one with `ming",
        ),
        ({"final": {"P1": [1, 2, 3]}}, "a column has not one figure for each task"),
        ({"final": 3}, "is no report of an evaluation: final must be an object, is 3; write one with"),
        ("{", "is not valid JSON: "),
        (None, "does not exist"),
    ],
)
def test_what_is_no_evaluation_of_it_is_refused(image_bundle, evaluation, change: dict | str | None, message: str) -> None:
    evaluation.unlink()
    if change is not None:
        evaluation.write_text(change if isinstance(change, str) else json.dumps(REPORT | change))
    result = call(image_bundle, "--evaluation", evaluation)
    assert result.exit_code == 3
    assert f"error: {evaluation} " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_what_is_no_bundle_is_named(tmp_path) -> None:
    (tmp_path / "TASKS.toml").touch()
    assert "TASKS.toml is a task file, and card needs a bundle there" in call(tmp_path / "TASKS.toml").stderr
    assert call(tmp_path / "gone").exit_code == 3
