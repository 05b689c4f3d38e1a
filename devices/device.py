"""A kind of device: one file in `kinds/`."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

from mingle_edge.core.errors import FileError
from mingle_edge.files.text_file import read_text
from mingle_edge_runtime.bundle.json_record import RecordError, read_record

KINDS = Path(__file__).with_name("kinds")
NEWEST = "newest"
Program = Literal["python", "onnxruntime-node", "onnxruntime-web"]
Machine = Literal["", "x86_64", "aarch64"]


class DeviceFileError(ValueError):
    """A file in `kinds/`, or a name of a device or bundle on the command line, is wrong."""


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
    machine: Machine = ""
    """this machine's own when empty"""
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
        values = tomllib.loads(read_text(path))
        device = read_record(Device, _DEFAULTS | values | {"key": path.stem})
        for kind, given in ((Device, values), (Processor, values.get("processor", {}))):
            known = [field.name for field in fields(kind)]
            if unknown := [name for name in given if name not in known]:
                raise RecordError(f"{unknown[0]!r} is not known; there are {', '.join(known)}")
    except (FileError, ValueError, RecursionError) as error:
        what = "" if isinstance(error, RecordError) else "is no TOML: "
        raise DeviceFileError(f"{path}: {what}{error}") from error
    if not device.versions:
        raise DeviceFileError(f'{path}: versions is empty; name those of ONNX Runtime, such as ["{NEWEST}", "1.20.1"]')
    if device.emulated_cpu and not device.machine:
        raise DeviceFileError(f"{path}: emulated_cpu is {device.emulated_cpu!r}; say of which machine, x86_64 or aarch64")
    if device.machine == "aarch64" and device.emulated_cpu and device.processor is None:
        raise DeviceFileError(f"{path}: has no [processor]; without it ONNX Runtime reads this machine's and crashes")
    return device


_DEFAULTS = {field.name: field.default for field in fields(Device) if field.default is not MISSING}
