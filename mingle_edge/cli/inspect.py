"""`mingle-edge inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.expert_table import expert_table, form_table
from mingle_edge.cli.path_kind import PathKind, PathKindError, kind_of
from mingle_edge.cli.terminal import one_line
from mingle_edge.core.wording import name_of_stage

if TYPE_CHECKING:
    from mingle_edge.merging.merged_model import MergedModel
    from mingle_edge_runtime.bundle.index import BundleIndex


@click.command(short_help="What is in a bundle or a merged model.")
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Show tasks, experts, sizes, router and provenance of PATH.

    PATH is a bundle or a merged model. No weights are read; `verify` checks the
    contents of a bundle. Where it was measured what experts keep of their
    fine-tuned models, that is shown with the next steps down and up: `export
    --keep` and `--expert-bytes` choose among them.
    """
    if (kind := kind_of(path)) not in (PathKind.BUNDLE, PathKind.MERGED_MODEL, None):
        raise PathKindError(f"{path} is {kind.value}, and inspect needs a bundle or a merged model; name one of them")
    from mingle_edge.merging.inspection import inspect
    from mingle_edge_runtime.bundle.index import BundleIndex

    folder = inspect(path)
    lines = describe_bundle(folder) if isinstance(folder, BundleIndex) else describe_merged_model(folder)
    click.echo("\n".join(map(one_line, lines)))


def describe_bundle(index: BundleIndex) -> list[str]:
    """Describe the index of a bundle in words, line by line."""
    shape, cosine = index.architecture, index.fidelity.cosine
    fidelity = "" if cosine is None else f"; cosine with PyTorch at least {cosine:.5f}"
    checkpoints = {task: sha256[:16] for task, sha256 in index.source.tasks.items()}
    lines = [
        f"bundle, format {index.format_version}, {index.scope} scope, top-k {index.top_k}",
        f"precision: backbone {index.precision}, experts {index.expert_precision}{fidelity}",
        f"tower: {shape.layers} blocks of width {shape.width}, patch {shape.patch_size}, "
        f"image {shape.image_size}, output {shape.output_dim}",
        _routing(index),
        f"needs: onnxruntime {index.minimum_onnxruntime} or newer; written by "
        + ", ".join(f"{name} {version}" for name, version in index.producer.items()),
        f"size: {format_bytes(sum(file.size for file in index.files.values()))} in {len(index.files)} files, "
        f"of it experts {format_bytes(sum(task.expert_bytes for task in index.tasks))}",
        f"backbone: sha256 {index.source.backbone_sha256[:16]}",
    ]
    rows = [
        (
            task.name,
            str(len(task.labels)),
            str(task.rank),
            task.precision,
            format_bytes(task.expert_bytes),
            checkpoints.get(task.name, "unknown"),
        )
        for task in index.tasks
    ]
    table = _table(("task", "labels", "rank", "precision", "expert", "checkpoint"), rows)
    return [*lines, "", *table, *_after_a_blank(expert_table(index.tasks))]


def _routing(index: BundleIndex) -> str:
    if index.router:
        stages = ", ".join(f"{name_of_stage(stage.name, stage.blocks)} ({stage.precision})" for stage in index.router.stages)
        judge = "; in doubt, two experts are judged" if index.router.judge else ""
        return f"router: {stages}{judge}"
    if index.scope == "folded":
        return "router: none, the task is in the weights"
    return f"router: a gate in each of {len(index.page_bank.layers) if index.page_bank else 0} layers"


def describe_merged_model(model: MergedModel) -> list[str]:
    """Describe a merged model in words, line by line, without its weights."""
    from mingle_edge.merging.inspection import forms_worth_their_bytes

    shape, settings = model.architecture, model.settings
    lines = [
        f"merged model, {model.scope} scope, rank {settings.rank}, layers {settings.layers}",
        f"tower: {shape.layers} blocks of width {shape.width}, patch {shape.patch_size}, "
        f"image {shape.image_size}, output {shape.output_dim}, {shape.activation}",
        _router(model),
        f"size: {format_bytes(model.stored_bytes)}",
        f"backbone: {model.backbone_source}, sha256 {model.backbone_sha256[:16]}",
    ]
    rows = [(task.name, str(len(task.classes)), str(task.seeds), task.source, task.source_sha256[:16]) for task in model.tasks]
    table = _table(("task", "classes", "seeds", "checkpoint", "sha256"), rows)
    forms = {name: forms_worth_their_bytes(model, name) for name in model.task_names}
    return [*lines, "", *table, *_after_a_blank(form_table(forms))]


def _router(model: MergedModel) -> str:
    from mingle_edge.routing.depth import deepest

    if model.scope == "layer":
        return "router: gates per layer"
    blocks = model.settings.router_blocks
    most = deepest(blocks, model.architecture.layers)
    return (
        f"router: the pixels, {most} blocks of the plain backbone"
        + (" at most, where the seeds ask for them" if blocks == "auto" else "")
        + ", and its embedding where that helps"
    )


def _after_a_blank(lines: Iterable[str]) -> list[str]:
    shown = list(lines)
    return ["", *shown] if shown else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines with columns as wide as their widest cell."""
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
