"""No answer differs from `EdgeModel`'s, in any bit, however many ask at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from running_server import LENGTH, image_input, png, running
from tiny_bundle import KINDS, images

from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.bundle.head_file import FORMAT, FORMAT_VERSION, HeadFile, HeadIndex
from mingle_edge_server.protocol.outputs import OUTPUTS

ALL = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
TYPES = {"BOOL": np.bool_, "FP32": np.float32, "FP64": np.float64}


def tensors(reply: Any) -> dict[str, Any]:
    """Read the outputs of a response, those in JSON and those behind it, without the server's own code."""
    assert reply.status == 200, reply.body
    length = int(reply.headers.get(LENGTH.lower(), len(reply.body)))
    content, read = reply.body[length:], {}
    for output in json.loads(reply.body[:length])["outputs"]:
        shape, kind = output["shape"], output["datatype"]
        if "data" in output:
            read[output["name"]] = np.array(output["data"], TYPES.get(kind, object)).reshape(shape)
            continue
        size = output["parameters"]["binary_data_size"]
        part, content = content[:size], content[size:]
        values = _texts(part) if kind == "BYTES" else np.frombuffer(part, TYPES[kind])
        read[output["name"]] = np.array(values, TYPES.get(kind, object)).reshape(shape)
    assert content == b""
    return read


def _texts(part: bytes) -> list[str]:
    texts = []
    while part:
        length = int.from_bytes(part[:4], "little")
        texts.append(part[4 : 4 + length].decode())
        part = part[4 + length :]
    return texts


def assert_same(found: dict[str, Any], model: EdgeModel, pictures: Any, embedding: bool = True, **options: Any) -> None:
    predictions = model.classify(pictures, **options)
    assert found["labels"].tolist() == [list(p.labels) for p in predictions]
    assert found["tasks"].tolist() == [list(p.tasks) for p in predictions]
    assert found["probabilities"].tolist() == [list(p.probabilities) for p in predictions]
    assert found["rejected"].tolist() == [p.rejected for p in predictions]
    routes = [[name for name in row if name] for row in found["route_tasks"].tolist()]
    assert routes == [list(p.route.tasks) for p in predictions]
    for row, p in zip(found["route_weights"].tolist(), predictions, strict=True):
        assert row[: len(p.route.weights)] == list(p.route.weights)
    assert [str(stage) for stage in found["route_stage"]] == [p.route.stage or "" for p in predictions]
    for value, posterior, p in zip(found["confidence"], found["posterior"], predictions, strict=True):
        assert posterior.tolist() == list(p.route.posterior or ())
        assert float(value) == p.route.confidence if p.route.confidence is not None else np.isnan(value)
    if embedding:
        assert found["embedding"].tobytes() == model.embed(pictures, options.get("task")).tobytes()


@pytest.mark.parametrize(("scope", "top_k"), KINDS)
def test_files_and_arrays_get_the_answers_of_the_model(bundles, scope: str, top_k: int) -> None:
    pixels = images(0, 1, 2, 3, 1, seed=5)
    files = [png(image) for image in pixels]
    record, content = image_input(*files)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    binary = tensor | {"parameters": {"binary_data_size": pixels.nbytes}}
    with EdgeModel.open(bundles[scope, top_k], threads=1) as model, running(model) as server:
        assert_same(tensors(server.infer(record | {"outputs": ALL}, content)), model, files)
        assert_same(tensors(server.infer({"inputs": [binary], "outputs": ALL}, pixels.tobytes())), model, pixels)
        in_json = [{"name": name} for name in OUTPUTS]
        for data in (pixels.tolist(), pixels.ravel().tolist()):
            assert_same(tensors(server.infer({"inputs": [tensor | {"data": data}], "outputs": in_json})), model, pixels)
        named = record | {"outputs": ALL, "parameters": {"task": "green", "top": 2}}
        assert_same(tensors(server.infer(named, content)), model, files, task="green", top=2)


def test_parameters_mean_what_they_mean_to_the_model(server, model) -> None:
    files = [png(image) for image in images(0, 3)]
    record, content = image_input(*files)
    for options in (
        {"head": "blue"},
        {"task": "red", "head": "blue"},
        {"top": 100},
        {"reject_below": 0.9},
        {"reject_below": 0},
    ):
        reply = server.infer(record | {"parameters": options, "outputs": ALL}, content)
        assert_same(tensors(reply), model, files, **options)


def test_many_at_once_each_get_their_own(server, model) -> None:
    requests = []
    for i in range(24):
        files = [png(image) for image in images(*range(1 + i % 4), seed=i)]
        requests.append((image_input(*files), files))

    def ask(request: Any) -> dict[str, Any]:
        (record, content), _ = request
        return tensors(server.infer(record | {"outputs": ALL}, content))

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(ask, requests))
    for found, (_, files) in zip(answers, requests, strict=True):
        assert_same(found, model, files)


def test_the_default_outputs_leave_out_what_is_large(server) -> None:
    record, content = image_input(png(images(0)[0]))
    assert sorted(OUTPUTS.keys() - tensors(server.infer(record, content)).keys()) == ["embedding", "posterior"]


def test_the_servers_task_is_of_requests_that_name_none(model) -> None:
    files = [png(image) for image in images(0, 1)]
    record, content = image_input(*files)
    with running(model, task="blue") as server:
        found = {
            task: tensors(
                server.infer(record | {"outputs": ALL, "parameters": {} if task is None else {"task": task}}, content)
            )
            for task in (None, "red", "")
        }
    assert_same(found[None], model, files, task="blue")
    assert_same(found["red"], model, files, task="red")
    assert_same(found[""], model, files)


def test_a_response_tells_its_request_and_its_phases(server) -> None:
    record, content = image_input(png(images(0)[0]))
    reply = server.infer(record | {"id": "a \u00fc \U0001f600"}, content).json
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("a \u00fc \U0001f600", "tiny", "1")
    assert sorted(reply["parameters"]) == ["decode_ms", "queue_ms", "run_ms"]
    assert min(reply["parameters"].values()) >= 0
    assert "id" not in server.infer(record, content).json


def test_what_is_no_number_is_null_in_json(server) -> None:
    record, content = image_input(png(images(0)[0]))
    reply = server.infer(record | {"parameters": {"task": "red"}, "outputs": [{"name": "confidence"}]}, content)
    assert reply.json["outputs"][0]["data"] == [None]


def test_a_head_that_was_loaded_can_be_asked_for(image_bundle, tmp_path) -> None:
    files = [png(image) for image in images(0, 1)]
    record, content = image_input(*files)
    path = tmp_path / "letters.head"
    with EdgeModel.open(image_bundle, threads=1) as model:
        weight = np.eye(3, model.bundle.index.architecture.output_dim, dtype=np.float32)
        backbone = model.bundle.index.source.backbone_sha256
        index = HeadIndex(FORMAT, FORMAT_VERSION, "letters", ("a", "b", "c"), 20.0, backbone, "a test")
        with path.open("wb") as file:
            HeadFile(index, Head(weight, None, 20.0)).write(file)
        model.load_head(path)
        with running(model) as server:
            found = tensors(server.infer(record | {"outputs": ALL, "parameters": {"head": "letters"}}, content))
            config = server.ask("GET", "/v2/models/tiny/config").json
        assert_same(found, model, files, head="letters")
    assert set(found["labels"].flat) == {"a", "b", "c"}
    assert json.loads(config["parameters"]["labels"]["string_value"])["letters"] == ["a", "b", "c"]
