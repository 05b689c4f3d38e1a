"""All cells, one after another; what was measured before is kept, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mingle_edge_runtime
from devices.cases import Case
from devices.cell import Cell, judge
from devices.command import UnavailableError, last_line
from devices.device import KINDS, Device
from devices.environment import Environment, prepare_environment
from mingle_edge.files.atomic_files import write_text

LONGEST = 1800  # seconds of one cell; an emulated processor is about 20 times slower


def measure_matrix(
    devices: Sequence[Device], cases: Sequence[Case], folder: Path, measured: Callable[[Cell], None]
) -> list[Cell]:
    """Measure every case on every device with each of its versions.

    folder: where cells are kept. measured: called with each cell. A cell that cannot be measured says why; nothing is raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for device in devices:
        for version in device.versions:
            environment = _try_prepare(device, version)
            jobs += [(device, version, environment, case, folder) for case in cases]
    cells = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each cell is a process with one thread
        for cell in pool.map(lambda job: _cell(*job), jobs):
            measured(cell)
            cells.append(cell)
    return cells


def run_script(environment: Environment, script: str, *arguments: str) -> Any:
    """Run a script of `on_device/` and return what it prints. Raises `RuntimeError` with its last line where it fails."""
    command = environment.run(script, *arguments)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment.variables, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {LONGEST} seconds") from error
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {last_line(done.stderr)}")
    return json.loads(done.stdout)


def _try_prepare(device: Device, version: str) -> Environment | UnavailableError:
    try:
        return prepare_environment(device, version)
    except UnavailableError as error:
        return error


def _cell(device: Device, version: str, environment: Environment | UnavailableError, case: Case, folder: Path) -> Cell:
    if isinstance(environment, UnavailableError):
        return Cell(device.key, version, case.name, "not measured", str(environment))
    kept, key = folder / f"{device.key}-{version}-{case.name}.json", _key(device, environment, case)
    cell = Cell.from_json(json.loads(kept.read_text())) if kept.exists() else None
    if cell is None or cell.key != key:
        cell = replace(_measure(device, version, environment, case), key=key, date=f"{datetime.now(UTC):%Y-%m-%d}")
        write_text(kept, json.dumps(asdict(cell), indent=1))
    return cell


def _measure(device: Device, version: str, environment: Environment, case: Case) -> Cell:
    cell = Cell(device.key, version, case.name, "not measured", installed=dict(environment.versions))
    installed = environment.versions[device.package]
    least = case.bundle.index.minimum_onnxruntime
    if _numbers(installed) < _numbers(least):
        return replace(cell, reason=f"the bundle needs ONNX Runtime {least} or newer")
    try:
        answers = run_script(environment, "measure", str(case.folder))
    except RuntimeError as error:
        return replace(cell, state="wrong", reason=str(error).replace(str(case.folder), case.name))
    runs, products, wrong = judge(case, answers)
    return replace(
        cell,
        state="wrong" if wrong else "right",
        reason="; ".join(wrong),
        runs=runs,
        products=products,
        full_codes=answers["full_codes"],
    )


def _key(device: Device, environment: Environment, case: Case) -> str:
    """A digest of all that decides what a cell holds."""
    digest = hashlib.sha256(case.key.encode())
    digest.update((KINDS / f"{device.key}.toml").read_bytes())
    digest.update(json.dumps(dict(environment.versions), sort_keys=True).encode())
    here, runtime = Path(__file__).parent, Path(mingle_edge_runtime.__file__).parent
    for path in sorted([*runtime.rglob("*.py"), *(here / "on_device").glob("*.*js"), *(here / "on_device").glob("*.py")]):
        digest.update(path.read_bytes())
    digest.update((here / "cell.py").read_bytes())
    return digest.hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
