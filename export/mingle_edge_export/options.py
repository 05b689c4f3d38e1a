"""What to make of a merged model, and how far the result may be from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mingle_edge.data.task_files import TaskFilePaths
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export.errors import OptionError
from mingle_edge_runtime.bundle.index import Precision

M = TypeVar("M", bound=MergedModel)


@dataclass(frozen=True)
class Bounds:
    """What an export must keep, or fail."""

    cosine: float
    """at least, between an embedding and its reference"""
    route_agreement: float
    """at least, the share of routes that are the reference's"""
    accuracy_drop: float = 0.5
    """at most, points of accuracy lost on labeled images in the mean over tasks"""


DEFAULT_BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(0.99999, 1.0),
    "fp16": Bounds(0.9999, 0.99),
    "int8": Bounds(0.99, 0.9),
    "int4": Bounds(0.9, 0.8),
}
"""Of a bundle whose least precise part is stored so, the most precise first; in fp32 routes must agree wherever margins exceed
rounding."""


@dataclass(frozen=True)
class ExportOptions:
    """Choose what `export_bundle` makes of a merged model; by default all its tasks, in fp32.

    top_k: experts per image (image scope) or per layer (layer scope) of a run that does not say otherwise.
    tasks: names of the tasks to export, in this order; all where None.
    fold: name of the one task to export, merged into the weights: a plain tower without experts and router.
    precision: of the backbone's weights, "fp32", "fp16", "int8" or "int4".
    expert_precision: of experts; the backbone's where None.
    keep: points of accuracy that an expert may lose (image scope): the smallest form of each task's expert that loses no more,
        by what was measured on seeds when it was merged, in int8 or int4 unless expert_precision is given.
    expert_bytes: bytes that the file of an expert may have (image scope): the form that loses least in no more, likewise.
    router_precision: of the blocks that the router reads (image scope); the backbone's where None.
    images: a task file, or a sequence of those that the merged model grew by. Their calibration images decide how a model
        becomes int8; their test images tell what that costs.
    min_cosine: fail where an embedding's cosine with PyTorch's is less; between 0 and 1, by precision where None.
    min_route_agreement: fail where a smaller share of routes is PyTorch's; between 0 and 1, by precision where None.
    max_accuracy_drop: fail where more points of accuracy are lost on test images, in the mean over tasks, than in PyTorch with
        experts of the same rank; 0.5 where None.

    Raises `OptionError` where a bound is out of its range, asks for accuracy that is measured on no images, or contradicts
    another.
    """

    top_k: int = 1
    tasks: Sequence[str] | None = None
    fold: str | None = None
    precision: Precision = "fp32"
    expert_precision: Precision | None = None
    keep: float | None = None
    expert_bytes: int | None = None
    router_precision: Precision | None = None
    images: TaskFilePaths | None = None
    min_cosine: float | None = None
    min_route_agreement: float | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        for name, high in (("min_cosine", 1), ("min_route_agreement", 1), ("max_accuracy_drop", 100), ("keep", 100)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= high:
                raise OptionError(f"{name} is {value}, must be between 0 and {high}")
        if self.max_accuracy_drop is not None and self.images is None:
            raise OptionError("max_accuracy_drop: accuracy is measured on the test images of a task file; give images, too")

        if self.expert_bytes is not None and self.expert_bytes < 1:
            raise OptionError(f"expert_bytes is {self.expert_bytes}, must be at least 1")
        if self.keep is not None and self.expert_bytes is not None:
            raise OptionError("keep and expert_bytes both choose what experts are exported in; give one of them")
        if self.chooses and self.expert_precision == "fp16":
            raise OptionError(
                f"expert_precision: what experts keep in fp16 is not measured, and {self.chooses} cannot choose among them; "
                "leave it out, or give fp32, int8 or int4"
            )

    @property
    def chooses(self) -> str | None:
        """Return the option by which forms of experts are chosen; None where they are exported whole."""
        return "keep" if self.keep is not None else "expert_bytes" if self.expert_bytes is not None else None

    @property
    def experts(self) -> Precision:
        """Return the precision of experts where none is chosen for them."""
        return self.expert_precision or self.precision

    @property
    def router(self) -> Precision:
        """Return the precision of the router's blocks."""
        return self.router_precision or self.precision

    def lossless(self, experts: Iterable[Precision]) -> bool:
        """Return whether all weights stay as they are, with experts in these precisions."""
        return {self.precision, *experts, self.router} == {"fp32"}

    def bounds(self, experts: Iterable[Precision]) -> Bounds:
        """Return the bounds that are given, and those of the least precise part for the others.

        experts: the precisions of experts.
        """
        stored = [self.precision] if self.fold else [self.precision, *experts, self.router]
        default = DEFAULT_BOUNDS[max(stored, key=list(DEFAULT_BOUNDS).index)]
        return Bounds(
            default.cosine if self.min_cosine is None else self.min_cosine,
            default.route_agreement if self.min_route_agreement is None else self.min_route_agreement,
            default.accuracy_drop if self.max_accuracy_drop is None else self.max_accuracy_drop,
        )

    def select(self, merged: M) -> M:
        """Return the tasks to export of a merged model. Raises `OptionError` where an option does not fit it."""
        if not merged.tasks:
            raise OptionError(f"{merged.path}: there are no tasks in it yet; merge one first")
        tasks = self.tasks
        if self.fold is not None:
            if tasks is not None:
                raise OptionError("fold: exports one task alone; leave out tasks")
            merged.task(self.fold)
            if merged.scope == "layer":
                raise OptionError(
                    "fold: the gates of scope 'layer' differ from image to image; "
                    f"{self.fold!r} cannot be folded, export without"
                )
            if self.expert_precision is not None:
                raise OptionError("expert_precision: a folded task has no expert beside the weights; leave it out")
            if self.chooses:
                raise OptionError(f"{self.chooses}: a folded task has no expert beside the weights; leave it out")
            tasks = [self.fold]
        if self.chooses and merged.scope == "layer":
            raise OptionError(f"{self.chooses}: the experts of scope 'layer' are exported whole; leave it out")
        if self.router_precision is not None and (self.fold is not None or merged.scope == "layer"):
            raise OptionError(
                "router_precision: only bundles of scope 'image' with all their tasks have a router; leave it out"
            )
        if tasks is not None:
            if not tasks or len(set(tasks)) < len(tasks):
                raise OptionError(f"tasks must be different names, at least one, not {', '.join(tasks) or 'none'}")
            merged = merged.select(tasks)
        if not 1 <= self.top_k <= len(merged.tasks):
            raise OptionError(f"top_k is {self.top_k}, must be between 1 and the number of tasks, {len(merged.tasks)}")
        return merged
