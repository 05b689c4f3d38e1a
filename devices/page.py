"""`docs/devices.md`, from the cells."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Sequence
from itertools import groupby

from devices.cases import RECIPES
from devices.cell import LEAST_COSINE, Cell, Run, Share
from devices.command import last_line
from devices.device import Device
from devices.labels import Labels
from mingle_edge_runtime.ort.arithmetic import EXACT_PRODUCT
from mingle_edge_runtime.ort.processor import read_processor

_INTRODUCTION = """# The same answer on every device

Written by `make devices`, measured {dates}. This machine: {processor}, {system}, Python {python}, {emulator}.
Emulated processors compute what the real ones compute, but far slower. So the seconds below say nothing about their speed.

Every bundle is made once on this machine, from the models of `make demo`, and taken to every device. There this project's
runtime runs it without torch and onnx, or an application in JavaScript does. An answer is right when three things are true:

- Each cosine is at least {fp32} in fp32 and {fewer} in fewer bits, both with the bundle's golden outputs (in fp32 those of
  PyTorch) and with this machine's answers.
- All routes are the same as on this machine.
- Every product of 8-bit integers is the same as numpy's, bit for bit, also with the largest possible activations.
"""
_INTEGERS = """## Integers
What a device computes for a row of 64 x 255 by a column of 64 x 127, unsigned by signed; {exact} is right. A device that
saturates cuts off sums that do not fit in 16 bits. Bundles hold no numbers as large as 127, so that such a device computes
their products exactly, too. Each matrix is multiplied in two ways, which use different kernels: with activations that are
given as integers, and with activations that are quantized during the run, as in bundles.
"""
_DETAILS = """## Device by device
Cosines are the smallest of all images and experts, first with the golden outputs and then with this machine's answers. The
difference is the largest of any element. Seconds are those of all images, without the start of the program.
"""
_JAVASCRIPT = """
The JavaScript binding has no call for adapters, and no run can override a default: onnxruntime-web refuses to, onnxruntime-node
ignores it without a word. Experts are read from the adapter files in JavaScript and fed as inputs of a copy of the tower that
has no defaults. Images are prepared on this machine."""
_ADD = """## Adding a device
A device is a file in `devices/kinds/`; the file's name is the device's. `make devices` measures only what was not measured yet.

```toml
title = "Cortex-A72 (Raspberry Pi 4)"
order = 21                         # place in the tables
versions = ["newest", "1.20.1"]    # of ONNX Runtime
program = "python"                 # or "onnxruntime-node", "onnxruntime-web"; "python" when left out
machine = "aarch64"                # or "x86_64"; this machine's own when left out
emulated_cpu = "cortex-a72"        # what `qemu-aarch64-static -cpu help` lists; not emulated when left out

[processor]                        # for ARM: what Linux there says in /proc/cpuinfo, which ONNX Runtime reads
model = "Raspberry Pi 4 Model B Rev 1.4"
implementer = 0x41
part = 0xd08
variant = 0x0
revision = 3
features = "fp asimd evtstrm crc32 cpuid"
```

Emulation needs Debian's package `qemu-user-static`; JavaScript needs `nodejs` and `npm`. A Python for another machine is
unpacked from Debian's packages into `devices/.cache`; nothing on the system changes. Where something is missing, cells are not
measured, and the page says so. Delete `devices/.cache` to fetch the newest ONNX Runtime again.

Labels of all test images on one device: `.venv/bin/python -m devices --labels --devices cortex_a72`.
"""


def render(devices: Sequence[Device], cells: Sequence[Cell], labels: Sequence[Labels]) -> str:
    """Write the page as Markdown: what was compared, the matrix, and every device's figures."""
    dates = sorted({cell.date for cell in cells if cell.date})
    introduction = _INTRODUCTION.format(
        dates=" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never",
        processor=read_processor(),
        system=platform.system(),
        python=platform.python_version(),
        emulator=_emulator(),
        fp32=LEAST_COSINE[True],
        fewer=LEAST_COSINE[False],
    )
    parts = [_matrix(devices, cells), _integers(devices, cells), _labels(devices, labels), _details(devices, cells)]
    return "\n".join([introduction, *(line for part in parts for line in part), _ADD])


