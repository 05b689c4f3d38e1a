"""Tables of what experts weigh and keep of their fine-tuned models, with the next steps down and up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.text_table import text_table
from mingle_edge.core.wording import MISSING

if TYPE_CHECKING:
    from mingle_edge_runtime.bundle.index import SizedForm, Task

_FIGURES = ("rank", "precision", "size", "agreement", "points lost")


def expert_table(tasks: Sequence[Task]) -> Iterator[str]:
    """Yield a line for each task of a bundle, and under it one for each step; nothing where nothing was measured."""
    if all(task.agreement is None for task in tasks):
        return
    rows = []
    for task in tasks:
        rows.append([task.name, *_figures(task.rank, task.precision, task.expert_bytes, task.agreement, task.points_lost)])
        rows += [[f"  {step}", *_of_form(form)] for step, form in (("smaller", task.smaller), ("larger", task.larger)) if form]
    yield from text_table(["expert", *_FIGURES], rows)


def form_table(forms: Mapping[str, Sequence[SizedForm]]) -> Iterator[str]:
    """Yield a line for each form of each task, by name; nothing where there are none."""
    rows = [[name if i == 0 else "", *_of_form(form)] for name, each in forms.items() for i, form in enumerate(each)]
    if rows:
        yield from text_table(["expert", *_FIGURES], rows)


def _figures(rank: int, precision: str, size: int, agreement: float | None, points_lost: float | None) -> list[str]:
    kept = [MISSING if agreement is None else f"{agreement:.1%}", MISSING if points_lost is None else f"{points_lost:.2f}"]
    return [str(rank), precision, format_bytes(size), *kept]


def _of_form(form: SizedForm) -> list[str]:
    return _figures(form.rank, form.precision, form.bytes, form.agreement, form.points_lost)
