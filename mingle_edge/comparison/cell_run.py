"""Computing a cell: the tasks merged in order, their images evaluated in between, and what one image takes in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from mingle_edge.clip.head import Head
from mingle_edge.comparison.batches import TestBatch, fresh_batch
from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.material import Material
from mingle_edge.comparison.method import ContinualMethod, Workbench
from mingle_edge.comparison.multiply_adds import multiply_adds
from mingle_edge.comparison.registry import MethodSpec
from mingle_edge.core.errors import ComparisonError
from mingle_edge.core.progress import Progress
from mingle_edge.evaluation.answers import Answers, measure
from mingle_edge.evaluation.protocols import HEAD_GIVEN, PROTOCOLS

LATENCY_RUNS = 30
COUNTED = 4  # images that multiply-adds are counted of, after each task


def run_cell(cell: Cell, spec: MethodSpec, material: Material, workbench: Workbench, progress: Progress) -> CellResult:
    """Merge the tasks in order, evaluating in between, and return the figures of every state that the cell asks for."""
    method = spec.build(workbench, cell.parameters)
    count = len(cell.order)
    heads = [material.inputs[name].head.to(workbench.device) for name in cell.order]
    result = CellResult({protocol: [[None] * count for _ in range(count + 1)] for protocol in PROTOCOLS}, [])
    run = _Run(cell, material, workbench, method, heads, result)
    measures_costs = cell.part == "test" and cell.corruption is None
    for merged in range(count + 1):
        progress("cell", merged, count, cell.label)
        if merged:
            task = material.load(cell.order[merged - 1], cell.seeds_per_class, workbench)
            result.seconds.append(_seconds(workbench, method.add, task))
            result.stored_after.append(method.stored_bytes())
        if measures_costs:
            images = _first_images(material, cell.order[0], COUNTED)
            result.multiply_adds.append(multiply_adds(method, images.to(workbench.device), cell.order[0]))
        run.evaluate(merged)
    run.evaluate_unmerged()
    result.stored_bytes, result.active_bytes = method.stored_bytes(), method.active_bytes()
    result.bytes_per_task = method.bytes_per_task()
    if measures_costs:
        result.latency_ratio = latency_ratio(method, material, cell.order[0], workbench)
    return result


@dataclass
class _Run:
    cell: Cell
    material: Material
    workbench: Workbench
    method: ContinualMethod
    heads: list[Head]
    result: CellResult

    @torch.inference_mode()
    def evaluate(self, merged: int) -> None:
        """Evaluate the state of so many tasks where the cell asks for it."""
        count = len(self.heads)
        for number in range(count):
            whole = merged in (number, number + 1, count)  # just before and after its own merge, and in the end
            if self.cell.part == "tune" and merged < count:
                continue
            if whole or (self.cell.every_step and number < merged):
                self._evaluate_task(number, merged, None if whole else self.cell.step_images)

    @torch.inference_mode()
    def evaluate_unmerged(self) -> None:
        """Measure images of the tasks that are never merged, under P1, in the current state."""
        if not self.cell.unmerged:
            return
        accuracy, refused = {}, {}
        for name in self.cell.unmerged:
            images = self.material.parts[self.cell.part][name]
            answers, _ = self._answers(name, range(len(images)), named=False)
            head = self.material.inputs[name].head.to(self.workbench.device)
            measured = measure(answers, None, [images.labels[n] for n in range(len(images))], 0, [head], 0)
            accuracy[name] = measured.right[HEAD_GIVEN]
            if measured.unclaimed is not None:
                refused[name] = measured.unclaimed
        self.result.unmerged, self.result.refused = accuracy, refused or None

    def _evaluate_task(self, number: int, merged: int, limit: int | None) -> None:
        """Measure one task's images in the current state; those of a task still to come, under P1 alone."""
        name = self.cell.order[number]
        images = self.material.parts[self.cell.part][name]
        chosen = range(len(images)) if limit is None else images.evenly(limit)
        joined, told = self._answers(name, chosen, named=number < merged)
        measured = measure(joined, told, [images.labels[n] for n in chosen], number, self.heads, merged)
        for protocol, right in measured.right.items():
            self.result.accuracy[protocol][merged][number] = right
        if merged == len(self.heads) and measured.owners is not None:
            self.result.confusion.append(_shares(measured.owners, merged))
            if joined.routed is not None:
                self.result.routes = [*(self.result.routes or []), _shares(joined.routed, merged + 1)]

    def _answers(self, name: str, chosen: Sequence[int], *, named: bool) -> tuple[Answers, Tensor | None]:
        """Return the answers to a task's images, and, if asked for, embeddings where it is named and that makes a difference.

        Raises `ComparisonError` for embeddings that are not finite.
        """
        answers, told = [], []
        images = self.material.parts[self.cell.part][name]
        for numbers, pixels in images.batches(self.material.architecture, chosen, self.cell.corruption):
            batch = TestBatch(pixels.to(self.workbench.device), name, list(numbers), self._source(name))
            answers.append(self.method.answer(batch))
            if not answers[-1].embeds.isfinite().all():
                raise ComparisonError(f"{self.cell.label}: embeddings of {name!r} are not finite; change its parameters")
            if named and (embeds := self.method.answer_named(batch, name)) is not None:
                told.append(embeds)
        return Answers.joined(answers), torch.cat(told) if told else None

    def _source(self, task: str) -> str:
        corruption = self.cell.corruption
        return f"{self.cell.part}/{task}" + (f"/{corruption.name}/{corruption.severity}" if corruption else "")


@torch.inference_mode()
def latency_ratio(method: ContinualMethod, material: Material, task: str, workbench: Workbench) -> float:
    """Return the time for one image, task not told, over the plain backbone's: a median of interleaved pairs in PyTorch."""
    pixels = _first_images(material, task, LATENCY_RUNS)
    ratios = []
    for run in range(LATENCY_RUNS):
        image = pixels[run % len(pixels), None].to(workbench.device)
        plain = _seconds(workbench, workbench.embed, image)
        ratios.append(_seconds(workbench, method.answer, fresh_batch(image, task)) / plain)
    return median(ratios[LATENCY_RUNS // 5 :])  # the first ones warm up


def _first_images(material: Material, task: str, count: int) -> Tensor:
    """Return so many test images of a task, `[count, 3, H, W]`, or all there are."""
    images = material.parts["test"][task]
    return images.load(images.evenly(count), material.architecture)


def _seconds(workbench: Workbench, work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    if workbench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _shares(numbers: Tensor, count: int) -> list[float]:
    """Return how often each number from 0 comes, in percent; -1 is counted at the end."""
    return (100 * torch.bincount(numbers % count, minlength=count).double() / len(numbers)).tolist()
