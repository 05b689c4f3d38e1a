"""How a device's program is started: the emulator, the interpreter, and one version of ONNX Runtime with what it needs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import mingle_edge_runtime
from devices import debian_root
from devices.cache import kept
from devices.command import find, prepare
from devices.device import NEWEST, Device

_SCRIPTS = Path(__file__).with_name("on_device")
_PYTHON_PACKAGES = ("numpy", "Pillow")
_GLIBC = ("2_28", "2_27", "2_17")  # versions in the names of wheels


@dataclass(frozen=True)
class Environment:
    """One version of ONNX Runtime on one device."""

    command: tuple[str, ...]
    """starts the interpreter"""
    variables: Mapping[str, str]
    folder: Path
    """the packages"""
    versions: Mapping[str, str]
    """of what was installed, by name"""
    suffix: str
    """of the device's scripts"""
    arguments: tuple[str, ...] = ()
    """that its scripts take after their own"""

    def run(self, script: str, *arguments: str) -> list[str]:
        """Return the command line of a script of `on_device/`, named without its suffix."""
        return [*self.command, str(_SCRIPTS / f"{script}{self.suffix}"), *arguments, *self.arguments]


def prepare_environment(device: Device, version: str) -> Environment:
    """Install what is not there yet. Raises `UnavailableError`."""
    if device.program == "python":
        return _python(device, version)
    return _javascript(device.program, version)


def _python(device: Device, version: str) -> Environment:
    prefix: list[str] = []
    python = Path(sys.base_prefix) / "bin" / f"python{_own_python()}"
    if device.emulated_cpu:
        prefix = [find(f"qemu-{device.machine}-static"), "-cpu", device.emulated_cpu]
    if device.foreign or device.processor is not None:
        prefix += ["-L", str(debian_root.root(device))]
    if device.foreign:
        python = debian_root.interpreter(device.machine)
    wanted = python.name.removeprefix("python")
    name = f"{device.machine or os.uname().machine}-python{wanted}-onnxruntime-{version}"
    packages = kept(name, lambda folder: _install_wheels(folder, device, wanted, version))
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(packages), str(Path(mingle_edge_runtime.__file__).parents[1])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    versions = {package.name: package.version for package in distributions(path=[str(packages)])}
    # -S: no package but those of PYTHONPATH, so that the runtime is alone.
    return Environment((*prefix, str(python), "-S"), variables, packages, versions, ".py")


def _own_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _install_wheels(folder: Path, device: Device, python: str, version: str) -> None:
    foreign = [f"--platform=manylinux_{glibc}_{device.machine}" for glibc in _GLIBC] if device.foreign else []
    if foreign:
        foreign += [f"--python-version={python}", "--implementation=cp"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(folder)]
    package = _pinned("onnxruntime", version, "==")
    prepare(f"{package} for Python {python}", [*install, *foreign, package, *_PYTHON_PACKAGES])


def _javascript(program: str, version: str) -> Environment:
    node = find("node")
    packages = kept(f"{program}-{version}", lambda folder: _install_node_packages(folder, program, version))
    installed = (packages / "node_modules").glob("*/package.json")
    versions = {path.parent.name: _version(path) for path in installed if path.parent.name == program}
    return Environment((node,), {"PATH": os.environ["PATH"]}, packages, versions, ".mjs", (program, str(packages)))


def _install_node_packages(folder: Path, program: str, version: str) -> None:
    # Its install script fetches libraries for CUDA from elsewhere; those for the CPU are in the package.
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    package = _pinned(program, version, "@")
    prepare(package, [find("npm"), "install", *quiet, "--prefix", str(folder), package])


def _version(path: Path) -> str:
    return str(json.loads(path.read_text())["version"])


def _pinned(package: str, version: str, sign: str) -> str:
    return package if version == NEWEST else f"{package}{sign}{version}"
