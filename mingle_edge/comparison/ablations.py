"""The paper's ablation tables as lists of methods with parameters (arXiv 2505.11883, section 4.3 and appendix)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mingle_edge.comparison.registry import DEFAULT
from mingle_edge.errors import ComparisonError

ABLATIONS: dict[str, str] = {
    "components": ("static-experts,mingle(components=adaptation),mingle(components=frozen-gates),mingle(relaxation=0),mingle"),
    "steps": "mingle(steps=5),mingle(steps=10),mingle(steps=20),mingle(steps=50)",
    "seeds": "mingle(seeds_per_class=0),mingle(seeds_per_class=1),mingle(seeds_per_class=3),mingle(seeds_per_class=5)",
    "rank": "mingle(rank=4),mingle(rank=8),mingle(rank=16),mingle(rank=32),mingle(rank=64)",
    "layers": "mingle,mingle-star",
    "gamma": "mingle(relaxation=0),mingle(relaxation=0.5),mingle(relaxation=1),mingle(relaxation=5)",
    "subspace": "mingle(subspace_directions=1),mingle(subspace_directions=3),mingle(subspace_directions=10)",
    "budgets": "mingle-star(rank=8),mingle-star(rank=16),mingle-star(rank=32),mingle-star(rank=64),mingle",
}


def with_ablations(methods: str | None, ablations: Sequence[str]) -> str:
    """The methods to compare: those named, else the defaults unless ablations are named, and the rows of the ablations.

    Raises `ComparisonError` for an ablation that does not exist.
    """
    parts = [methods] if methods is not None else [] if ablations else [DEFAULT]
    for name in ablations:
        if name not in ABLATIONS:
            close = difflib.get_close_matches(name, ABLATIONS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ComparisonError(f"there is no ablation {name!r}; {hint}the ablations are {', '.join(ABLATIONS)}")
        parts.append(ABLATIONS[name])
    return ",".join(parts)
