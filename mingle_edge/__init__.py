"""Merge independently fine-tuned CLIP vision towers into one gated model.

    from mingle_edge import evaluate, merge

    model = merge("TASKS.toml", "merged")
    print(model.task_names)

    report = evaluate("merged", "TASKS.toml")
    print(report.acc("P1"), report.bwt("P1"))

`merge` writes a folder, which `mingle_edge_export.export_bundle` turns into a bundle for a device; `inspect` says what is in
either. `compare` measures what other ways of merging would have given. A task file (README.md, docs/data.md) names backbone,
fine-tuned models and images. Importing this package, or a name from it, loads neither torch nor ONNX.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mingle_edge.comparison.compare import ComparisonOptions, compare
    from mingle_edge.corruptions import Corruption, CorruptionError
    from mingle_edge.errors import (
        CheckpointError,
        ComparisonError,
        DeviceError,
        FileError,
        HubError,
        ImageFolderError,
        MergedModelError,
        MingleError,
        OutputError,
        TaskFileError,
    )
    from mingle_edge.evaluation import EvaluationReport, evaluate
    from mingle_edge.inspection import inspect
    from mingle_edge.merge import merge
    from mingle_edge.merged_model import MergedModel
    from mingle_edge.progress import Progress
    from mingle_edge.settings import Settings

_MODULES = {
    "comparison.compare": ("ComparisonOptions", "compare"),
    "corruptions": ("Corruption", "CorruptionError"),
    "errors": (
        "CheckpointError",
        "ComparisonError",
        "DeviceError",
        "FileError",
        "HubError",
        "ImageFolderError",
        "MergedModelError",
        "MingleError",
        "OutputError",
        "TaskFileError",
    ),
    "evaluation": ("EvaluationReport", "evaluate"),
    "inspection": ("inspect",),
    "merge": ("merge",),
    "merged_model": ("MergedModel",),
    "progress": ("Progress",),
    "settings": ("Settings",),
}
"""Module -> the names of this package that it has. Each is imported when one of them is first asked for."""

__all__ = [
    "CheckpointError",
    "ComparisonError",
    "ComparisonOptions",
    "Corruption",
    "CorruptionError",
    "DeviceError",
    "EvaluationReport",
    "FileError",
    "HubError",
    "ImageFolderError",
    "MergedModel",
    "MergedModelError",
    "MingleError",
    "OutputError",
    "Progress",
    "Settings",
    "TaskFileError",
    "compare",
    "evaluate",
    "inspect",
    "merge",
]


def __getattr__(name: str) -> Any:
    """Import what is first asked for."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value  # also where a module has the name of its function
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
