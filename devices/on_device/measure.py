"""Run a case on this device and print what it computes, as JSON: `measure.py CASE`.

Needs `mingle_edge_runtime`, numpy, Pillow and ONNX Runtime. `measure.mjs` does the same in JavaScript.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.session import onnxruntime
from mingle_edge_runtime.scopes.route import Route

_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I8": np.int8, "U8": np.uint8}


def measure(case: Path) -> dict[str, Any]:
    """Embed the images of a case with every task named and routed, and multiply its integers.

    Returns what JSON can hold, for n images of which the first m are embedded: `named [T, m, dim]`, `routed [m, dim]`,
    `golden [K, g, dim]` of the golden images (layer scope: K `golden_top_k`), `routes [n]`, `labels [n]`, `products` (the
    sha256 of int32 results by name), `full_codes` (64 x 255 by 64 x 127), `seconds`.
    """
    spec = json.loads((case / "case.json").read_text())
    images = sorted((case / "images").glob("*.png"))
    with EdgeModel.open(case / "bundle", threads=1) as model:
        began = time.perf_counter()
        named = [model.embed(images[: spec["embedded_images"]], task=task) for task in model.tasks]
        between = time.perf_counter()
        predictions = model.classify(images, top=1)
        ended = time.perf_counter()
        measured: dict[str, Any] = {
            "named": [embeds.tolist() for embeds in named],
            "routed": model.embed(images[: spec["embedded_images"]]).tolist(),
            "routes": [chosen(prediction.route) for prediction in predictions],
            "labels": [[prediction.tasks[0], prediction.labels[0]] for prediction in predictions],
            "seconds": {"named": between - began, "routed": ended - between},
        }
        if model.bundle.index.scope == "layer":
            pixels = preprocess(images[: spec["golden_images"]], model.bundle.index.preprocess)
            measured["golden"] = model.scope.golden_runs(pixels).arrays["embeds"].tolist()
    return measured | {"products": _products(case, spec), "full_codes": _full_codes(case)}


def chosen(route: Route) -> list[str]:
    """Name the tasks of a route; layer by layer in the layer scope."""
    return [task for layer in route.layers for task in layer.tasks] or list(route.tasks)


def _full_codes(case: Path) -> int:
    """The largest unsigned by the largest signed codes, which no bundle holds: does this device saturate?"""
    session = _session(case / "full_codes.onnx")
    (product,) = session.run(None, {"activations": np.full((1, 64), 255, np.uint8)})
    return int(product.item())


def _products(case: Path, spec: dict[str, Any]) -> dict[str, str]:
    """The sha256 of every matrix's products over all runs."""
    if not (case / "products.onnx").exists():
        return {}
    tensors = _read_safetensors(case / "inputs.safetensors")
    codes = {name: value for name, value in tensors.items() if name.startswith("codes/")}
    session = _session(case / "products.onnx")
    names = [output.name for output in session.get_outputs()]
    digests = {name: hashlib.sha256() for name in names}
    for run, zero_point in enumerate(spec["zero_points"]):
        prefix = f"{run}/"
        activations = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        products = session.run(names, codes | activations | {"zero_point": np.array(zero_point, np.uint8)})
        for name, product in zip(names, products, strict=True):
            digests[name].update(product.astype("<i4").tobytes())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _session(path: Path) -> Any:
    return onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(raw[start + about["data_offsets"][0] : start + about["data_offsets"][1]], _DTYPES[about["dtype"]])
        .reshape(about["shape"])
        .copy()
        for name, about in header.items()
    }


if __name__ == "__main__":
    json.dump(measure(Path(sys.argv[1])), sys.stdout)
