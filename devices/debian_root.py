"""A file tree of another architecture with a Python in it, unpacked from Debian's packages; nothing of this system changes.

apt-get keeps lists, downloads and its idea of what is installed in a folder of ours, so it needs no rights and no `dpkg
--add-architecture`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from devices.cache import kept
from devices.command import UnavailableError, find, prepare
from devices.device import Device, Processor

_DEBIAN_NAMES = {"aarch64": "arm64", "x86_64": "amd64"}
_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
_CORES = 4


def root(device: Device) -> Path:
    """Return the file tree in which the device's programs look for files first. Raises `UnavailableError`."""
    return kept(f"root-of-{device.key}", lambda folder: _fill(folder, device))


def interpreter(machine: str) -> Path:
    """Return the Python of a foreign machine. Raises `UnavailableError`."""
    interpreters = sorted((_unpacked(machine) / "usr/bin").glob("python3.[0-9]*"))
    if not interpreters:
        raise UnavailableError(f"Debian's packages for {machine} hold no Python")
    return interpreters[-1]


def _unpacked(machine: str) -> Path:
    return kept(f"debian-{machine}", lambda folder: _unpack(folder, _DEBIAN_NAMES[machine]))


def _unpack(folder: Path, architecture: str) -> None:
    apt, dpkg, state = find("apt-get"), find("dpkg"), folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",  # the folder may be unreadable to the user that apt-get would change to
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    what = f"Debian's Python for {architecture}"
    prepare(what, [apt, "update", *options])
    prepare(what, [apt, "install", "--yes", "--download-only", "--no-install-recommends", *options, *_PACKAGES])
    for package in (state / "archives").glob("*.deb"):
        prepare(what, [dpkg, "--extract", str(package), str(folder)])
    shutil.rmtree(state)


def _fill(folder: Path, device: Device) -> None:
    if device.foreign:
        unpacked = _unpacked(device.machine)
        for path in unpacked.iterdir():
            (folder / path.name).symlink_to(Path("..") / unpacked.name / path.name)
    if device.processor is not None:
        describe(folder, device.processor)


def describe(folder: Path, processor: Processor) -> None:
    """Write what Linux says of a processor where ONNX Runtime reads it; this machine's own would crash it."""
    about = {
        "BogoMIPS": "108.00",
        "Features": processor.features,
        "CPU implementer": f"{processor.implementer:#04x}",
        "CPU architecture": "8",
        "CPU variant": f"{processor.variant:#x}",
        "CPU part": f"{processor.part:#05x}",
        "CPU revision": str(processor.revision),
    }
    cores = ["".join(f"{k}\t: {v}\n" for k, v in {"processor": i, **about}.items()) for i in range(_CORES)]
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text("\n".join(cores) + f"\nModel\t\t: {processor.model}\n")
    system = folder / "sys/devices/system/cpu"
    system.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (system / name).write_text(f"0-{_CORES - 1}\n")
    register = processor.implementer << 24 | processor.variant << 20 | 0xF << 16 | processor.part << 4 | processor.revision
    for i in range(_CORES):
        identification = system / f"cpu{i}/regs/identification"
        identification.mkdir(parents=True)
        (identification / "midr_el1").write_text(f"{register:#018x}\n")
