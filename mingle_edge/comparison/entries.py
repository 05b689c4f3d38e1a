"""Naming what is compared: `ties`, `mingle(steps=10)`, with every parameter of the method known by name and type."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mingle_edge.comparison.registry import DEFAULT, MethodSpec
from mingle_edge.core.errors import ComparisonError, shown
from mingle_edge.data.task_file import MOST_SEEDS_PER_CLASS

SEEDS_PER_CLASS = "seeds_per_class"
SHARES = ("keep", "share")
"""Parameters of any method that are a part of a whole."""
MOST = 1e12  # of a parameter, in absolute value; far below where a float32 ends
ABLATIONS: dict[str, str] = {
    "components": ("static-experts,mingle(components=adaptation),mingle(components=frozen-gates),mingle(relaxation=0),mingle"),
    "steps": "mingle(steps=5),mingle(steps=10),mingle(steps=20),mingle(steps=50)",
    "seeds": "mingle(seeds_per_class=0),mingle(seeds_per_class=1),mingle(seeds_per_class=3),mingle(seeds_per_class=5)",
    "rank": "mingle(rank=4),mingle(rank=8),mingle(rank=16),mingle(rank=32),mingle(rank=64)",
    "layers": "mingle,mingle-star",
    "gamma": "mingle(relaxation=0),mingle(relaxation=0.5),mingle(relaxation=1),mingle(relaxation=5)",
    "subspace": "mingle(subspace_directions=1),mingle(subspace_directions=3),mingle(subspace_directions=10)",
    "budgets": "mingle-star(rank=8),mingle-star(rank=16),mingle-star(rank=32),mingle-star(rank=64),mingle",
    "compression": (
        "bit-delta(steps=0),bit-delta,tsv-compress,tall-masks,tvq(bits=2),tvq(bits=3),tvq(bits=4),rtvq,smile,"
        "image-truncated,image,image-int8,image-int4,image-int4(rank=auto)"
    ),
}
"""The paper's ablation tables as lists of methods with parameters (arXiv 2505.11883, section 4.3 and appendix); and what each
way to store a task keeps for its bytes.
"""

_ENTRY = re.compile(r"\s*(?P<name>[A-Za-z0-9-]+)\s*(?:\((?P<parameters>[^()]*)\))?\s*(?:,|$)")


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: a method with its parameters."""

    label: str  # as written
    method: str
    parameters: Mapping[str, Any]  # every parameter of the method
    given: Mapping[str, Any]  # those the user wrote, which tuning leaves alone
    seeds_per_class: int | None = None  # written like a parameter of any method; None: as the task file says


def with_ablations(methods: str | None, ablations: Sequence[str]) -> str:
    """Return the methods to compare: those named, else the defaults unless ablations are named, and the rows of the ablations.

    Raises `ComparisonError` for an ablation that does not exist.
    """
    parts = [methods] if methods is not None else [] if ablations else [DEFAULT]
    for name in ablations:
        if name not in ABLATIONS:
            raise ComparisonError(f"there is no ablation {name!r}; {hint(name, list(ABLATIONS), 'the ablations are')}")
        parts.append(ABLATIONS[name])
    return ",".join(parts)


def parse_entries(text: str, specs: Mapping[str, MethodSpec], tasks: int, defaults: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of a list such as `ties, mingle(steps=10,rank=8)`, each once.

    Parameters take the published value for so many tasks, then `defaults` where the method has such a parameter, then what
    is written; `seeds_per_class` can be written for any method. Raises `ComparisonError` for a method or parameter that does
    not exist, or a value of another type.
    """
    entries: dict[str, Entry] = {}
    text, position = text.strip(), 0
    while position < len(text):
        match = _ENTRY.match(text, position)
        if match is None:
            raise ComparisonError(
                f"methods: {text[position:].strip()!r} cannot be read; write names with parameters in parentheses, "
                "separated by commas: ties,mingle(steps=10,rank=8)"
            )
        position = match.end()
        entry = _entry(match["name"], match["parameters"] or "", specs, tasks, defaults)
        entries.setdefault(entry.label, entry)
    if not entries:
        raise ComparisonError(f"methods: none is named; the methods are {', '.join(specs)}")
    return list(entries.values())


def _entry(name: str, parameters: str, specs: Mapping[str, MethodSpec], tasks: int, defaults: Mapping[str, Any]) -> Entry:
    if name not in specs:
        raise ComparisonError(f"methods: there is no method {name!r}; {hint(name, list(specs), 'the methods are')}")
    published = specs[name].published(tasks)
    values = published | {key: value for key, value in defaults.items() if key in published}
    known: dict[str, Any] = published | {SEEDS_PER_CLASS: 0}
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in parameters.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in known:
            raise ComparisonError(f"methods: {name} has no parameter {key!r}; {hint(key, list(known), 'its parameters are')}")
        given[key] = _value(name, key, value, known[key])
    label = f"{name}({','.join(f'{key}={_written(value)}' for key, value in given.items())})" if given else name
    seeds_per_class = given.pop(SEEDS_PER_CLASS, None)
    if seeds_per_class is not None and not (type(seeds_per_class) is int and 0 <= seeds_per_class <= MOST_SEEDS_PER_CLASS):
        raise ComparisonError(
            f"methods: {name}: seeds_per_class is {shown(seeds_per_class)}, and must be a whole number, 0 or more, at most "
            f"{MOST_SEEDS_PER_CLASS}"
        )
    return Entry(label, name, values | given, given, seeds_per_class)


def _value(method: str, key: str, text: str, published: Any) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) <= MOST:  # NaN is not, either
        raise ComparisonError(f"methods: {method}: {key} is {text:.60}, and must be a number of at most {MOST:g}")
    if key in SHARES and not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ComparisonError(f"methods: {method}: {key} is {text:.60}, and must be a number from 0 to 1")
    if published is None or value is None:
        return value
    if isinstance(published, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # "auto" may stand for a number and a number for "auto": the method itself says what it takes.
    if isinstance(published, bool) is not isinstance(value, bool) or (
        isinstance(published, (int, float)) and not isinstance(value, (int, float, str))
    ):
        raise ComparisonError(f"methods: {method}: {key} is {text:.60}, and must be of the kind of {_written(published)}")
    return value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def hint(name: str, known: Sequence[str], introduction: str) -> str:
    """Return what to write in place of a name that does not exist: the nearest one, and all there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"{introduction} {', '.join(known) or 'none'}"