def _matrix(devices: Sequence[Device], cells: Sequence[Cell]) -> Iterator[str]:
    bundles = [name for name in RECIPES if any(cell.bundle == name for cell in cells)]
    yield "## The matrix"
    yield "The smallest cosine of each cell. Wrong cells are marked. The reason why one was not measured is under its device."
    yield ""
    yield from _table_head("device", "ONNX Runtime", *(name.replace("-", " ") for name in bundles))
    for device, version, own in _groups(devices, cells):
        by_bundle = {cell.bundle: cell for cell in own}
        yield _row(device.title, version, *(_short(by_bundle.get(bundle)) for bundle in bundles))
    yield ""


def _short(cell: Cell | None) -> str:
    if cell is None or cell.state == "not measured":
        return "not measured"
    least = f"{min(_least(run) for run in cell.runs):.5f}" if cell.runs else "failed"
    return least if cell.state == "right" else f"**wrong: {least}**"


def _least(run: Run) -> float:
    return run.host_cosine if run.golden_cosine is None else min(run.host_cosine, run.golden_cosine)


def _integers(devices: Sequence[Device], cells: Sequence[Cell]) -> Iterator[str]:
    yield _INTEGERS.format(exact=EXACT_PRODUCT)
    yield from _table_head("device", "ONNX Runtime", "64 x 255 by 64 x 127", "bundles' products equal to numpy's")
    for device, version, own in _groups(devices, cells):
        full = sorted({cell.full_codes for cell in own if cell.full_codes is not None})
        counted = [cell.products for cell in own if cell.products is not None]
        total = Share(sum(share.equal for share in counted), sum(share.total for share in counted))
        product = ", ".join(f"{value}{'' if value == EXACT_PRODUCT else ' (saturated)'}" for value in full)
        yield _row(device.title, version, product or "not measured", _share(total) if counted else "not measured")
    yield ""


def _labels(devices: Sequence[Device], labels: Sequence[Labels]) -> Iterator[str]:
    titles = {device.key: device.title for device in devices}
    yield "## Labels of the int8 bundle"
    yield "How many test images get the same task and label as on this machine, without a named task:"
    yield ""
    if not labels:
        yield "not measured; see below for the command."
    for compared in labels:
        title = titles.get(compared.device, compared.device)
        yield f"- {title}, ONNX Runtime {compared.onnxruntime}: {compared.equal} of {compared.images} equal ({compared.date})"
    yield ""


def _details(devices: Sequence[Device], cells: Sequence[Cell]) -> Iterator[str]:
    yield _DETAILS.rstrip()
    for device, version, own in _groups(devices, cells):
        installed = next((cell.installed for cell in own if cell.installed), {})
        yield f"\n### {device.title}, ONNX Runtime {version}"
        yield ", ".join(f"{name} {number}" for name, number in sorted(installed.items())) or "Nothing could be installed."
        yield "" if device.program == "python" else f"{_JAVASCRIPT}\n"
        yield from _table_head("bundle", "run", "golden", "this machine", "difference", "routes", "labels", "products", "s")
        for cell in own:
            yield from (_run_row(cell, run) for run in cell.runs)
            if not cell.runs:
                yield _row(cell.bundle, "all", *["not measured" if cell.state == "not measured" else "**failed**"] * 7)
        reasons = [f"- {cell.bundle}: {cell.state}, {cell.reason}" for cell in own if cell.state != "right"]
        yield from ["", *reasons] if reasons else []
    yield ""


def _run_row(cell: Cell, run: Run) -> str:
    named = run.name == "named"
    return _row(
        cell.bundle,
        run.name,
        "none" if run.golden_cosine is None else f"{run.golden_cosine:.6f}",
        f"{run.host_cosine:.6f}",
        f"{run.difference:.1e}",
        "given" if named else _share(run.routes),
        "see routed" if named else _share(run.labels),
        "no integers" if cell.products is None else _share(cell.products),
        f"{run.seconds:.1f}",
    )


def _groups(devices: Sequence[Device], cells: Sequence[Cell]) -> Iterator[tuple[Device, str, list[Cell]]]:
    """The cells of each device and version, with the version that is installed there."""
    by_key = {device.key: device for device in devices}
    for (key, version), group in groupby(cells, lambda cell: (cell.device, cell.version)):
        own, device = list(group), by_key[key]
        yield device, next((cell.installed[device.package] for cell in own if cell.installed), version), own


def _share(share: Share) -> str:
    return f"{share.equal}/{share.total}" if share.whole else f"**{share.equal}/{share.total}**"


def _table_head(*titles: str) -> tuple[str, str]:
    return _row(*titles), _row(*["---"] * len(titles))


def _row(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def _emulator() -> str:
    try:
        text = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "no emulator"
    return last_line(text.partition("\n")[0]).split(" (")[0].replace("qemu-aarch64 version", "QEMU")
