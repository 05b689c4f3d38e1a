"""What `bundle.json` must satisfy beyond the types of its members."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from mingle_edge_runtime.bundle.index import INDEX_NAME, BundleIndex, Defaults, Judge, PageBank, Preprocess, Router, SizedForm
from mingle_edge_runtime.bundle.task_names import TASK_NAME, fault_in_names
from mingle_edge_runtime.errors import BundleError

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE_BYTES = 4096  # alignment of mapped data
_FLOAT_BYTES = 4
LARGEST_SCALE = 1e6  # CLIP's is 100; exponents of much larger ones overflow
_LEAST_STD, _LARGEST_PIXEL = 1e-3, 1e3  # of values scaled to [0, 1]: far from where float32 ends
_LARGEST_SIDE = 4096  # pixels
_MOST_SIDES = 8
_STAGES = ("pixels", "blocks", "embedding")  # in this order, the first always
_ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}


def check_rules(index: BundleIndex) -> None:
    """Raise `BundleError` at the first rule of `docs/bundle-format.md` that the index breaks."""
    for name, record in index.files.items():
        check_relative(name, f"{INDEX_NAME}: files")
        _require(name != INDEX_NAME, f"files lists {INDEX_NAME} itself")
        _require(record.size >= 0, f"files.{name}.size is {record.size}, must not be negative")
        _require(bool(_SHA256.fullmatch(record.sha256)), f"files.{name}.sha256 is not 64 hexadecimal digits")
    for where, name in _referenced(index):
        check_relative(name, f"{INDEX_NAME}: {where}")
        _require(name in index.files, f"{where} names {name!r}, which files does not list")
    _check_numbers(index)
    for member, scope in (("router", "image"), ("defaults", "image"), ("page_bank", "layer")):
        wanted = index.scope == scope
        _require((getattr(index, member) is not None) == wanted, f"{member} must {_be(wanted)} in the {index.scope} scope")
    optional = index.tower_required_inputs is None or index.scope != "folded"
    _require(optional, "tower_required_inputs must be absent in a folded bundle, whose tower has no optional inputs")
    if index.router:
        _check_router(index.router, index.task_names)
    if index.defaults:
        _check_defaults(index.defaults, index)
    if index.page_bank:
        _check_page_bank(index.page_bank, index)
    _check_tasks(index)


def check_relative(name: str, where: str) -> None:
    """Raise `BundleError` unless `name` is a `/`-separated path that cannot leave the folder it is joined to."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in "\\:\0"):
        raise BundleError(f"{where} is {name!r}: paths must be relative, use '/', and stay inside the bundle")


def fault_in_preprocess(preprocess: Preprocess) -> str | None:
    """Return the rule that a preprocessing breaks, as in `preprocess.fill is 256, must be between 0 and 255`; None if none."""
    p = preprocess
    rules = (
        ("image_size", 1 <= p.image_size <= _LARGEST_SIDE, f"between 1 and {_LARGEST_SIDE}"),
        ("resized_side", p.image_size <= p.side <= _LARGEST_SIDE, f"between image_size, {p.image_size}, and {_LARGEST_SIDE}"),
        ("fill", 0 <= p.fill <= 255, "between 0 and 255"),
        (
            "std",
            min(p.std) >= _LEAST_STD and max(p.std) <= _LARGEST_PIXEL,
            f"positive, from {_LEAST_STD:g} to {_LARGEST_PIXEL:g}",
        ),
        ("mean", max(map(abs, p.mean)) <= _LARGEST_PIXEL, f"from -{_LARGEST_PIXEL:g} to {_LARGEST_PIXEL:g}"),
    )
    return next((f"preprocess.{name} is {getattr(p, name)}, must be {rule}" for name, holds, rule in rules if not holds), None)


def fault_in_labels(labels: Sequence[str]) -> str | None:
    """Return what is wrong with the labels of one head, as in `holds 'leaf' twice`; None if nothing."""
    if not labels:
        return "is empty"
    stripped = [label.strip() for label in labels]
    if "" in stripped:
        return "holds a blank one"
    twice = next((label for label, count in Counter(stripped).items() if count > 1), None)
    return None if twice is None else f"holds {twice!r} twice"


