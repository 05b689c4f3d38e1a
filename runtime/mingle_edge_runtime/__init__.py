"""Serve the tasks of a mingle-edge bundle with numpy, Pillow and ONNX Runtime alone.

    from mingle_edge_runtime import EdgeModel

    with EdgeModel.open("bundle", expert_budget="64MB") as model:
        for prediction in model.classify(["leaf.jpg", "digit.png"]):
            print(prediction.task, prediction.label, prediction.probability)
        embeds = model.embed("leaf.jpg", task="plants")  # [1, dim]; the router is skipped
        print(model.stats())

The logger `mingle_edge_runtime` is told of experts that are read or given up (info) and of what a machine or provider does
differently (warning); it shows nothing unless the application asks for it.

Importing this package turns ONNX Runtime's telemetry off, by setting `ORT_DISABLE_TELEMETRY=1` unless the variable is set
already, or by its own call where `onnxruntime` was imported before.
"""

import logging
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if hasattr(sys.modules.get("onnxruntime"), "disable_telemetry_events"):  # else it is what an uninstalled package left
    sys.modules["onnxruntime"].disable_telemetry_events()

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.errors import (
    BudgetError,
    BundleError,
    DeviceDiffersError,
    DeviceMemoryError,
    EdgeError,
    ExpertError,
    HeadError,
    ImageError,
    NoBundleError,
    ProviderError,
    ThreadsError,
    UnknownTaskError,
)
from mingle_edge_runtime.experts.budget import ExpertStats
from mingle_edge_runtime.scopes.prediction import Prediction
from mingle_edge_runtime.scopes.route import LayerRoute, Route
from mingle_edge_runtime.scopes.route_reuse import StreamStats
from mingle_edge_runtime.serving.classify_each import classify_each
from mingle_edge_runtime.serving.edge_model import EdgeModel
from mingle_edge_runtime.serving.stream import Stream

logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "BudgetError",
    "Bundle",
    "BundleError",
    "DeviceDiffersError",
    "DeviceMemoryError",
    "EdgeError",
    "EdgeModel",
    "ExpertError",
    "ExpertStats",
    "HeadError",
    "ImageError",
    "LayerRoute",
    "NoBundleError",
    "Prediction",
    "ProviderError",
    "Route",
    "Stream",
    "StreamStats",
    "ThreadsError",
    "UnknownTaskError",
    "classify_each",
]
