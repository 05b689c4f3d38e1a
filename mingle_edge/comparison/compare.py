"""The comparison: parameters tuned if asked, then cells of every method, order and corruption, and their figures."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingle_edge.comparison import results as figures
from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.entries import Entry, hint, parse_entries, with_ablations
from mingle_edge.comparison.kept_cells import KeptCells
from mingle_edge.comparison.registry import REFERENCES, SPECS
from mingle_edge.comparison.results import Finished
from mingle_edge.comparison.table import write_csv, write_routes
from mingle_edge.comparison.tuning import Tuning, trials
from mingle_edge.core.errors import ComparisonError
from mingle_edge.core.extras import install_command
from mingle_edge.core.progress import Progress, silent
from mingle_edge.data.corruptions import Corruption
from mingle_edge.data.settings import AUTOMATIC
from mingle_edge.data.task_files import TaskFilePaths, check_same_settings, read_task_files
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.files.output_path import check_output_folder, write_output
from mingle_edge_runtime.ort.processor import read_processor

if TYPE_CHECKING:
    from mingle_edge.comparison.execution import Execute, Source
    from mingle_edge.comparison.material import Material

CELLS, RESULTS, CSV, ROUTES, PAGE = "cells", "results.json", "results.csv", "routes.csv", "report.html"
CARRIED = ("rank",)
"""Settings of the task file that methods with a parameter of that name take over: a rank belongs to the width of a tower. Not
"auto", which each has in its own way.
"""
_PACKAGES = ("mingle-edge", "torch", "open_clip_torch", "numpy")


@dataclass(frozen=True)
class ComparisonOptions:
    """How methods are compared.

    Attributes:
        methods: such as `ties,mingle(steps=10)`; None: one of each kind, unless ablations are named.
        ablations: the rows of tables of the paper, by name; `compression` is the table of ways to store a task.
        orders: task orders to average over.
        seed: of the orders and of everything random.
        tune: choose parameters on the validation images, 5 trials a method.
        corruptions: the test images are corrupted by these as well.
        step_images: test images per task of states in between; None: all, 0: those states are passed over.
        unmerged: tasks that are never merged; what the merged model still knows of them is measured.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        parallel: on Ray, where it is installed.
        address: HOST:PORT of a Ray cluster; None: this machine.
    """

    methods: str | None = None
    ablations: Sequence[str] = ()
    orders: int = 10
    seed: int = 42
    tune: bool = False
    corruptions: tuple[Corruption, ...] = ()
    step_images: int | None = None
    unmerged: Sequence[str] = ()
    device: str = "auto"
    parallel: bool = True
    address: str | None = None


@dataclass
class Comparison:
    """Cells computed so far, those that failed, and where to keep them."""

    material: Material
    execute: Execute
    kept: KeptCells
    progress: Progress
    failed: list[dict[str, Any]] = field(default_factory=list)
    checked: bool = False  # whether all images were decoded once; a run that computes nothing need not

    def run(self, cells: Sequence[Cell], stage: str) -> list[CellResult | None]:
        """Return the result of every cell, None where it failed; kept ones are read instead of computed.

        Raises:
            ImageFolderError: naming broken images, before the first cell is computed.
        """
        keys = [cell.key(self.material) for cell in cells]
        results = [self.kept.load(key) for key in keys]
        missing = {id(cell): n for n, (cell, result) in enumerate(zip(cells, results, strict=True)) if result is None}
        kept = len(cells) - len(missing)
        if missing and not self.checked:
            self.material.check_images(self.progress)
            self.checked = True
        self.progress(stage, kept, len(cells))
        for done, (cell, outcome) in enumerate(self.execute([cells[n] for n in missing.values()]), start=kept + 1):
            number = missing[id(cell)]
            if isinstance(outcome, str):
                corruption = cell.corruption.name if cell.corruption else None
                failed = {"method": cell.label, "order": list(cell.order), "corruption": corruption, "error": outcome}
                self.failed.append(failed)
            else:
                self.kept.keep(keys[number], outcome)
                results[number] = outcome
            self.progress(stage, done, len(cells), cell.label)
        return results


def compare(
    task_files: TaskFilePaths,
    output: str | Path,
    options: ComparisonOptions | None = None,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare methods on the tasks of task files; cells that `output` holds already are not computed again.

    Writes `results.json` (docs/comparison.md), `results.csv`, `routes.csv` and `report.html`, and returns what the first holds.
    Pretrained and individual models are always compared. A cell that fails is listed under `failed`, costs no other, and is
    tried again by the next run. The task files, the options and the output are checked before torch is imported.

    Args:
        task_files: one, or a sequence whose tasks are compared together, of one backbone and with equal settings; each task
            with `test` images, and with `tune` images where parameters are to be chosen.
        output: a folder for the results and every finished cell.
        options: what is compared and how; the defaults are one method of each kind over ten orders.
        progress: is told how far the work is.

    Raises:
        ComparisonError: an unknown method or parameter, no validation images to tune on, seeds among the labeled images.
        OutputError: `output` cannot be written.
        TaskFileError, CheckpointError, ImageFolderError, HubError: of the inputs, all of which are read before any work.
        DeviceError: there is no such device.
    """
    started = time.perf_counter()
    output, plan = Path(output), options or ComparisonOptions()
    check_output_folder(output, RESULTS, CSV, ROUTES, PAGE)
    check_output_folder(output / CELLS)
    _check_address(plan)
    files = read_task_files(task_files)
    check_same_settings(files)
    names = merged_tasks([task.name for file in files for task in file.tasks], plan.unmerged)
    given = {key: value for key, value in files[0].settings.items() if key in CARRIED and value != AUTOMATIC}
    entries = parse_entries(f"{','.join(REFERENCES)},{with_ablations(plan.methods, plan.ablations)}", SPECS, len(names), given)
    counts = tuple(sorted({entry.seeds_per_class for entry in entries if entry.seeds_per_class is not None}))
    untuned = next(((file, task) for file in files for task in file.tasks if task.tune is None), None)
    if plan.tune and untuned is not None:
        raise ComparisonError(
            f"{untuned[0].path}: parameters are tuned on validation images, and task {untuned[1].name!r} has none; "
            'add tune = "dir/<class>/*.png" to every [[task]] table, or compare without --tune'
        )
    from mingle_edge.comparison.execution import Source
    from mingle_edge.comparison.material import Material
    from mingle_edge.comparison.page import write_page
    from mingle_edge.core.device import choose_device

    device = choose_device(plan.device)
    paths = [file.path for file in files]
    material = Material.open(paths, seed=plan.seed, seeds_per_class=counts, progress=progress)
    material.check_disjoint()
    source = Source(tuple(path.absolute() for path in paths), plan.seed, counts, plan.device)
    with _executing(plan, source, material, progress) as execute:
        comparison = Comparison(material, execute, KeptCells(output / CELLS), progress)
        tunings = _tune(comparison, entries, names, plan) if plan.tune else {}
        chosen = [replace(e, parameters=tunings[e.label].chosen) if e.label in tunings else e for e in entries]
        orders = task_orders(names, plan.orders, plan.seed)
        cells = [
            replace(
                _cell(entry, order, plan),
                corruption=corruption,
                every_step=corruption is None and plan.step_images != 0,
                unmerged=tuple(sorted(plan.unmerged)) if corruption is None else (),
            )
            for corruption in (None, *plan.corruptions)
            for order in orders
            for entry in chosen
        ]
        computed = comparison.run(cells, "compare")
    finished = [Finished(cell, result) for cell, result in zip(cells, computed, strict=True) if result is not None]
    results = {
        "format": figures.FORMAT,
        "format_version": figures.FORMAT_VERSION,
        "task_file": ", ".join(map(str, paths)),
        "protocols": list(PROTOCOLS),
        "tasks": [task for task in material.record() if task["name"] in names],
        "unmerged_tasks": [task for task in material.record() if task["name"] not in names],
        "settings": {
            "orders": plan.orders,
            "seed": plan.seed,
            "tuned": plan.tune,
            "corruptions": [vars(corruption) for corruption in plan.corruptions],
            "step_images": plan.step_images,
        },
        "orders": orders,
        "machine": {
            "cpu": read_processor().name,
            "cores": os.cpu_count(),
            "device": str(device),
            "system": platform.platform(),
        },
        "versions": {name: version(name) for name in _PACKAGES},
        **figures.all_figures(chosen, finished, names, tunings),
        "failed": comparison.failed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_output(output / RESULTS, json.dumps(results, indent=1) + "\n")
    write_csv(results, output / CSV)
    write_routes(results, output / ROUTES)
    write_page(results, output / PAGE)
    return results


def merged_tasks(tasks: Sequence[str], unmerged: Sequence[str]) -> list[str]:
    """Return the tasks that are merged. Raises `ComparisonError` if one to leave out does not exist, or none is left."""
    for name in unmerged:
        if name not in tasks:
            raise ComparisonError(f"unmerged: there is no task {name!r}; {hint(name, tasks, 'the tasks are')}")
    merged = [name for name in tasks if name not in unmerged]
    if not merged:
        raise ComparisonError(
            f"unmerged names all of the {len(tasks)} tasks, and at least one must be merged; leave one out of it"
        )
    return merged


def task_orders(tasks: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Return `count` orders of the tasks: order i is Python's shuffle of the given list seeded with `seed + i`.

    The rule of arXiv 2505.11883, there with seed 42 and ten orders.
    """
    return [_shuffled(tasks, seed + i) for i in range(count)]


def tuning_order(tasks: Sequence[str], seed: int) -> list[str]:
    """Return the order that parameters are tuned on; it is none of `task_orders` by the same seed unless chance repeats it."""
    return _shuffled(tasks, seed - 1)


def _shuffled(tasks: Sequence[str], seed: int) -> list[str]:
    order = list(tasks)
    random.Random(seed).shuffle(order)
    return order


def _cell(entry: Entry, order: Sequence[str], plan: ComparisonOptions) -> Cell:
    return Cell(
        label=entry.label,
        method=entry.method,
        parameters=entry.parameters,
        order=tuple(order),
        seed=plan.seed,
        seeds_per_class=entry.seeds_per_class,
        step_images=plan.step_images,
    )


def _tune(comparison: Comparison, entries: Sequence[Entry], tasks: Sequence[str], plan: ComparisonOptions) -> dict[str, Tuning]:
    """Run every trial of every method on the validation images, and return what each came to."""
    order = tuning_order(tasks, plan.seed)
    tried = [(entry, parameters) for entry in entries for parameters in trials(entry)]
    cells = [
        replace(_cell(entry, order, plan), parameters=parameters, part="tune", every_step=False, step_images=None)
        for entry, parameters in tried
    ]
    tunings: dict[str, Tuning] = {}
    for (entry, parameters), result in zip(tried, comparison.run(cells, "tune"), strict=True):
        tunings.setdefault(entry.label, Tuning(entry.parameters)).record(parameters, result)
    return tunings


def _check_address(plan: ComparisonOptions) -> None:
    if plan.address is not None and not _ray_is_there():
        raise ComparisonError(
            f"address {plan.address!r}: cells run on a cluster by Ray, which is not installed; install it "
            + install_command("ray")
        )


def _ray_is_there() -> bool:
    return importlib.util.find_spec("ray") is not None


def _executing(
    plan: ComparisonOptions, source: Source, material: Material, progress: Progress
) -> AbstractContextManager[Execute]:
    """Choose where cells run: on Ray where it is there and wanted, else in this process."""
    from mingle_edge.comparison.execution import on_ray, one_after_another

    if plan.parallel and _ray_is_there():
        return on_ray(source, plan.address)
    return nullcontext(one_after_another(source, material, progress))