def _be(wanted: bool) -> str:
    return "be there" if wanted else "be absent"


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise BundleError(f"{INDEX_NAME}: {rule}")


def _referenced(index: BundleIndex) -> Iterator[tuple[str, str]]:
    """Yield every member that names a file, with the name."""
    yield from (("tower", index.tower), ("dense", index.dense), ("golden", index.golden))
    for i, task in enumerate(index.tasks):
        yield f"tasks[{i}].head", task.head
        if task.bias is not None:
            yield f"tasks[{i}].bias", task.bias
        if task.expert is not None:
            yield f"tasks[{i}].expert", task.expert
    for i, stage in enumerate(index.router.stages if index.router else ()):
        yield f"router.stages[{i}].file", stage.file
    if index.defaults:
        yield "defaults.file", index.defaults.file
    if index.page_bank:
        yield "page_bank.file", index.page_bank.file
    if index.tower_required_inputs is not None:
        yield "tower_required_inputs", index.tower_required_inputs


def _check_numbers(index: BundleIndex) -> None:
    _require(bool(_VERSION.fullmatch(index.minimum_onnxruntime)), "minimum_onnxruntime must be a dotted version")
    for where, scale in [("", index.logit_scale), *((f"tasks[{i}].", task.logit_scale) for i, task in enumerate(index.tasks))]:
        _require(0 < scale <= LARGEST_SCALE, f"{where}logit_scale is {scale}, must be positive and at most {LARGEST_SCALE:g}")
    count = len(index.tasks)
    _require(1 <= index.top_k <= count, f"top_k is {index.top_k}, must be between 1 and the {count} tasks")
    if fault := fault_in_preprocess(index.preprocess):
        raise BundleError(f"{INDEX_NAME}: {fault}")
    _require(index.architecture.output_dim > 0, "architecture.output_dim must be positive")
    for name in ("golden_cosine", "cosine", "route_agreement"):
        value = getattr(index.fidelity, name)
        _require(value is None or -1 <= value <= 1.001, f"fidelity.{name} is {value}, must be at most 1")
    largest = index.fidelity.golden_difference
    _require(0 <= largest <= 1, f"fidelity.golden_difference is {largest}, must be between 0 and 1")
    _require(index.scope != "folded" or count == 1, f"a folded bundle has one task, tasks has {count}")


def _check_tasks(index: BundleIndex) -> None:
    if fault := fault_in_names(index.task_names):
        raise BundleError(f"{INDEX_NAME}: {fault}")
    _check_precisions(index)
    for i, task in enumerate(index.tasks):
        where = f"tasks[{i}]"
        if fault := fault_in_labels(task.labels):
            raise BundleError(f"{INDEX_NAME}: {where}.labels of task {task.name!r} {fault}")
        _require(task.rank >= 0, f"{where}.rank is {task.rank}, must not be negative")
        _check_measured(task.points_lost, task.agreement, where)
        for name in ("smaller", "larger"):
            form: SizedForm | None = getattr(task, name)
            if form is not None:
                _require(form.rank >= 1, f"{where}.{name}.rank is {form.rank}, must be at least 1")
                _require(form.bytes >= 1, f"{where}.{name}.bytes is {form.bytes}, must be at least 1")
                _check_measured(form.points_lost, form.agreement, f"{where}.{name}")
        _require((task.expert is not None) == (index.scope == "image"), f"{where}.expert belongs to the image scope alone")
        size = index.files[task.expert].size if task.expert else _bank_bytes(index.page_bank)
        _require(task.expert_bytes == size, f"{where}.expert_bytes is {task.expert_bytes}, the files say {size}")


def _check_measured(points_lost: float | None, agreement: float | None, where: str) -> None:
    _require((points_lost is None) == (agreement is None), f"{where} must have both points_lost and agreement, or neither")
    for name, value, most in (("points_lost", points_lost, 100), ("agreement", agreement, 1)):
        _require(value is None or 0 <= value <= most, f"{where}.{name} is {value}, must be between 0 and {most}")


