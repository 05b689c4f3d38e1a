"""What the server tells of itself and of its one model: metadata, configuration, index of the repository."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mingle_edge_runtime import EdgeModel
from mingle_edge_server.protocol.outputs import OUTPUTS

VERSION = "1"
"""of the model: a bundle has no versions, and the protocol wants one"""
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_PLATFORM = "onnxruntime_mingle_edge"


def server_metadata() -> dict[str, Any]:
    """Return the name and version of the server, and the extensions of the protocol that it has."""
    try:
        number = version("mingle-edge")
    except PackageNotFoundError:  # run from a folder of sources
        number = "unknown"
    return {"name": "mingle-edge", "version": number, "extensions": list(EXTENSIONS)}


def model_metadata(model: EdgeModel, name: str) -> dict[str, Any]:
    """Return inputs and outputs; -1 stands for any number. A request has one of the two inputs."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": _PLATFORM,
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": output, "datatype": kind.datatype, "shape": [-1, *_sides(model, kind.side)]}
            for output, kind in OUTPUTS.items()
        ],
    }


def model_configuration(model: EdgeModel, name: str) -> dict[str, Any]:
    """Return what Triton's configuration of a model would say, with the tasks and their labels as parameters."""
    metadata, index = model_metadata(model, name), model.bundle.index
    parameters = {
        "scope": index.scope,
        "precision": index.precision,
        "expert_precision": index.expert_precision,
        "image_size": str(index.preprocess.image_size),
        "tasks": json.dumps(list(model.tasks)),
        "labels": json.dumps({head: list(model.labels(head)) for head in model.heads}),
    }
    if index.router is not None:
        parameters["router_stages"] = json.dumps([stage.name for stage in index.router.stages])
        parameters["groups"] = json.dumps({group: list(tasks) for group, tasks in (index.router.groups or {}).items()})
    return {
        "name": name,
        "platform": _PLATFORM,
        "backend": "mingle_edge",
        "max_batch_size": 0,
        "input": [_configured(tensor) | {"optional": True} for tensor in metadata["inputs"]],
        "output": [_configured(tensor) for tensor in metadata["outputs"]],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def repository_index(name: str, ready: bool) -> list[dict[str, str]]:
    """Return the one model and whether it is ready."""
    return [{"name": name, "version": VERSION, "state": "READY" if ready else "UNAVAILABLE", "reason": ""}]


def _sides(model: EdgeModel, side: str) -> list[int]:
    index = model.bundle.index
    sides = {"": [], "dim": [index.architecture.output_dim], "tasks": [len(model.tasks)]}
    return sides.get(side, [-1])


def _configured(tensor: dict[str, Any]) -> dict[str, Any]:
    kind = "STRING" if tensor["datatype"] == "BYTES" else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"]}
