"""One cell of a comparison: one method over one order of tasks, evaluated on one part of the images, corrupted or not."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge import __version__
from mingle_edge.comparison.material import Material, Part
from mingle_edge.comparison.method import Answer, ContinualMethod, MethodSpec, TestBatch, Workbench
from mingle_edge.corruptions import Corruption
from mingle_edge.errors import ComparisonError
from mingle_edge.progress import Progress
from mingle_edge.protocols import PROTOCOLS, predict_among, predict_within
from mingle_edge.vision_tower import embed_images

VERSION = 2  # of what a cell computes; another one makes all kept cells worthless
LATENCY_RUNS = 30


@dataclass(frozen=True)
class Cell:
    """What is to be computed; equal cells on equal material have equal results, timings aside."""

    label: str
    method: str
    parameters: Mapping[str, Any]  # of the method
    order: tuple[str, ...]
    seed: int
    seeds_per_class: int | None = None  # None: as the task file says
    part: Part = "test"
    corruption: Corruption | None = None
    every_step: bool = True  # accuracy of all tasks so far after each step; otherwise right after their own and in the end
    step_images: int | None = None  # images per task for states that are neither a task's own nor the last; None: all

    def key(self, material: Material) -> str:
        """SHA-256 of all that the result depends on, the label excepted."""
        record = asdict(self) | {"parameters": dict(self.parameters), "version": VERSION, "release": __version__}
        del record["label"]
        record["material"] = material.digest(self.order, self.part, self.seeds_per_class)
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@dataclass
class CellResult:
    """Accuracies in percent, rows after 0, 1, ... T tasks, columns in the cell's order; None where not measured."""

    accuracy: dict[str, list[list[float | None]]]
    seconds: list[float]  # to add each task
    stored_bytes: int = 0
    active_bytes: int = 0
    latency_ratio: float | None = None  # one image, over the plain backbone; interleaved
    routes: list[list[float]] | None = None  # last state, percent: row task, column task routed to, then the plain backbone
    confusion: list[list[float]] = field(default_factory=list)  # P3, last state, percent: row task, column task of the label


def run_cell(cell: Cell, spec: MethodSpec, material: Material, workbench: Workbench, progress: Progress) -> CellResult:
    """Merge the tasks in order, evaluating in between."""
    method = spec.build(workbench, cell.parameters)
    count = len(cell.order)
    heads = [material.prepared[name].head.to(workbench.device) for name in cell.order]
    result = CellResult({protocol: [[None] * count for _ in range(count + 1)] for protocol in PROTOCOLS}, [])
    evaluation = _Evaluation(cell, material, workbench, method, heads, result)
    for merged in range(count + 1):
        progress("cell", merged, count, cell.label)
        if merged:
            task = material.compared(cell.order[merged - 1], cell.seeds_per_class, workbench.backbone, workbench.device)
            started = time.perf_counter()
            method.add(task)
            if workbench.device.type == "cuda":
                torch.cuda.synchronize()
            result.seconds.append(time.perf_counter() - started)
        evaluation.after(merged)
    result.stored_bytes, result.active_bytes = method.stored_bytes(), method.active_bytes()
    if cell.part == "test" and cell.corruption is None:
        result.latency_ratio = latency_ratio(method, material, cell.order[0], workbench)
    return result


@dataclass
class _Evaluation:
    cell: Cell
    material: Material
    workbench: Workbench
    method: ContinualMethod
    heads: list[Tensor]
    result: CellResult

    @torch.inference_mode()
    def after(self, merged: int) -> None:
        """Evaluate the state of so many tasks where the cell asks for it."""
        count = len(self.heads)
        last = merged == count
        for number in range(count):
            own, coming = number + 1 == merged, number == merged
            between = self.cell.every_step and number < merged
            if self.cell.part == "tune" and not last:
                continue
            if own or coming or last or between:
                self._task(number, merged, None if own or coming or last else self.cell.step_images)

    def _task(self, number: int, merged: int, limit: int | None) -> None:
        """Accuracy of one task's images in the current state; of a task still to come, under P1 alone."""
        name, last = self.cell.order[number], merged == len(self.heads)
        images = self.material.images(self.cell.part, name, self.cell.corruption)
        chosen = list(range(len(images))) if limit is None else images.first(limit)
        right = dict.fromkeys(PROTOCOLS, 0)
        routed, owners = [0.0] * (merged + 1), [0.0] * merged
        has_routes = False
        for numbers, pixels in images.batches(chosen):
            batch = TestBatch(pixels.to(self.workbench.device), name, numbers, self._source(name))
            labels = images.labels[numbers].to(self.workbench.device)
            answer = self.method.answer(batch)
            if not answer.embeds.isfinite().all():
                raise ComparisonError(f"{self.cell.label}: embeddings of {name!r} are not finite; change its parameters")
            right["P1"] += int((predict_within(answer.embeds, self.heads[number]) == labels).sum())
            if number >= merged:
                continue
            named = self.method.answer_named(batch, name)
            embeds = answer.embeds if named is None else named
            right["P2"] += int((predict_within(embeds, self.heads[number]) == labels).sum())
            owner, label = self._among(answer, merged)
            right["P3"] += int(((owner == number) & (label == labels)).sum())
            if last:
                has_routes = answer.routed is not None
                _count(routed, answer.routed)
                _count(owners, owner)
        for protocol in PROTOCOLS if number < merged else PROTOCOLS[:1]:
            self.result.accuracy[protocol][merged][number] = 100 * right[protocol] / len(chosen)
        if last:
            self.result.confusion.append([100 * n / len(chosen) for n in owners])
            if has_routes:
                self.result.routes = [*(self.result.routes or []), [100 * n / len(chosen) for n in routed]]

    def _among(self, answer: Answer, merged: int) -> tuple[Tensor, Tensor]:
        scale = self.workbench.logit_scale
        return predict_among(answer.embeds, self.heads[:merged], scale, answer.posterior, answer.claimed)

    def _source(self, task: str) -> str:
        corruption = self.cell.corruption
        return f"{self.cell.part}/{task}" + (f"/{corruption.name}/{corruption.severity}" if corruption else "")


def latency_ratio(method: ContinualMethod, material: Material, task: str, workbench: Workbench) -> float:
    """Median over interleaved pairs of the time for one image, task not told, over that of the plain backbone, in PyTorch."""
    images = material.images("test", task)
    _, pixels = next(iter(images.batches(images.first(LATENCY_RUNS))))
    ratios = []
    for run in range(LATENCY_RUNS):
        image = pixels[run % len(pixels), None].to(workbench.device)
        plain = _seconds(lambda image=image: _embed(image, workbench), workbench)
        # A source of its own each time: nothing kept may answer in the method's place.
        batch = TestBatch(image, task, [0], f"latency/{id(method)}/{run}")
        ratios.append(_seconds(lambda batch=batch: method.answer(batch), workbench) / plain)
    return median(ratios[LATENCY_RUNS // 5 :])  # the first ones warm up


@torch.inference_mode()
def _seconds(work: Any, workbench: Workbench) -> float:
    started = time.perf_counter()
    work()
    if workbench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _embed(image: Tensor, workbench: Workbench) -> Tensor:
    return F.normalize(embed_images(image, workbench.backbone, workbench.architecture), dim=-1)


def _count(counts: list[float], numbers: Tensor | None) -> None:
    """Add to `counts` how often each number comes; -1 counts at the end."""
    for n in [] if numbers is None else numbers.tolist():
        counts[n] += 1