def _check_precisions(index: BundleIndex) -> None:
    """One tower takes the experts of all tasks; that of the image scope multiplies codes of 8 bits, which both kinds become."""
    found = {task.precision for task in index.tasks}
    together = len(found) <= 1 or (index.scope == "image" and found <= {"int8", "int4"})
    _require(together, f"tasks have experts in {' and '.join(sorted(found))}, which no tower takes together")


def _bank_bytes(bank: PageBank | None) -> int:
    return bank.pages_per_task * bank.page * _ITEM_BYTES[bank.dtype] if bank else 0


def _check_router(router: Router, tasks: Sequence[str]) -> None:
    names = [stage.name for stage in router.stages]
    ordered = names == [name for name in _STAGES if name in names] and names[:1] == ["pixels"]
    rule = "must be pixels, then perhaps blocks, then perhaps embedding"
    _require(ordered, f"router.stages are {', '.join(names) or 'none'}, {rule}")
    for i, stage in enumerate(router.stages):
        reads = stage.name == "blocks"
        _require(stage.blocks >= 0, f"router.stages[{i}].blocks is {stage.blocks}, must not be negative")
        _require(reads or stage.blocks == 0, f"router.stages[{i}].blocks is {stage.blocks}, stage {stage.name} reads none")
    if router.judge:
        _check_judge(router.judge, len(tasks))
    for name, members in (router.groups or {}).items():
        _require(bool(TASK_NAME.fullmatch(name)), f"router.groups has {name!r}, names must match {TASK_NAME.pattern}")
        _require(bool(members), f"router.groups.{name} is empty")
    grouped = Counter(task for members in (router.groups or {}).values() for task in members)
    for task, count in grouped.items():
        _require(task in tasks, f"router.groups names {task!r}, which is no task")
        _require(count == 1, f"router.groups names task {task!r} {count} times, a task is in one group at most")


def _check_judge(judge: Judge, count: int) -> None:
    for name, values in (("typical", judge.typical), ("deviation", judge.deviation)):
        _require(len(values) == count, f"router.judge.{name} has {len(values)} numbers, there are {count} tasks")
    _require(min(judge.deviation) > 0, f"router.judge.deviation has {min(judge.deviation)}, all must be positive")
    _require(judge.trust >= 0, f"router.judge.trust is {judge.trust}, must not be negative")


def _check_defaults(defaults: Defaults, index: BundleIndex) -> None:
    size = index.files[defaults.file].size
    for name, tensor in defaults.tensors.items():
        where = f"defaults.tensors.{name}"
        _require(len(tensor.shape) <= _MOST_SIDES, f"{where}.shape has {len(tensor.shape)} sides, at most {_MOST_SIDES}")
        _require(all(0 <= side <= size for side in tensor.shape), f"{where}.shape has a side that is negative or ends at byte")
        _require(tensor.offset % _PAGE_BYTES == 0, f"{where}.offset is {tensor.offset}, no multiple of {_PAGE_BYTES}")
        end = tensor.offset + math.prod(tensor.shape) * _FLOAT_BYTES
        _require(tensor.offset >= 0 and end <= size, f"{where} ends at byte {end} of {size} in {defaults.file}")


def _check_page_bank(bank: PageBank, index: BundleIndex) -> None:
    _require(bank.page > 0 and bank.pages_per_task > 0, "page_bank.page and .pages_per_task must be positive")
    size, actual = _bank_bytes(bank) * len(index.tasks), index.files[bank.file].size
    _require(size == actual, f"page_bank describes {size} bytes, {bank.file} has {actual}")
    end = 0
    for i, layer in enumerate(bank.layers):
        where = f"page_bank.layers[{i}]"
        _require(layer.first_page >= end, f"{where} starts at page {layer.first_page}, inside the layer before it")
        _require(layer.pages > 0, f"{where}.pages is {layer.pages}, must be positive")
        end = layer.first_page + layer.pages
    _require(end <= bank.pages_per_task, f"page_bank.layers end at page {end} of {bank.pages_per_task}")
