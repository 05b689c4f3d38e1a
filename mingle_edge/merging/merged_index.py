"""`mingle.json` as dataclasses, with the rules that types cannot say. docs/merged-model-format.md is the specification."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import FileError, MergedModelError, TaskFileError, shown
from mingle_edge.data.settings import Settings
from mingle_edge.experts.expert_form import ExpertForm, read_forms
from mingle_edge.files.text_file import read_json
from mingle_edge.routing.wrong_experts import fault_in_routing
from mingle_edge_runtime.bundle.head import LARGEST
from mingle_edge_runtime.bundle.json_record import RecordError, read_record
from mingle_edge_runtime.bundle.rules import fault_in_preprocess
from mingle_edge_runtime.bundle.task_names import TASK_NAME, fault_in_names

FORMAT = "mingle-edge merged model"
FORMAT_VERSION = 6
INDEX = "mingle.json"

_DEEPEST = 8  # levels of a task's record

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = {"image_size": 4096, "patch_size": 4096, "width": 1 << 16, "layers": 1 << 10, "heads": 1 << 10}
_LARGEST |= {"mlp_width": 1 << 18, "output_dim": 1 << 16}
_LARGEST_OR_NONE = {"registers": 1 << 10, "pool_heads": 1 << 10, "pool_width": 1 << 16, "pool_mlp_width": 1 << 18}
"""Far above any vision tower, far below what lists of its layers could not hold."""


@dataclass(frozen=True)
class TaskRecord:
    """What the index says of one task."""

    name: str
    classes: list[str]
    templates: list[str]  # empty when the head came ready-made
    source: str  # as the task file names the checkpoint
    source_sha256: str
    seeds: int  # unlabeled images it was adapted on
    logit_scale: float  # of its head
    group: str | None = None  # of tasks that need not be told apart
    record: dict[str, Any] = field(default_factory=dict)  # head, seconds, losses, explained_norm, forms

    @property
    def forms(self) -> tuple[ExpertForm, ...]:
        """Return the forms its expert can be exported in, with what was measured of them; none where nothing was."""
        return read_forms(self.record, "record")


@dataclass(frozen=True)
class Backbone:
    """What the index says of the pretrained tower."""

    architecture: VisionArchitecture
    source: str  # as the task file names it
    sha256: str
    logit_scale: float  # of heads computed from text


@dataclass(frozen=True)
class MergedIndex:
    """What `mingle.json` holds."""

    backbone: Backbone
    settings: Settings
    tasks: tuple[TaskRecord, ...]

    def to_text(self) -> str:
        """Write it out as JSON. Raises `MergedModelError` where a reader would refuse it, so that what is committed is read."""
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "backbone": asdict(self.backbone),
            "settings": self.settings.to_json(),
            "tasks": [asdict(task) for task in self.tasks],
        }
        text = json.dumps(record, indent=1) + "\n"
        try:
            _parse(json.loads(text))
        except RecordError as error:
            raise MergedModelError(
                f"{INDEX}: {error}; correct what the task file says there, or the seeds of the task"
            ) from error
        return text


@dataclass(frozen=True)
class _Stored:
    """The members of the file; `settings` has a reader of its own."""

    backbone: Backbone
    settings: dict[str, Any]
    tasks: tuple[TaskRecord, ...]


def read_index(path: Path) -> MergedIndex:
    """Read `mingle.json`. Raises `MergedModelError` naming the member, the rule and the value."""
    try:
        value = read_json(path)
    except FileError as error:
        raise MergedModelError(str(error)) from error
    _check_format(path, value)
    try:
        return _parse(value)
    except RecordError as error:
        raise MergedModelError(f"{path}: {error}; restore the file") from error


def _parse(value: Any) -> MergedIndex:
    """Return the index that a parsed file holds. Raises `RecordError`."""
    try:
        json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half a character, which no file name or terminal takes
        stored = read_record(_Stored, value)
        settings = Settings.from_mapping(stored.settings, "settings")
    except (TaskFileError, OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise RecordError(str(error)) from error
    _check(stored, settings)
    return MergedIndex(stored.backbone, settings, stored.tasks)


def _check_format(path: Path, value: Any) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise MergedModelError(f"{path}: is not the index of a merged model (field format is not {FORMAT!r})")
    version = value.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise MergedModelError(
            f"{path}: format version {shown(version)}; this release reads {FORMAT_VERSION}; use the release of mingle-edge "
            "that wrote it, or merge again"
        )


def _check(stored: _Stored, settings: Settings) -> None:
    architecture = stored.backbone.architecture
    for name, largest in (_LARGEST | _LARGEST_OR_NONE).items():
        value, least = getattr(architecture, name), 0 if name in _LARGEST_OR_NONE else 1
        _require(
            least <= value <= largest,
            f"backbone.architecture.{name} is {shown(value)}, must be between {least} and {largest}",
        )
    if fault := architecture.fault() or fault_in_preprocess(architecture.preprocess):
        raise RecordError(f"backbone.architecture.{fault}")
    _check_scale(stored.backbone.logit_scale, "backbone.logit_scale")
    _require(bool(_SHA256.fullmatch(stored.backbone.sha256)), "backbone.sha256 is not 64 hexadecimal digits")
    if fault := _fault_in(settings.to_json(), "settings"):
        raise RecordError(fault)
    blocks = settings.router_blocks
    _require(
        blocks == "auto" or blocks <= architecture.layers,
        f"settings.router_blocks is {shown(blocks)}, and the tower has {architecture.layers} blocks",
    )
    if fault := fault_in_names(task.name for task in stored.tasks):
        raise RecordError(fault)
    for number, task in enumerate(stored.tasks):
        where = f"tasks[{number}]"
        _require(
            len(task.classes) > 0 and all(name.strip() for name in task.classes), f"{where}.classes must be names, none blank"
        )
        _require(len(set(task.classes)) == len(task.classes), f"{where}.classes holds a name twice")
        _require(bool(_SHA256.fullmatch(task.source_sha256)), f"{where}.source_sha256 is not 64 hexadecimal digits")
        _check_scale(task.logit_scale, f"{where}.logit_scale")
        _require(task.seeds >= 0, f"{where}.seeds is {shown(task.seeds)}, must not be negative")
        _require(task.group is None or bool(TASK_NAME.fullmatch(task.group)), f"{where}.group is {shown(task.group)}, no name")
        if fault := _fault_in(task.record, f"{where}.record"):
            raise RecordError(fault)
        if fault := fault_in_routing(task.record):
            raise RecordError(f"{where}.record.routing{fault}")
        read_forms(task.record, f"{where}.record")


def _check_scale(scale: float, where: str) -> None:
    _require(0 < scale <= LARGEST, f"{where} is {scale}, must be above 0 and at most {LARGEST:g}")


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise RecordError(rule)


def _fault_in(value: Any, where: str, depth: int = 0) -> str | None:
    """Return what is wrong with a member that may be any JSON value: what could not be written out again."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is {value}, must be finite"
    if depth > _DEEPEST:
        return f"{where} is nested more than {_DEEPEST} deep"
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        if fault := _fault_in(member, f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}", depth + 1):
            return fault
    return None
