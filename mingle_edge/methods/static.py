"""The peers that end in one set of weights, or in none: by name, with the parameters the MINGLE paper ran them with.

Published parameters are those of the scripts behind its Table 1 (arXiv 2505.11883; zihuanqiu/MINGLE, `examples/mingle/tab1.sh`
and `config/method/mingle/`). Where a script does not compute what its method's authors describe there are two methods: the
plain name is the corrected one, `NAME-published` the script's arithmetic; both start from the same published parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from mingle_edge.comparison.method import Build, ContinualMethod, MethodSpec, Workbench
from mingle_edge.methods import consensus, magmax, opcm, task_arithmetic, ties, weight_averaging
from mingle_edge.methods.individual import Individual
from mingle_edge.methods.merged_tower import MergedTower
from mingle_edge.methods.pretrained import Pretrained
from mingle_edge.vision_tower import Parameters

FEW = 8
"""Tasks up to which the paper scales task vectors by 0.3; it takes 0.1 for its groups of 14 and 20."""

SCALINGS: tuple[Mapping[str, Any], ...] = tuple({"scaling": value} for value in (0.05, 0.1, 0.2, 0.3, 0.5))
TIES_GRID: tuple[Mapping[str, Any], ...] = (
    {"scaling": 0.1, "keep": 0.2},
    {"scaling": 0.2, "keep": 0.2},
    {"scaling": 0.3, "keep": 0.2},
    {"scaling": 0.5, "keep": 0.2},
    {"scaling": 0.3, "keep": 0.5},
)
SHARES: tuple[Mapping[str, Any], ...] = tuple({"share": value} for value in (0.2, 0.35, 0.5, 0.65, 0.8))


def _itself(merged: Parameters) -> Parameters:
    return merged


def _merging(merge: Callable[..., Any], vector: Callable[[Any], Parameters] = _itself) -> Build:
    def build(workbench: Workbench, parameters: Mapping[str, Any]) -> ContinualMethod:
        return MergedTower(workbench, partial(merge, **parameters), vector)

    return build


def _few_or_many(**others: Any) -> Callable[[int], dict[str, Any]]:
    return lambda tasks: {"scaling": 0.3 if tasks <= FEW else 0.1, **others}


def _always(**parameters: Any) -> Callable[[int], dict[str, Any]]:
    return lambda tasks: dict(parameters)


SPECS: tuple[MethodSpec, ...] = (
    MethodSpec(
        "pretrained", "the backbone for every task", lambda workbench, parameters: Pretrained(workbench), published=_always()
    ),
    MethodSpec(
        "individual",
        "each task's own model, told the task: the upper end",
        lambda workbench, parameters: Individual(workbench),
        published=_always(),
    ),
    MethodSpec(
        "weight-averaging",
        "running mean of the fine-tuned models (arXiv 2203.05482)",
        _merging(weight_averaging.merge),
        published=_always(),
    ),
    MethodSpec(
        "task-arithmetic",
        "scaled sum of the task vectors (arXiv 2212.04089)",
        _merging(task_arithmetic.merge),
        published=_few_or_many(),
        grid=SCALINGS,
    ),
    MethodSpec(
        "ties",
        "trimmed task vectors summed where their signs agree (arXiv 2306.01708)",
        _merging(ties.merge),
        published=_few_or_many(keep=0.2),
        grid=TIES_GRID,
    ),
    MethodSpec(
        "ties-published",
        "TIES as the MINGLE paper ran it: each result is added to the merged vector that took part in it",
        _merging(ties.merge_as_published),
        published=_few_or_many(keep=0.2),
        grid=TIES_GRID,
    ),
    MethodSpec(
        "magmax",
        "the largest change of any task in each entry (arXiv 2407.06322)",
        _merging(magmax.merge),
        published=_always(scaling=0.5),
        grid=tuple({"scaling": value} for value in (0.2, 0.3, 0.5, 0.7, 1.0)),
    ),
    MethodSpec(
        "consensus",
        "scaled sum of the task vectors in entries that enough tasks use (Consensus TA, arXiv 2405.07813)",
        _merging(consensus.merge, attrgetter("merged")),
        published=_always(scaling=0.1, threshold=0.2, required=2),
        grid=(
            {"scaling": 0.1, "threshold": 0.2},
            {"scaling": 0.2, "threshold": 0.2},
            {"scaling": 0.3, "threshold": 0.2},
            {"scaling": 0.2, "threshold": 0.5},
            {"scaling": 0.3, "threshold": 0.5},
        ),
    ),
    MethodSpec(
        "consensus-published",
        "Consensus TA as the MINGLE paper ran it: masked by the newest task alone, earlier ones counted again",
        _merging(consensus.merge_as_published),
        published=_always(scaling=0.1, threshold=0.2),
        grid=(
            {"scaling": 0.05, "threshold": 0.2},
            {"scaling": 0.1, "threshold": 0.2},
            {"scaling": 0.2, "threshold": 0.2},
            {"scaling": 0.3, "threshold": 0.2},
            {"scaling": 0.1, "threshold": 0.5},
        ),
    ),
    MethodSpec(
        "opcm",
        "task vectors projected out of the merged one's leading directions, at constant norm (arXiv 2501.09522)",
        _merging(opcm.merge, attrgetter("merged")),
        published=_always(share=0.5),
        grid=SHARES,
    ),
    MethodSpec(
        "opcm-published",
        "OPCM as the MINGLE paper ran it: the diagonal is not removed, and the class token is the first task's",
        _merging(opcm.merge_as_published, attrgetter("merged")),
        published=_always(share=0.5),
        grid=SHARES,
    ),
)
"""Every static method."""
