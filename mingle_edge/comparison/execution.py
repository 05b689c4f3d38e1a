"""Running cells: one after another in this process, or on Ray, on this machine or a cluster."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from mingle_edge.comparison.cell import Cell, CellResult
from mingle_edge.comparison.cell_run import run_cell
from mingle_edge.comparison.material import Material
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.device import choose_device
from mingle_edge.core.errors import ComparisonError
from mingle_edge.core.progress import Progress, silent

CONNECTING = 10.0  # seconds


@dataclass(frozen=True)
class Source:
    """What a worker needs to open the material by itself."""

    task_files: tuple[Path, ...]  # absolute; on a cluster, on a file system that all its machines share
    seed: int
    seeds_per_class: tuple[int, ...]
    device: str


Outcome = CellResult | str
"""A finished cell, or in words why it failed."""
Execute = Callable[[Sequence[Cell]], Iterator[tuple[Cell, Outcome]]]


def one_after_another(source: Source, material: Material, progress: Progress) -> Execute:
    """Run cells in this process; one that raises is reported, and the others go on."""
    workbench = material.workbench(choose_device(source.device))

    def execute(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        for cell in cells:
            yield cell, _outcome(cell, material, workbench, progress)

    return execute


@contextmanager
def on_ray(source: Source, address: str | None) -> Iterator[Execute]:
    """Run cells as Ray tasks (docs.ray.io), each on one core, or on one GPU where the device is CUDA.

    `address` is a cluster's; None starts Ray on this machine, until the context is left. Cells in progress end when their
    iteration is left.

    Raises:
        ComparisonError: no cluster answers at that address.
    """
    import ray

    if address is not None:
        _check_answers(address)
    ending = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",  # without one, Ray would join whatever cluster ran here last
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    finally:
        if callable(ending) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ending)  # Ray takes it from whoever waits for it
    cuda = choose_device(source.device).type == "cuda"
    remote = ray.remote(num_cpus=1, num_gpus=1 if cuda else 0, max_retries=0)(_work)

    def execute(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        waiting = {remote.remote(source, cell): cell for cell in cells}
        try:
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    yield cell, ray.get(done)
                except ray.exceptions.RayError as error:  # the worker died: out of memory, a crash in native code
                    yield cell, _described(error)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    try:
        yield execute
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that something listens there: Ray itself would wait for minutes. Raises `ComparisonError`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTING).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> ComparisonError:
    return ComparisonError(
        f"address {address!r}: no Ray cluster answers ({error}); give HOST:PORT as `ray start --head` prints it"
    )


def _work(source: Source, cell: Cell) -> Outcome:
    """Run a cell in a worker, which keeps the material it has opened for the cells that follow."""
    torch.set_num_threads(1)
    material, workbench = _opened(source)
    return _outcome(cell, material, workbench, silent)


@cache
def _opened(source: Source) -> tuple[Material, Workbench]:
    material = Material.open(source.task_files, seed=source.seed, seeds_per_class=source.seeds_per_class, progress=silent)
    return material, material.workbench(choose_device(source.device))


def _outcome(cell: Cell, material: Material, workbench: Workbench, progress: Progress) -> Outcome:
    try:
        return run_cell(cell, SPECS[cell.method], material, workbench, progress)
    except Exception as error:  # whatever a method does wrong must not cost the other cells
        return _described(error)


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
