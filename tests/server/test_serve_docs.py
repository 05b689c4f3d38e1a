"""docs/serve.md says what the server does: its examples run, and its tables are the server's."""

from __future__ import annotations

import inspect
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from running_server import image_input, png, running
from tiny_bundle import images

from mingle_edge.cli import main
from mingle_edge_runtime import EdgeModel
from mingle_edge_server import Limits, serve
from mingle_edge_server.protocol.outputs import OUTPUTS

PAGE = (Path(__file__).parents[2] / "docs/serve.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.S)


def column(title: str, header: str) -> list[str]:
    """The code in the first column of the table that begins with this header."""
    table = section(title).split(f"\n| {header} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `([^`]+)`", table, re.M)


@pytest.fixture(scope="module")
def served(model):
    with running(model, name="bundle") as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, image in zip(("leaf.jpg", "digit.png"), images(0, 1), strict=True):
        (tmp_path / name).write_bytes(png(image))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_of_tritonclient_runs_as_it_is_written(served, folder, model, capsys) -> None:
    (example,) = blocks("Ask with tritonclient", "python")
    assert "localhost:8000" in example
    exec(example.replace("localhost:8000", served.address), {})
    printed = capsys.readouterr().out
    for prediction in model.classify(["leaf.jpg", "digit.png"], top=3):
        assert all(label in printed for label in prediction.labels)
    assert printed.endswith("(2, 16)\n")


def test_the_example_of_curl_sends_what_the_server_reads(served, folder, model) -> None:
    (example,) = blocks("Ask with curl", "sh")
    send, curl = example.split("| curl ")
    assert curl == "--data-binary @- localhost:8000/v2/models/bundle/infer\n"
    body = subprocess.run(["sh", "-c", send], capture_output=True, check=True).stdout
    reply = served.ask("POST", "/v2/models/bundle/infer", body, {"Content-Type": "application/x-www-form-urlencoded"})
    (prediction,) = model.classify("leaf.jpg", top=3)
    assert reply.json["outputs"][0]["data"] == list(prediction.labels)


def test_the_example_of_python_names_arguments_that_there_are() -> None:
    (example,) = blocks("From Python", "python")
    (call,) = re.findall(r"^serve\((.*)\)$", example, re.M)
    assert set(re.findall(r"(?<![(\w])(\w+)=", call.replace("Limits(queue=8)", ""))) <= set(inspect.signature(serve).parameters)


def test_inputs_outputs_and_parameters_are_those_of_the_server(served) -> None:
    metadata = served.ask("GET", "/v2/models/bundle").json
    assert column("Inputs, parameters, outputs", "input") == [tensor["name"] for tensor in metadata["inputs"]]
    assert column("Inputs, parameters, outputs", "output") == list(OUTPUTS)
    for name, output in OUTPUTS.items():
        assert re.search(rf"^\| `{name}` \| {output.datatype} \| \[n(, {output.side})?\]", PAGE, re.M)
    unknown = served.ask("POST", "/v2/models/bundle/infer", b'{"parameters": {"x": 1}}').json["error"]
    named = unknown.rpartition("there are ")[2].split(", ")
    assert column("Inputs, parameters, outputs", "parameter") == [name for name in named if name != "binary_data_output"]


def test_every_path_is_there(served) -> None:
    for entry in column("Endpoints", "path"):
        method, path = entry.split()
        status = served.ask(method, path.replace("MODEL", "bundle"), b"{}" if method == "POST" else None).status
        assert status == (400 if path.endswith("/infer") else 200), entry


def test_the_limits_are_those_of_the_server() -> None:
    rows = re.findall(r"^\|[^|]+\| ([^|]+) \|([^|]*)\| `(\w+)` \|$", section("Limits"), re.M)
    assert [name for _, _, name in rows] == [field.name for field in fields(Limits)]
    words = {"16 MiB": 16 << 20, "50 million": 50_000_000}
    assert [words.get(value) or int(value) for value, _, _ in rows] == [field.default for field in fields(Limits)]
    options = CliRunner().invoke(main, ["serve", "--help"]).output
    assert all(option.strip(" `") in options for _, option, _ in rows)


def test_the_metrics_are_those_of_the_server(image_bundle) -> None:
    record, content = image_input(png(images(0)[0]))
    with EdgeModel.open(image_bundle, threads=1, expert_budget="1MB") as model, running(model) as server:
        server.infer(record, content)
        families = list(text_string_to_metric_families(server.ask("GET", "/metrics").body.decode()))
    kinds = {f"{family.name}_total" if family.type == "counter" else family.name: family for family in families}
    rows = re.findall(r"^\| `(\w+)(?:\{(\w+)\})?` \| (\w+) \|", section("Metrics"), re.M)
    ours = {name for name in kinds if name.startswith("mingle_edge_") and not name.endswith("_created")}
    assert {name for name, _, _ in rows} == ours
    for name, label, kind in rows:
        assert kinds[name].type == kind
        assert {key for sample in kinds[name].samples for key in sample.labels} - {"le"} == ({label} if label else set())
