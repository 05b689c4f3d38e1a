"""NVIDIA's own client of the protocol, `tritonclient.http`, as its users call it."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from running_server import NAME, png, running
from tiny_bundle import DIM, TASKS, images
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from mingle_edge_server import Limits

FILES = [png(image) for image in images(0, 1, 2, 3)]


@pytest.fixture(scope="module")
def client(server):
    with InferenceServerClient(server.address) as opened:
        yield opened


def files_input(files=FILES, *, binary: bool = True) -> InferInput:
    data = [file if binary else base64.b64encode(file) for file in files]
    tensor = InferInput("image", [len(files)], "BYTES")
    return tensor.set_data_from_numpy(np.array(data, np.object_), binary_data=binary)


def pixels_input(pixels: np.ndarray, *, binary: bool = True) -> InferInput:
    return InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)


def labels(result) -> list[list[str]]:
    return [[label if isinstance(label, str) else label.decode() for label in row] for row in result.as_numpy("labels")]


def test_health_and_descriptions(client, model) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(NAME, "2")
    assert client.get_server_metadata()["name"] == "mingle-edge"
    metadata = client.get_model_metadata(NAME)
    assert metadata == client.get_model_metadata(NAME, "1")
    assert (metadata["name"], metadata["versions"]) == (NAME, ["1"])
    assert {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]} == {"image": [-1], "pixels": [-1, -1, -1, 3]}
    assert {tensor["name"]: tensor["shape"] for tensor in metadata["outputs"]}["embedding"] == [-1, DIM]
    config = client.get_model_config(NAME)
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING", "TYPE_UINT8"]
    assert json.loads(config["parameters"]["tasks"]["string_value"]) == list(TASKS)
    assert client.get_model_repository_index() == [{"name": NAME, "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary", [True, False])
def test_infer_gives_the_outputs_that_are_described(client, model, binary: bool) -> None:
    described = {tensor["name"]: tensor for tensor in client.get_model_metadata(NAME)["outputs"]}
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in described]
    result = client.infer(NAME, [files_input(binary=binary)], outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    for name, tensor in described.items():
        values, output = result.as_numpy(name), result.get_output(name)
        assert output["datatype"] == tensor["datatype"]
        assert ("data" in output) == (not binary)
        assert len(values) == 4
        assert all(said in (-1, side) for said, side in zip(tensor["shape"], values.shape, strict=True))
    assert labels(result) == [list(p.labels) for p in model.classify(FILES)]
    assert result.as_numpy("embedding").tobytes() == model.embed(FILES).tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_in_bytes_and_in_json(client, model, binary: bool) -> None:
    pixels = images(2, 1, seed=3)
    result = client.infer(NAME, [pixels_input(pixels, binary=binary)], parameters={"task": "blue", "top": 3})
    assert labels(result) == [list(p.labels) for p in model.classify(pixels, task="blue", top=3)]


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
def test_compressed_either_way(client, model, sent, received) -> None:
    pixels = np.repeat(images(0, 1), 8, axis=0)
    wanted = [InferRequestedOutput("embedding"), InferRequestedOutput("labels")]
    result = client.infer(
        NAME,
        [pixels_input(pixels)],
        outputs=wanted,
        request_compression_algorithm=sent,
        response_compression_algorithm=received,
    )
    assert result.as_numpy("embedding").tobytes() == model.embed(pixels).tobytes()


def test_several_connections_at_once(server, model) -> None:
    with InferenceServerClient(server.address, concurrency=4) as client:
        batches = [FILES[i % 4 :] for i in range(16)]
        waiting = [client.async_infer(NAME, [files_input(batch)]) for batch in batches]
        for request, batch in zip(waiting, batches, strict=True):
            assert labels(request.get_result()) == [list(p.labels) for p in model.classify(batch)]


def test_statistics_count_what_was_answered(model) -> None:
    with running(model) as server, InferenceServerClient(server.address) as client:
        client.infer(NAME, [files_input()])
        client.infer(NAME, [files_input(FILES[:1])])
        with pytest.raises(InferenceServerException):
            client.infer(NAME, [files_input([b"no image"])])
        (counted,) = client.get_inference_statistics(NAME)["model_stats"]
        assert client.get_inference_statistics() == client.get_inference_statistics(NAME, "1")
    assert (counted["inference_count"], counted["execution_count"]) == (5, 2)
    counts = {name: part["count"] for name, part in counted["inference_stats"].items()}
    assert counts == {"success": 2, "fail": 1, "compute_input": 2, "queue": 2, "compute_infer": 2, "compute_output": 2}
    assert counted["inference_stats"]["compute_infer"]["ns"] > 0
    assert counted["experts"]["hits"] == model.stats().hits


def test_what_every_client_may_send_changes_no_answer(client, model) -> None:
    """Hints for a scheduler, which there is none here, and what belongs to HTTP."""
    sent = {"timeout": 1, "priority": 3, "request_id": "7", "headers": {"X-Trace": "a"}, "query_params": {"user": "b"}}
    answer = client.infer(NAME, [files_input()], **sent)
    assert answer.get_response()["id"] == "7"
    assert labels(answer) == [list(p.labels) for p in model.classify(FILES)]


@pytest.mark.parametrize(
    ("status", "message", "ask"),
    [
        ("404", "there is no model 'another'; this server has 'tiny'", {"model_name": "another"}),
        ("404", "model 'tiny' has no version '2'; it has 1", {"model_version": "2"}),
        ("400", "task 'mauve' is not in the bundle; it has red, green, blue", {"parameters": {"task": "mauve"}}),
        ("400", "head 'mauve'", {"parameters": {"head": "mauve"}}),
        ("400", "there is no output 'logits'; the outputs are labels, tasks", {"outputs": [InferRequestedOutput("logits")]}),
        ("400", "there is no parameter 'taks' here; there are binary_data_output, task", {"parameters": {"taks": "red"}}),
        ("400", "there is no parameter 'sequence_id' here", {"sequence_id": 1}),
        ("400", "parameter 'timeout' is -1, must be a whole number of at least 0", {"timeout": -1}),
        ("400", "there is no parameter 'classification' here", {"outputs": [InferRequestedOutput("labels", class_count=2)]}),
        ("400", "image 1 cannot be read as an image: ", {"inputs": [files_input([FILES[0], b"no image"])]}),
        ("400", "there is no input 'img'; the inputs are image, pixels", {"inputs": [InferInput("img", [1], "BYTES")]}),
        ("400", '"inputs" must be a list of one input', {"inputs": [files_input(), pixels_input(images(0))]}),
    ],
)
def test_errors_arrive_as_the_clients_exception_with_our_message(client, status: str, message: str, ask) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer(**{"model_name": NAME, "inputs": [files_input()]} | ask)
    assert raised.value.status() == status
    assert message in raised.value.message()
    assert client.is_server_ready()


def test_a_request_that_is_too_large_is_read_to_its_end_and_refused(model) -> None:
    """Whoever sends first and reads then sees the answer, and not a connection that is reset."""
    with running(model, Limits(request_bytes=100_000)) as server, InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="at most 100000 bytes are read") as raised:
            client.infer(NAME, [pixels_input(np.zeros((1, 4000, 1000, 3), np.uint8))])
        assert raised.value.status() == "413"
        assert labels(client.infer(NAME, [files_input()])) == [list(p.labels) for p in model.classify(FILES)]
