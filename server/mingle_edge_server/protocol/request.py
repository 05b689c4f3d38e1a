"""An inference request, read and checked: nothing in it is believed before its type, its shape and its bytes agree."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mingle_edge_server.errors import RequestError
from mingle_edge_server.protocol.outputs import OUTPUTS
from mingle_edge_server.protocol.tensors import read_bytes_elements, read_json_pixels, read_pixels, read_shape

Images: TypeAlias = Sequence[bytes | memoryview] | NDArray[np.uint8]
"""Image files, or pixels `[n, H, W, 3]`."""
MOST_JSON = 16 << 20
"""bytes of JSON in a request: reading it holds up every other request"""
INPUTS = {"image": "BYTES", "pixels": "UINT8"}
"""name -> datatype; a request has one of them"""
_BASE64 = "base64"  # what other servers of the protocol call BYTES in JSON that hold no text
_HINTS = ("priority", "timeout")  # of Triton's clients for its scheduler, which ignores them too unless it is configured
_LONGEST_NAME = 100  # characters of a client's text that an error message repeats


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks."""

    images: Images
    outputs: Mapping[str, bool]
    """name -> whether it is answered as bytes behind the JSON"""
    id: str | None = None
    task: str | None = None
    """None: the server's own choice; empty: no task, the router finds the expert"""
    head: str | None = None
    top: int = 5
    reject_below: float | None = None


def read_request(body: bytes | bytearray | memoryview, header_length: int | None, most_images: int) -> InferenceRequest:
    """Read the body of a request.

    header_length: bytes of JSON at its beginning; None: all of it is JSON.

    Raises `RequestError` naming the member that is wrong.
    """
    content = memoryview(body)
    length = len(content) if header_length is None else header_length
    if length > len(content):
        raise RequestError(f"Inference-Header-Content-Length is {length}, and the body has {len(content)} bytes")
    record = _read_json(content[:length])
    parameters = _parameters(record, "the request", ("binary_data_output", "task", "head", "top", "reject_below", *_HINTS))
    for hint in _HINTS:
        _whole(parameters, hint, 0, least=0)
    request_id = record.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("id must be a text")
    return InferenceRequest(
        images=_images(record, content[length:], most_images),
        outputs=_outputs(record, _flag(parameters, "binary_data_output")),
        id=request_id,
        task=_text(parameters, "task"),
        head=_text(parameters, "head") or None,
        top=_whole(parameters, "top", InferenceRequest.top, least=1),
        reject_below=_probability(parameters, "reject_below"),
    )


def _read_json(content: memoryview) -> dict[str, Any]:
    if len(content) > MOST_JSON:
        raise RequestError(
            f"the JSON of the request is {len(content)} bytes, and at most {MOST_JSON} are read: send images as bytes behind "
            "the JSON (the binary tensor data extension)",
            413,
        )
    try:
        record = json.loads(str(content, "utf-8"))
    except RecursionError:
        raise RequestError("the JSON of the request is nested too deeply") from None
    except ValueError as error:  # also of digits without end, and of bytes that are no UTF-8
        hint = "; if bytes follow the JSON, the header Inference-Header-Content-Length must say where they begin"
        raise RequestError(f"the request is no JSON: {_short(error)}{hint}") from None
    if not isinstance(record, dict):
        raise RequestError('the request must be a JSON object with "inputs"')
    return record


