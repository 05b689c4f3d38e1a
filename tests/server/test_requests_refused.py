"""Requests that are broken, that lie, or that were made to do harm: one JSON error each, and the server goes on."""

from __future__ import annotations

import gzip
import json
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_server import INFER, LENGTH, NAME, elements, image_input, png, running
from tiny_bundle import images

from mingle_edge_server import Limits, RequestError
from mingle_edge_server.protocol.request import MOST_JSON, read_request

FILE = png(images(0)[0])
PIXELS = {"name": "pixels", "datatype": "UINT8"}


def of_image(content: bytes = elements(FILE), **changes):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content)}}
    return {"inputs": [tensor | changes]}, content


def of_pixels(shape, content: bytes = b"", **changes):
    return {"inputs": [PIXELS | {"shape": shape, "parameters": {"binary_data_size": len(content)}} | changes]}, content


REFUSED = {
    "no JSON": (b'{"inputs": [', None, 400, "the request is no JSON"),
    "no UTF-8": (b'{"id": "\xff"}', None, 400, "the request is no JSON"),
    "empty": (b"", None, 400, "the request is no JSON"),
    "nested too deeply": (b"[" * 200_000, None, 400, "nested too deeply"),
    "digits without end": (b'{"inputs": ' + b"9" * 10_000 + b"}", None, 400, "the request is no JSON"),
    "a list": (b"[]", None, 400, "must be a JSON object"),
    "no inputs": ({}, None, 400, '"inputs" must be a list of one input'),
    "inputs of another type": ({"inputs": {"image": 1}}, None, 400, '"inputs" must be a list of one input'),
    "a name of another type": ({"inputs": [{"name": ["image"]}]}, None, 400, "there is no input"),
    "a very long name": ({"inputs": [{"name": "x" * 10**6}]}, None, 400, "xxx..."),
    "another datatype": (*of_image(datatype="FP32"), 400, "the datatype must be BYTES, and is 'FP32'"),
    "no shape": (*of_image(shape=None), 400, "the shape must be a list"),
    "a shape of texts": (*of_image(shape=["1"]), 400, "the shape must be a list"),
    "a shape of truths": (*of_image(shape=[True]), 400, "the shape must be a list"),
    "a shape that is no whole number": (*of_image(shape=[1.0]), 400, "the shape must be a list"),
    "a negative shape": (*of_image(shape=[-1]), 400, "the shape must be a list"),
    "a shape of many sides": (*of_image(shape=[1] * 1000), 400, "the shape must be a list"),
    "a matrix of files": (*of_image(shape=[1, 1]), 400, "the shape must be [n], and is [1, 1]"),
    "no image": (*of_image(b"", shape=[0]), 400, "holds no image"),
    "more images said": (*of_image(shape=[2]), 400, "its shape says 2 elements, and its data hold only 1"),
    "more images sent": (*of_image(elements(FILE, FILE)), 400, "its shape says 1 elements, and its data hold more"),
    "millions of images said": (*of_image(shape=[2**31 - 1]), 413, "a request may have 32"),
    "an element that is cut off": (*of_image(elements(FILE)[:-1]), 400, "element 0 is longer than its data"),
    "an element of 4 GB": (*of_image(b"\xff\xff\xff\xff"), 400, "element 0 is longer than its data"),
    "half a length": (*of_image(elements(FILE) + b"\x01"), 400, "element 1 is longer than its data"),
    "binary data of another size": (*of_image(parameters={"binary_data_size": 1}), 400, "binary_data_size is 1, and"),
    "binary data of a negative size": (*of_image(parameters={"binary_data_size": -1}), 400, "binary_data_size is -1, and"),
    "binary data of a text's size": (*of_image(parameters={"binary_data_size": "9"}), 400, "binary_data_size is '9', and"),
    "binary data and JSON": (*of_image(data=["AAAA"]), 400, 'and no "data"'),
    "bytes that nobody has": (*of_image(parameters={}), 400, "bytes follow the JSON, and no input"),
    "shared memory": (*of_image(parameters={"shared_memory_region": "r"}), 400, "there is no parameter 'shared_memory_region'"),
    "parameters of another type": (*of_image(parameters=[1]), 400, "parameters must be a JSON object"),
    "no data": ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}, None, 400, 'neither a list "data"'),
    "no base64": (*of_image(b"", data=["!"], parameters={}), 400, "element 0 is not base64"),
    "another content type": (*of_image(b"", data=["AA=="], parameters={"content_type": "str"}), 400, "can only be base64"),
    "a number as a file": (*of_image(b"", data=[7], parameters={}), 400, "element 0 is not base64"),
    "fewer elements": (*of_image(b"", data=[], parameters={}), 400, "and the data are 0 elements"),
    "no picture": (*of_image(elements(b"GIF89a")), 400, "image 0 cannot be read as an image"),
    "an empty picture": (*of_image(elements(b"")), 400, "image 0 cannot be read as an image"),
    "a path as a picture": (*of_image(elements(b"/etc/passwd")), 400, "image 0 cannot be read as an image"),
    "one of three": (*of_image(elements(FILE, FILE[:60], FILE), shape=[3]), 400, "image 1 cannot be read as an image"),
    "pixels without channels": (*of_pixels([1, 2, 2], b"1234"), 400, "the shape must be [n, H, W, 3]"),
    "pixels of four channels": (*of_pixels([1, 1, 1, 4], b"1234"), 400, "the shape must be [n, H, W, 3]"),
    "pixels that are too few": (*of_pixels([1, 2, 2, 3], b"1234"), 400, "is 12 bytes, and the data are 4"),
    "pixels beyond any memory": (*of_pixels([1, 2**31 - 1, 2**31 - 1, 3]), 400, "bytes, and the data are 0"),
    "an image without a side": (*of_pixels([1, 0, 5, 3]), 400, "holds no image"),
    "a line of pixels": (*of_pixels([1, 1, 3000, 3], bytes(9000)), 400, "each image is too elongated: 3000 x 1"),
    "pixels as texts": (*of_pixels([1, 1, 1, 3], data=["1", "2", "3"], parameters={}), 400, "numbers from 0 to 255"),
    "pixels as fractions": (*of_pixels([1, 1, 1, 3], data=[0.5, 1, 2], parameters={}), 400, "numbers from 0 to 255"),
    "pixels above 255": (*of_pixels([1, 1, 1, 3], data=[1, 2, 256], parameters={}), 400, "numbers from 0 to 255"),
    "pixels beyond any type": (*of_pixels([1, 1, 1, 3], data=[1, 2, 10**30], parameters={}), 400, "numbers from 0 to 255"),
    "pixels in rows of other lengths": (
        *of_pixels([1, 1, 1, 3], data=[[1, 2], [3]], parameters={}),
        400,
        "numbers from 0 to 255",
    ),
    "pixels in another shape": (*of_pixels([1, 1, 1, 3], data=[[1], [2], [3]], parameters={}), 400, "and the data are [3, 1]"),
    "an id that is no text": (of_image()[0] | {"id": 7}, of_image()[1], 400, "id must be a text"),
    "outputs of another type": (of_image()[0] | {"outputs": ["labels"]}, of_image()[1], 400, '"outputs" must be a list'),
    "an output twice": (of_image()[0] | {"outputs": [{"name": "labels"}] * 2}, of_image()[1], 400, "is asked for twice"),
}
PARAMETERS = {
    "top": [0, -1, 1.5, "5", True, None],
    "reject_below": [-0.1, 1.1, float("nan"), "0.5", True],
    "task": [1, ["red"], "mauve"],
    "head": [1, "mauve"],
    "binary_data_output": [1, "true"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_request_gets_one_error_that_names_what_is_wrong(server, case: str) -> None:
    record, content, status, message = REFUSED[case]
    reply = server.infer(record, content)
    assert reply.status == status, reply.body
    assert list(reply.json) == ["error"]
    assert message in reply.json["error"]
    assert len(reply.json["error"]) < 500
    assert server.infer(*of_image()).status == 200


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in PARAMETERS.items() for value in values])
def test_a_parameter_of_another_type_or_value_is_refused_by_name(server, name: str, value) -> None:
    record, content = of_image()
    reply = server.infer(record | {"parameters": {name: value}}, content)
    assert reply.status == 400
    assert name in reply.json["error"]


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("-1", "must be the number of bytes of the JSON"),
        ("1e3", "must be the number of bytes of the JSON"),
        ("\u0661", "must be the number of bytes of the JSON"),
        ("9" * 30, "must be the number of bytes of the JSON"),
        ("999999", "is 999999, and the body has"),
        ("3", "the request is no JSON"),
    ],
)
def test_a_wrong_header_length_is_refused(server, length: str, message: str) -> None:
    record, content = of_image()
    reply = server.ask("POST", INFER, json.dumps(record).encode() + content, {LENGTH: length.encode().decode("latin-1")})
    assert (reply.status, message in reply.json["error"]) == (400, True), reply.body


