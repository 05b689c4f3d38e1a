"""An inference response: JSON, and behind it the outputs that were asked for as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mingle_edge_server.protocol.description import VERSION
from mingle_edge_server.protocol.outputs import OUTPUTS, Answer
from mingle_edge_server.protocol.request import InferenceRequest
from mingle_edge_server.protocol.tensors import datatype, to_bytes, to_json


def write_response(model: str, request: InferenceRequest, answer: Answer) -> tuple[bytes, int | None]:
    """Return the body of a response, and the bytes of its JSON where others follow it."""
    tensors, parts = list[dict[str, Any]](), list[bytes]()
    for name, binary in request.outputs.items():
        values = OUTPUTS[name].values(answer)
        tensor: dict[str, Any] = {"name": name, "datatype": datatype(values), "shape": list(values.shape)}
        if binary:
            parts.append(to_bytes(values))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = to_json(values)
        tensors.append(tensor)
    record: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if request.id is not None:
        record["id"] = request.id
    record |= {"parameters": milliseconds(answer.seconds), "outputs": tensors}
    header = json.dumps(record, allow_nan=False).encode()
    return b"".join([header, *parts]), len(header) if parts else None


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return what a response tells of its phases."""
    return {f"{phase}_ms": round(1e3 * spent, 3) for phase, spent in seconds.items()}
