"""`mingle-edge profile`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mingle_edge.cli.byte_size import byte_size, format_bytes
from mingle_edge.cli.progress_bar import ProgressBar


@click.command(short_help="Measure a bundle on this machine.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images.  [default: the bundle's own]")
@click.option("--runs", default=50, show_default=True, type=click.IntRange(min=1), help="Timed runs of each kind.")
@click.option("--against", type=click.Choice(["dense"]), help="Time the tower without experts, interleaved.")
@click.option(
    "--expert-budget", metavar="SIZE", callback=byte_size, help="Experts to keep in memory, like 64MB.  [default: all]"
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.  [default: one per core]")
@click.option("--provider", help="Execution provider of ONNX Runtime.  [default: cpu]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write all figures to this file.")
def command(
    bundle: Path,
    images: Path | None,
    runs: int,
    against: str | None,
    expert_budget: int | None,
    threads: int | None,
    provider: str | None,
    json_path: Path | None,
) -> None:
    """Time to open, latency, throughput, memory and expert traffic of BUNDLE.

    "named" is with the task told, each in turn; "routed" finds the route;
    "dense" is the same tower without experts.
    """
    from mingle_edge_runtime.profile import profile

    with ProgressBar() as progress:
        report = profile(
            bundle,
            image_files(images) if images else None,
            runs,
            against == "dense",
            expert_budget,
            [provider] if provider else None,
            threads,
            progress=lambda done, total: progress("profile", done, total),
        )
    click.echo("\n".join(table(report)))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n")


def image_files(folder: Path) -> list[Path]:
    """All files with the suffix of an image format, in order of their names."""
    from PIL import Image

    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in Image.registered_extensions()]
    if not found:
        raise click.UsageError(f"--images: {folder} holds no images")
    return found


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report on a terminal: milliseconds, images per second, megabytes."""
    machine, seconds, experts = report["machine"], report["seconds"], report["experts"]
    yield f"{machine['cpu']}, {machine['usable_cores']} cores, onnxruntime {machine['onnxruntime']}"
    yield (
        f"import {seconds['import_onnxruntime'] * 1e3:.0f} ms, open {seconds['open'] * 1e3:.0f} ms, "
        f"first run {seconds['first_run'] * 1e3:.1f} ms, preprocess {seconds['preprocess_per_image'] * 1e3:.1f} ms"
    )
    yield f"{'latency (ms)':<14}    p50     p90     p95     p99   against dense"
    for kind, found in report["latency"].items():
        figures = "  ".join(f"{found[p] * 1e3:6.2f}" for p in ("p50", "p90", "p95", "p99"))
        yield f"  {kind:<10}  {figures}{_ratio(report['ratio_to_dense'].get(kind))}"
    for row in report["images_per_second"]:
        rates = ", ".join(f"{kind} {rate:.1f}" for kind, rate in row.items() if kind != "batch")
        yield f"batch {row['batch']:>2}, images/s: {rates}"
    for moment, memory in report["memory"].items():
        parts = [f"{part} {format_bytes(memory[part])}" for part in ("anonymous", "file") if memory[part] is not None]
        yield f"memory, {moment.replace('_', ' '):<9}: {format_bytes(memory['resident'])}  {', '.join(parts)}"
    yield (
        f"experts: {experts['hits']} hits, {experts['misses']} misses, {experts['evictions']} evictions, "
        f"{format_bytes(experts['bytes_loaded'])} loaded"
    )
    yield (
        f"         {format_bytes(experts['resident_bytes'])} resident, peak {format_bytes(experts['peak_bytes'])}, "
        f"stalled {experts['stall_seconds'] * 1e3:.1f} ms"
    )
    yield from (f"note: {note}" for note in experts["notes"])


def _ratio(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["quartiles"]
    return f"   {found['ratio']:.2f} x ({low:.2f} to {high:.2f})"
