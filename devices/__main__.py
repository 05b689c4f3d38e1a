"""`python -m devices`: measure the matrix, show each cell as it comes, and write the page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from devices import cases
from devices.cache import CACHE
from devices.cell import Cell
from devices.command import UnavailableError
from devices.device import Device, DeviceFileError, choose, read_devices
from devices.labels import compare_labels, read_labels
from devices.matrix import measure_matrix
from devices.page import render
from mingle_edge.core.errors import MingleError
from mingle_edge.files.atomic_files import write_text
from mingle_edge_export import ExportError

_LABELLED = "image-int8"


@click.command()
@click.option("--models", default="demo-output", type=click.Path(path_type=Path), help="Holds merged models, image and layer.")
@click.option("--devices", "keys", default="", metavar="A,B", help="Files of devices/kinds.  [default: all]")
@click.option("--bundles", default="", metavar="A,B", help="[default: all]")
@click.option("--page", type=click.Path(path_type=Path), help="Write the tables to this Markdown file.")
@click.option("--labels", is_flag=True, help=f"Instead compare the labels of all test images by the bundle {_LABELLED}.")
@click.option("--kept", default=CACHE, type=click.Path(path_type=Path), help="Folder of bundles and measured cells.")
def main(models: Path, keys: str, bundles: str, page: Path | None, labels: bool, kept: Path) -> None:
    """Run the same bundles on every kind of device.

    Exits with 1 where an answer is wrong, with 2 where nothing can be measured. What was measured before is not measured again
    unless something that goes into it changed.
    """
    try:
        devices = choose(read_devices(), _names(keys))
        names = [_LABELLED] if labels else cases.choose(_names(bundles))
        made = cases.make_cases(models, names, kept / "cases", lambda name: click.echo(f"made {name}"))
        if labels:
            sys.exit(_compare_labels(devices, made[0], models, kept / "labels"))
    except (DeviceFileError, UnavailableError, ExportError, MingleError, RuntimeError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    cells = measure_matrix(devices, made, kept / "cells", _show)
    if page:
        write_text(page, render(devices, cells, read_labels(kept / "labels", made)))
    counts = {state: sum(cell.state == state for cell in cells) for state in ("right", "wrong", "not measured")}
    click.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
    sys.exit(int(counts["wrong"] > 0))


def _compare_labels(devices: list[Device], case: cases.Case, models: Path, folder: Path) -> int:
    equal = True
    for device in devices:
        compared = compare_labels(device, case, models, folder)
        click.echo(f"{device.key}, ONNX Runtime {compared.onnxruntime}: {compared.equal} of {compared.images} labels equal")
        equal = equal and compared.equal == compared.images
    return int(not equal)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _show(cell: Cell) -> None:
    click.echo(f"{cell.device} {cell.version} {cell.bundle}: {cell.state}{cell.reason and ', ' + cell.reason}")


if __name__ == "__main__":
    main()
