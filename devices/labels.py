"""The labels of an application: every test image, no task named, on this machine and on a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from devices.cases import Case
from devices.device import Device, DeviceFileError
from devices.environment import prepare_environment
from devices.matrix import run_script
from devices.on_device.classify import classify
from mingle_edge.files.atomic_files import write_text


@dataclass(frozen=True)
class Labels:
    """How many images got the same task and label on both."""

    device: str
    onnxruntime: str
    """version on the device"""
    bundle: str
    images: int
    equal: int
    date: str
    key: str
    """of the bundle's case"""


def compare_labels(device: Device, case: Case, models: Path, folder: Path) -> Labels:
    """Classify all of `models/images/<task>/test/<class>/*.png` here and on the device; keep the result in `folder`.

    The device runs the first version of ONNX Runtime in its file.
    Raises `DeviceFileError` for a device that runs JavaScript or where there are no images, `UnavailableError`, and
    `RuntimeError` where the device fails.
    """
    if device.program != "python":
        raise DeviceFileError(f"{device.key} runs {device.program}, which reads no image files: choose another device")
    images = [str(path.resolve()) for path in sorted((models / "images").glob("*/test/*/*.png"))]
    if not images:
        raise DeviceFileError(f"{models / 'images'} holds no test images: run `make demo` first")
    environment = prepare_environment(device, device.versions[0])
    names = folder / "images.txt"
    folder.mkdir(parents=True, exist_ok=True)
    names.write_text("\n".join(images))
    here = classify(case.folder / "bundle", images)
    there = run_script(environment, "classify", str(case.folder / "bundle"), str(names))
    equal = sum(a == b for a, b in zip(here, there, strict=True))
    installed = environment.versions[device.package]
    labels = Labels(device.key, installed, case.name, len(images), equal, f"{datetime.now(UTC):%Y-%m-%d}", case.key)
    write_text(folder / f"{device.key}.json", json.dumps(asdict(labels)))
    return labels


def read_labels(folder: Path, cases: Sequence[Case]) -> list[Labels]:
    """Read what was kept of these cases as they are now."""
    keys = {case.key for case in cases}
    kept = [Labels(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return [labels for labels in kept if labels.key in keys]
