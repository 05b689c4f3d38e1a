"""What a check found as tables, which a terminal prints and a page shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.core.wording import MISSING, count

if TYPE_CHECKING:
    from mingle_edge.checking.report import CheckReport, Finding, TaskFacts

_NAMINGS = {"open_clip": "open_clip", "hugging_face": "Hugging Face", "timm": "timm"}
_HEADS = {
    "text tower of the backbone": "backbone's text",
    "text tower of the task": "own text",
    "classifier of the checkpoint": "classifier",
}
_MOST_NAMES = 40  # of tensors outside a tower, on the page


@dataclass(frozen=True)
class Figures:
    """Rows of text under a head; the first cell of each is its name."""

    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Number of a row -> how dark each cell but the first is, from 0 to 1; a page tints a table that has them."""
    wide: bool = False
    """with a column or row per task or block, so that a terminal leaves it out"""
    fold: bool = False
    """one of many of its kind, which a page shows when it is asked"""


def headline(report: CheckReport) -> str:
    """Say in a sentence what came of the check."""
    faults = count(len(report.faults), "fault")
    verdict = f"merge would refuse them ({faults})" if report.refused else "merge would take them"
    tasks, warnings = count(len(report.tasks), "task"), count(len(report.warnings), "warning")
    return f"{report.path}: {tasks}, {verdict}, {warnings}; checked in {report.seconds:.1f} s"


def said(finding: Finding) -> str:
    """Return a fault or a warning with what it is about."""
    about = ", ".join(filter(None, (finding.task, finding.part)))
    return f"{about}: {finding.message}"


def figures(report: CheckReport) -> Iterator[Figures]:
    """Yield all tables that have rows, in the order in which they are shown."""
    tables = (_checkpoints, _images, _movement, _depth, _explained, _alike, _cosines, _routes, _sizes)
    for table in tables:
        for shown in table(report):
            if shown.rows:
                yield shown


def _checkpoints(report: CheckReport) -> Iterator[Figures]:
    rows = []
    named = [
        ("backbone", report.backbone, ""),
        *((task.name, task.checkpoint, _HEADS.get(task.head or MISSING, task.head or MISSING)) for task in report.tasks),
    ]
    for name, facts, head in named:
        if facts is None:
            rows.append([name, *[MISSING] * 5, head])
        else:
            kind = [
                _NAMINGS.get(facts.naming, facts.naming),
                facts.container,
                "/".join(facts.dtypes),
                format_bytes(facts.bytes),
            ]
            rows.append([name, *kind, str(len(facts.outside)), head])
    about = "Beside: tensors that belong neither to the tower nor to the model around it."
    yield Figures("Checkpoints", about, ["", "names", "file", "type", "size", "beside", "head"], rows)


def _images(report: CheckReport) -> Iterator[Figures]:
    rows = []
    for task in report.tasks:
        if (facts := task.images) is not None:
            counts = sorted(set(facts.per_class.values()))
            each = "-".join(map(str, counts)) if counts else MISSING
            seeds = facts.found.get("seeds")
            found = [MISSING, MISSING] if seeds is None else [str(seeds.images), str(sum(seeds.skipped.values()))]
            shared = [_overlap(facts.overlap, key) for key in ("test", "tune")]
            rows.append([task.name, str(task.classes), str(facts.count), *found, each, str(facts.duplicates), *shared])
    about = (
        "Drawn from those found; skipped: files and images left out. Copies: with the bytes of another before. In test and in "
        "tune: byte for byte; ? where these are not looked at."
    )
    head = ["", "classes", "images", "found", "skipped", "per class", "copies", "in test", "in tune"]
    yield Figures("Calibration images", about, head, rows)


def _movement(report: CheckReport) -> Iterator[Figures]:
    tasks = [task for task in report.tasks if task.weights is not None]
    kinds = list(dict.fromkeys(_kind(layer) for task in tasks[:1] if task.weights for layer in task.weights.movement))
    rows = []
    for task in tasks:
        if task.weights is None:
            continue
        by_kind = [_mean([v for layer, v in task.weights.movement.items() if _kind(layer) == kind]) for kind in kinds]
        whole = [task.weights.linear_movement, *by_kind, task.weights.vector_movement]
        rows.append([task.name, *map(_percent, whole), f"{task.weights.backbone_cosine:.3f}"])
    about = (
        "How far fine-tuning moved the weights, in percent of their own norm: of all linear layers, of each kind (the mean "
        "over the blocks), and of all else. Cosine: of the weights in the blocks with the backbone's."
    )
    head = ["", "linear", *(kind.replace("patch_embedding", "patch").replace("projection", "proj") for kind in kinds)]
    yield Figures("Movement", about, [*head, "rest", "cosine"], rows)


def _depth(report: CheckReport) -> Iterator[Figures]:
    for task in report.tasks:
        if task.weights is None:
            continue
        inside = {layer: moved for layer, moved in task.weights.movement.items() if layer.startswith("blocks.")}
        kinds = list(dict.fromkeys(map(_kind, inside)))
        blocks = list(dict.fromkeys(layer.split(".")[1] for layer in inside))
        most = max(inside.values(), default=0.0) or 1.0
        values = [[inside[f"blocks.{block}.{kind}"] for kind in kinds] for block in blocks]
        rows = [[block, *map(_percent, row)] for block, row in zip(blocks, values, strict=True)]
        shares = {number: [value / most for value in row] for number, row in enumerate(values)}
        yield Figures(task.name, "", ["block", *kinds], rows, shares, wide=True, fold=True)