@pytest.mark.parametrize(
    ("encoding", "body", "status", "message"),
    [
        ("br", b"x", 415, "'br' is not read; there are gzip, deflate"),
        ("gzip", b"no gzip", 400, "the body is not gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "not one whole gzip stream"),
        ("gzip", gzip.compress(b"{}", mtime=0) * 2, 400, "not one whole gzip stream"),
        ("deflate", zlib.compress(bytes(1 << 26)), 413, "the request is too large"),
        ("gzip", gzip.compress(bytes(1 << 26)), 413, "the request is too large"),
    ],
)
def test_a_body_that_does_not_uncompress_or_grows_beyond_the_limit_is_refused(server, encoding, body, status, message) -> None:
    reply = server.infer(body, **{"Content-Encoding": encoding})
    assert (reply.status, message in reply.json["error"]) == (status, True), reply.body


def test_json_that_would_hold_up_everybody_is_refused(model) -> None:
    with running(model, Limits(request_bytes=2 * MOST_JSON)) as server:
        reply = server.infer(b" " * (MOST_JSON + 1))
    assert (reply.status, "send images as bytes behind the JSON" in reply.json["error"]) == (413, True)


def test_limits_are_of_the_request_and_not_of_the_format(model) -> None:
    square = np.zeros((40, 40, 3), np.uint8)
    with running(model, Limits(images=2, pixels=1600)) as server:
        assert server.infer(*image_input(png(square), png(square))).status == 200
        reply = server.infer(*image_input(*[png(square)] * 3))
        assert (reply.status, "3 images, and a request may have 2" in reply.json["error"]) == (413, True)
        larger = np.zeros((40, 41, 3), np.uint8)
        reply = server.infer(*image_input(png(square), png(larger)))
        assert (reply.status, reply.json["error"][:44]) == (400, "image 1 has 41 x 40 pixels, and at most 1600")
        reply = server.infer(*of_pixels([1, *larger.shape], larger.tobytes()))
        assert (reply.status, "41 x 40 pixels" in reply.json["error"]) == (400, True)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/tiny",
        "/v2/models",
        "/v2/models/",
        "/v2/models/..",
        "/v2/models/../../../etc/passwd",
        "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v2/models/tiny%00",
        "/v2/models/tiny/versions/1/../../..",
        "/v2/models/tiny/versions/%31%00",
        "/page/../errors.py",
        "/page.js/..%2f..%2ferrors.py",
        "//etc/passwd",
        "/%ff%fe",
    ],
)
def test_a_path_leads_to_nothing_but_what_is_there(server, path: str) -> None:
    for method in ("GET", "POST"):
        reply = server.ask(method, path)
        assert reply.status in (404, 405), reply
        assert list(reply.json) == ["error"]


