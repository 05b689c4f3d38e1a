"""A kind of device: one file in `kinds/`."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from devices.errors import DeviceFileError
from mingle_edge.core.errors import FileError
from mingle_edge.files.text_file import read_text

KINDS = Path(__file__).with_name("kinds")
NEWEST = "newest"
Program = Literal["python", "onnxruntime-node", "onnxruntime-web"]
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Processor:
    """What Linux on this processor says of it in /proc/cpuinfo; ONNX Runtime reads that on ARM."""

    model: str
    implementer: int
    part: int
    variant: int
    revision: int
    features: str


@dataclass(frozen=True)
class Device:
    """One kind of device, and the versions of ONNX Runtime to run there."""

    key: str
    """name of its file"""
    title: str
    order: int
    """place in the tables"""
    versions: tuple[str, ...]
    """of ONNX Runtime; `newest` is what the package index has when it is first installed"""
    program: Program = "python"
    """what runs the bundle: this project's runtime, or an application in JavaScript"""
    machine: str = ""
    """x86_64 or aarch64; this machine's own when empty"""
    emulated_cpu: str = ""
    """of QEMU's user mode, `-cpu`; no emulation when empty"""
    processor: Processor | None = None

    @property
    def package(self) -> str:
        """Whose version is meant."""
        return "onnxruntime" if self.program == "python" else self.program

    @property
    def foreign(self) -> bool:
        """Whether its programs are not this machine's."""
        return self.machine not in ("", platform.machine())


def read_devices(folder: Path = KINDS) -> list[Device]:
    """Read every file of a folder, in the order of the tables. Raises `DeviceFileError`."""
    return sorted((_read(path) for path in folder.glob("*.toml")), key=lambda device: (device.order, device.key))


def choose(devices: Iterable[Device], keys: Sequence[str]) -> list[Device]:
    """Pick the devices named by `keys`, all where there are none. Raises `DeviceFileError` listing what there is."""
    known = {device.key: device for device in devices}
    for key in keys:
        if key not in known:
            raise DeviceFileError(f"device {key!r} has no file in devices/kinds; there are {', '.join(known)}")
    return [device for key, device in known.items() if not keys or key in keys]


def _read(path: Path) -> Device:
    try:
        values: dict[str, Any] = tomllib.loads(read_text(path))
    except (FileError, ValueError, RecursionError) as error:
        raise DeviceFileError(f"{path} is no TOML: {error}") from error
    values["key"] = path.stem
    values["versions"] = tuple(values.get("versions", ()))
    if "processor" in values:
        values["processor"] = _record(path, Processor, values["processor"])
    device: Device = _record(path, Device, values)
    if not device.versions:
        raise DeviceFileError(f'{path}: versions is empty; name those of ONNX Runtime, such as ["{NEWEST}", "1.20.1"]')
    if device.program not in get_args(Program):
        raise DeviceFileError(f"{path}: program is {device.program!r}, must be one of {', '.join(get_args(Program))}")
    if device.machine not in ("", *_MACHINES):
        raise DeviceFileError(f"{path}: machine is {device.machine!r}, must be one of {', '.join(_MACHINES)}, or left out")
    if device.emulated_cpu and not device.machine:
        raise DeviceFileError(f"{path}: emulated_cpu is {device.emulated_cpu!r}; say of which machine, x86_64 or aarch64")
    if device.machine == "aarch64" and device.emulated_cpu and device.processor is None:
        raise DeviceFileError(f"{path}: has no [processor]; without it ONNX Runtime reads this machine's and crashes")
    return device


def _record(path: Path, kind: Any, values: Any) -> Any:
    """A dataclass of `values`, whose names and types must be its fields'."""
    if not isinstance(values, dict):
        raise DeviceFileError(f"{path}: {kind.__name__.lower()} must be a table, is {values!r}")
    known = {field.name: str(field.type) for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise DeviceFileError(f"{path}: {name!r} is not known; there are {', '.join(known)}")
        wanted = {"int": int, "str": str}.get(known[name])
        if wanted is not None and type(value) is not wanted:
            raise DeviceFileError(f"{path}: {name} must be of type {known[name]}, is {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise DeviceFileError(f"{path}: {str(error).partition(') ')[2] or error}") from error