def _explained(report: CheckReport) -> Iterator[Figures]:
    tasks = [task for task in report.tasks if task.weights is not None]
    ranks = [rank for task in tasks[:1] if task.weights for rank in task.weights.explained_norm]
    values = [[task.weights.explained_norm[rank] for rank in ranks] for task in tasks if task.weights]
    rows = [[task.name, *(_percent(value) for value in row)] for task, row in zip(tasks, values, strict=True)]
    layers = (report.architecture or {}).get("layers", 0)
    sampled = ", ".join(str(block) for block in report.spectrum_blocks)
    of = (
        "of all layers" if len(report.spectrum_blocks) == layers else f"sampled: of the blocks {sampled} and all layers outside"
    )
    about = (
        f"What an expert keeps of a task vector's squared norm, in percent, by rank ({of}). The settings' rank is "
        f"{report.settings.get('rank')}."
    )
    yield Figures("Explained norm", about, ["", *map(str, ranks)], rows, dict(enumerate(values)))


def _alike(report: CheckReport) -> Iterator[Figures]:
    rows = []
    for task in report.tasks:
        nearest, routed = _nearest(report, task), _routed(report, task)
        if nearest or routed:
            rows.append([task.name, *(nearest or (MISSING, MISSING)), *(routed or (MISSING, MISSING, MISSING))])
    about = "Nearest: the task whose task vector has the largest cosine. Routed: left-out calibration images, rough."
    head = ["", "nearest", "cosine", "routed to itself", "most others to", "of all"]
    yield Figures("Likeness of tasks", about, head, rows)


def _nearest(report: CheckReport, task: TaskFacts) -> tuple[str, str] | None:
    if report.similarity is None or task.name not in report.similarity.tasks or len(report.similarity.tasks) < 2:
        return None
    own = report.similarity.tasks.index(task.name)
    cosine, other = max((c, n) for n, c in enumerate(report.similarity.cosines[own]) if n != own)
    return report.similarity.tasks[other], f"{cosine:z.3f}"


def _routed(report: CheckReport, task: TaskFacts) -> tuple[str, str, str] | None:
    if report.confusion is None or task.name not in report.confusion.routed:
        return None
    shares = dict(zip(report.confusion.tasks, report.confusion.routed[task.name], strict=True))
    right = shares.pop(task.name)
    other = max(shares, key=shares.__getitem__)
    return f"{right:.0%}", other if shares[other] else MISSING, f"{shares[other]:.0%}" if shares[other] else MISSING


def _cosines(report: CheckReport) -> Iterator[Figures]:
    if report.similarity is not None and len(report.similarity.tasks) > 1:
        names, cosines = report.similarity.tasks, report.similarity.cosines
        rows = [[name, *(f"{round(value, 2) + 0.0:.2f}" for value in row)] for name, row in zip(names, cosines, strict=True)]
        shares = {number: [min(abs(value), 1.0) for value in row] for number, row in enumerate(cosines)}
        about = "Cosines of task vectors, over all layers that carry experts."
        yield Figures("Similarity of tasks", about, ["", *names], rows, shares, wide=True)


def _routes(report: CheckReport) -> Iterator[Figures]:
    if (confusion := report.confusion) is not None:
        rows = [[name, *(_percent(share) for share in shares)] for name, shares in confusion.routed.items()]
        about = (
            f"Percent of left-out calibration images by the task that a router of {_reads(confusion.blocks)} sends them to; of "
            f"at most {max(confusion.images.values())} images a task, and so rough."
        )
        yield Figures("Routes", about, ["", *confusion.tasks], rows, dict(enumerate(confusion.routed.values())), wide=True)


def _sizes(report: CheckReport) -> Iterator[Figures]:
    rows = [
        [str(size.rank), *map(format_bytes, (size.expert, size.merged_model, size.bundle, size.memory))]
        for size in report.sizes
    ]
    about = "In float32. Memory: of weights, with the router and one expert resident; ONNX Runtime's own comes on top."
    yield Figures("What it will take, by rank", about, ["rank", "an expert", "merged model", "bundle", "memory"], rows)


def read(report: CheckReport) -> list[tuple[str, str]]:
    """Return what was read of images, by task and key of the task file."""
    listed = []
    for task in report.tasks:
        for key, found in (task.images.found if task.images else {}).items():
            if found is not None:
                counts = [f"{number} {reason}" for reason, number in found.skipped.items()]
                by_class = [f"{name} {number}" for name, number in found.per_class.items()]
                skipped = f"; skipped: {', '.join(counts)}" if counts else ""
                of = f" ({', '.join(by_class)})" if by_class else ""
                listed.append((f"{task.name}: {key}", f"{found.taken}: {found.images} images{of}{skipped}"))
    return listed


def outside(report: CheckReport) -> list[tuple[str, str]]:
    """Return what lies beside each tower, by task."""
    listed = []
    for task in report.tasks:
        if task.checkpoint is not None and (names := task.checkpoint.outside):
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            listed.append((task.name, ", ".join(names[:_MOST_NAMES]) + more))
    return listed


def _kind(layer: str) -> str:
    return layer.split(".")[-1] if layer.startswith("blocks.") else layer


def _overlap(overlap: Mapping[str, int | None], key: str) -> str:
    if key not in overlap:
        return MISSING
    return "?" if overlap[key] is None else str(overlap[key])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.9995 else f"{100 * share:.0f}"


def _reads(blocks: int | None) -> str:
    return "the pixels" if blocks is None else f"the pixels and {blocks} blocks"