def test_methods_and_models_that_are_not_there_are_named(server) -> None:
    assert server.ask("GET", INFER).json == {"error": "this path does not take GET"}
    assert server.ask("DELETE", f"/v2/models/{NAME}").status == 405
    assert "/metrics" in server.ask("GET", "/models").json["error"]
    assert server.ask("POST", "/v2/models/TINY/infer").json == {"error": "there is no model 'TINY'; this server has 'tiny'"}


def test_what_is_no_http_costs_only_its_own_connection(server) -> None:
    for sent in (b"\x16\x03\x01\x02\x00" + bytes(64), b"GET / HTTP/9\r\n\r\n", b"A" * 200_000, b"POST / HTTP/1.1\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(sent)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert server.ask("GET", "/v2/health/ready").status == 200


NAMES = ["inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "task", "top", "id"]
WORDS = st.sampled_from(["image", "pixels", "BYTES", "UINT8"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)
CHANGES = st.dictionaries(st.sampled_from(["shape", "data", "name", "parameters"]), ANY)


@given(record=ANY, content=st.binary(max_size=40), changes=CHANGES)
def test_any_json_is_a_request_or_an_error_of_ours(record, content: bytes, changes) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content)}}
    for value in (record, {"inputs": [tensor | changes]}):
        text = json.dumps(value).encode()
        with suppress(RequestError):
            assert 1 <= len(read_request(text + content, len(text), 32).images) <= 32
