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
    from mingle_edge.card.card import model_card
    from mingle_edge.checking.check import check
    from mingle_edge.checking.report import CheckReport
    from mingle_edge.checking.starting_task_file import StartingTaskFile, init
    from mingle_edge.comparison.compare import ComparisonOptions, compare
    from mingle_edge.core.errors import (
        CheckpointError,
        ComparisonError,
        DeviceError,
        DiskSpaceError,
        FileError,
        HubError,
        HubUnreachableError,
        ImageFolderError,
        MergeConflictError,
        MergedModelError,
        MingleError,
        NoMergedModelError,
        OptionError,
        OutputError,
        TaskFileError,
    )
    from mingle_edge.core.progress import Progress
    from mingle_edge.data.corruptions import Corruption, CorruptionError
    from mingle_edge.data.settings import Settings
    from mingle_edge.evaluation.evaluate import EvaluationReport, evaluate
    from mingle_edge.merging.head_for_device import write_head
    from mingle_edge.merging.inspection import inspect
    from mingle_edge.merging.merge import merge
    from mingle_edge.merging.merged_model import MergedModel

_MODULES = {
    "card.card": ("model_card",),
    "checking.check": ("check",),
    "checking.report": ("CheckReport",),
    "checking.starting_task_file": ("StartingTaskFile", "init"),
    "comparison.compare": ("ComparisonOptions", "compare"),
    "data.corruptions": ("Corruption", "CorruptionError"),
    "core.errors": (
        "CheckpointError",
        "ComparisonError",
        "DeviceError",
        "DiskSpaceError",
        "FileError",
        "HubError",
        "HubUnreachableError",
        "ImageFolderError",
        "MergeConflictError",
        "MergedModelError",
        "MingleError",
        "NoMergedModelError",
        "OptionError",
        "OutputError",
        "TaskFileError",
    ),
    "evaluation.evaluate": ("EvaluationReport", "evaluate"),
    "merging.head_for_device": ("write_head",),
    "merging.inspection": ("inspect",),
    "merging.merge": ("merge",),
    "merging.merged_model": ("MergedModel",),
    "core.progress": ("Progress",),
    "data.settings": ("Settings",),
}
"""Module -> the names of this package that it has. Each is imported when one of them is first asked for."""

__all__ = [
    "CheckReport",
    "CheckpointError",
    "ComparisonError",
    "ComparisonOptions",
    "Corruption",
    "CorruptionError",
    "DeviceError",
    "DiskSpaceError",
    "EvaluationReport",
    "FileError",
    "HubError",
    "HubUnreachableError",
    "ImageFolderError",
    "MergeConflictError",
    "MergedModel",
    "MergedModelError",
    "MingleError",
    "NoMergedModelError",
    "OptionError",
    "OutputError",
    "Progress",
    "Settings",
    "StartingTaskFile",
    "TaskFileError",
    "check",
    "compare",
    "evaluate",
    "init",
    "inspect",
    "merge",
    "model_card",
    "write_head",
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
