"""What a study is asked, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def percent(shares: ArrayLike) -> float:
    """Return the mean of shares in percent."""
    return 100 * float(np.mean(np.asarray(shares)))


def spread(values: Sequence[Any] | NDArray[Any]) -> str:
    """Return the mean and, of more than one value, the deviation, to a tenth; of texts the last."""
    if isinstance(values[-1], str):
        return values[-1]
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if len(values) > 1 else f"{np.mean(values):.1f}"


class Table:
    """Figures by row, one of each for every model or draw, as a Markdown table of means and deviations."""

    def __init__(self, *header: str, show: Callable[[Sequence[Any]], str] = spread) -> None:
        self.header, self.show = header, show
        self.rows: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}

    def add(self, name: str | tuple[str, ...], *figures: Any) -> None:
        """Add the figures of one more model to a row, whose name fills one column or several."""
        self.rows.setdefault((name,) if isinstance(name, str) else name, []).append(figures)

    def __str__(self) -> str:
        lines = [[*name, *map(self.show, zip(*figures, strict=True))] for name, figures in self.rows.items()]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.header, ["---"] * len(self.header), *lines))


def parser(doc: str | None, tasks: int = 20) -> argparse.ArgumentParser:
    """Return a parser with the options that every study has."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suite", type=Path, required=True, help="what `python -m research.suite -o DIR` wrote")
    options.add_argument("--pretraining-seeds", type=int, nargs="+", default=[0], metavar="SEED")
    options.add_argument("--tasks", type=int, default=tasks, help="the first so many tasks: 8, 14 or 20")
    return options


def note(text: str) -> None:
    """Say on the error stream how far a study is."""
    print(text, file=sys.stderr, flush=True)