def _images(record: dict[str, Any], content: memoryview, most: int) -> Images:
    """Return the images of the one input. The `content` behind the JSON must be its data, to the last byte."""
    listed = record.get("inputs")
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        raise RequestError('"inputs" must be a list of one input: either "image" (BYTES [n]) or "pixels" (UINT8 [n, H, W, 3])')
    tensor = listed[0]
    name, kind = tensor.get("name"), tensor.get("datatype")
    if not isinstance(name, str) or name not in INPUTS:
        raise RequestError(
            f"there is no input {_short(repr(name))}; the inputs are {', '.join(INPUTS)}, and a request has one of them"
        )
    if kind != INPUTS[name]:
        raise RequestError(f"input {name!r}: the datatype must be {INPUTS[name]}, and is {_short(repr(kind))}")
    shape = read_shape(name, tensor.get("shape"))
    form = "[n]" if name == "image" else "[n, H, W, 3]"
    if not (len(shape) == 1 if name == "image" else len(shape) == 4 and shape[3] == 3):
        raise RequestError(f"input {name!r}: the shape must be {form}, and is {list(shape)}")
    if 0 in shape:
        raise RequestError(f"input {name!r}: shape {list(shape)} holds no image")
    if shape[0] > most:
        raise RequestError(f"input {name!r}: {shape[0]} images, and a request may have {most}: send several requests", 413)
    parameters = _parameters(tensor, f"input {name!r}", ("binary_data_size", "content_type"))
    content_type = parameters.get("content_type", _BASE64)
    if content_type != _BASE64:
        raise RequestError(f"input {name!r}: content_type is {_short(repr(content_type))}, and can only be {_BASE64}")
    size = parameters.get("binary_data_size")
    if size is None:
        if len(content):
            raise RequestError(f"{len(content)} bytes follow the JSON, and no input has the parameter binary_data_size")
        return _json_images(tensor, name, shape)
    if not isinstance(size, int) or isinstance(size, bool) or size != len(content) or "data" in tensor:
        raise RequestError(
            f"input {name!r}: binary_data_size is {_short(repr(size))}, and {len(content)} bytes follow the JSON: there must "
            'be as many, and no "data"'
        )
    return read_bytes_elements(name, content, shape[0]) if name == "image" else read_pixels(name, content, shape)


def _json_images(tensor: dict[str, Any], name: str, shape: tuple[int, ...]) -> Images:
    """Return the images of an input whose data are JSON: image files in base64, pixels as numbers."""
    data = tensor.get("data")
    if not isinstance(data, list):
        raise RequestError(f'input {name!r}: it has neither a list "data" nor the parameter binary_data_size')
    if name == "pixels":
        return read_json_pixels(name, data, shape)
    if len(data) != shape[0]:
        raise RequestError(f"input {name!r}: shape {list(shape)} is said, and the data are {len(data)} elements")
    return [_base64(name, i, text) for i, text in enumerate(data)]


def _base64(name: str, number: int, text: Any) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (TypeError, ValueError):
        raise RequestError(
            f"input {name!r}: element {number} is not base64, as an image file is written in JSON; or send it as bytes behind "
            "the JSON (the binary tensor data extension)"
        ) from None


def _outputs(record: dict[str, Any], binary: bool) -> dict[str, bool]:
    """Return whether each output that is asked for is answered as bytes; `binary` for those that do not say."""
    listed = record.get("outputs")
    if listed is None or listed == []:
        return {name: binary for name, output in OUTPUTS.items() if output.by_default}
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise RequestError('"outputs" must be a list of objects with a "name"')
    wanted = dict[str, bool]()
    for entry in listed:
        name = entry.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise RequestError(f"there is no output {_short(repr(name))}; the outputs are {', '.join(OUTPUTS)}")
        if name in wanted:
            raise RequestError(f"output {name!r} is asked for twice")
        wanted[name] = _flag(_parameters(entry, f"output {name!r}", ("binary_data",)), "binary_data", binary)
    return wanted


def _parameters(owner: dict[str, Any], whose: str, known: Sequence[str]) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{whose}: parameters must be a JSON object")
    if unknown := next((name for name in parameters if name not in known), None):
        raise RequestError(f"{whose}: there is no parameter {_short(repr(unknown))} here; there are {', '.join(known)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"parameter {name!r} is {_short(repr(value))}, must be true or false")
    return value


def _text(parameters: dict[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"parameter {name!r} is {_short(repr(value))}, must be a text")
    return value


def _whole(parameters: dict[str, Any], name: str, default: int, least: int) -> int:
    value = parameters.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RequestError(f"parameter {name!r} is {_short(repr(value))}, must be a whole number of at least {least}")
    return value


def _probability(parameters: dict[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise RequestError(f"parameter {name!r} is {_short(repr(value))}, must be a probability from 0 to 1")
    return float(value)


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}..."
