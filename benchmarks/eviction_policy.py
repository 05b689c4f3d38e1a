"""Which expert to evict: replacement policies replayed over traces of routes, against the best that is possible.

    python -m benchmarks.eviction_policy [--requests 4000] [--json FILE]

A figure is the bytes of experts loaded, divided by what Belady's algorithm loads, which knows the future: 1.00 is perfect.
The result depends on nothing but the seed of the traces. LRFU is the runtime's own code.

Traces, for 8 and 20 tasks and room for 2 experts, a quarter and a half of them: independent routes by Zipf's law, flat and
steep; a mission, whose phases each mix three tasks for about 60 images (short: two for 15) with an odd image of another; a
video that dwells on a task for about 20 images; all tasks in turn; steady use interrupted by such scans; a favorite that
slowly moves on; two in turn. Layer by layer: 24 layers that follow the image's task three times of five, and else a
preference of their own; there a request is a whole run, whose ranges are in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from benchmarks.command import make_parser, write_report
from mingle_edge_runtime.experts.replacement_policy import LRFU

Item: TypeAlias = Any  # a task, or (task, layer)
Trace: TypeAlias = list[list[Item]]  # what each request uses
LAYERS = 24
LAYER_SIZES = (1, 1, 1, 1, 3, 3)  # q, k, v, out, fc1, fc2
NEVER = 1 << 60


class Policy(Protocol):
    """What decides which item goes first."""

    def use(self, items: Iterable[Item]) -> None:
        """Count one request."""

    def order(self, items: Iterable[Item]) -> list[Item]:
        """Return the items, the first to go first."""


class Valued:
    """Evicts what is worth least by a count kept of it; of equals the least recently used."""

    def __init__(self, value: Callable[[Valued, Item], float]) -> None:
        self.requests = 0
        self.age = 0.0  # the value of what was evicted last
        self.last: dict[Item, int] = {}
        self.counts: dict[Item, int] = {}
        self.values: dict[Item, float] = {}
        self._value = value

    def use(self, items: Iterable[Item]) -> None:
        """Count one request."""
        self.requests += 1
        for item in items:
            self.last[item] = self.requests
            self.counts[item] = self.counts.get(item, 0) + 1
            self.values[item] = self._value(self, item)

    def order(self, items: Iterable[Item]) -> list[Item]:
        """Return the items, the first to go first."""
        return sorted(items, key=lambda item: (self.values[item], self.last[item]))

    def evicted(self, item: Item) -> None:
        """Raise the age."""
        self.age = self.values[item]


class Belady:
    """Evicts what is needed again latest: the bound, exact where all sizes are equal."""

    def __init__(self, trace: Trace) -> None:
        self.requests = 0
        self.next: dict[Item, int] = {}
        self.ahead: list[dict[Item, int]] = []  # per request: when each of its items is needed again
        for request in range(len(trace) - 1, -1, -1):
            self.ahead.append({item: self.next.get(item, NEVER) for item in trace[request]})
            self.next |= dict.fromkeys(trace[request], request)

    def use(self, items: Iterable[Item]) -> None:
        """Count one request."""
        self.next |= self.ahead.pop()

    def order(self, items: Iterable[Item]) -> list[Item]:
        """Return the items, the first to go first."""
        return sorted(items, key=self.next.__getitem__, reverse=True)


POLICIES: dict[str, Callable[[], Policy]] = {
    "LRU": partial(Valued, lambda policy, item: 0),
    "LFU": partial(Valued, lambda policy, item: policy.counts[item]),  # since the beginning
    # Greedy dual size frequency: loading costs in proportion to size, so size cancels out.
    "GDSF": partial(Valued, lambda policy, item: policy.age + policy.counts[item]),
    **{f"LRFU {half_life}": partial(LRFU, half_life) for half_life in (2, 4, 8, 16, 32, 64)},
}


def loaded(trace: Trace, room: int, policy: Policy) -> int:
    """Return bytes loaded by a trace where `room` bytes may stay between requests."""
    resident: set[Item] = set()
    total = 0
    for items in trace:
        policy.use(items)
        total += sum(size(item) for item in set(items) - resident)
        resident.update(items)
        excess = sum(map(size, resident)) - room
        for item in policy.order(sorted(resident)):
            if excess <= 0:
                break
            if item in items and len(items) == 1:
                continue  # one expert alone is in use when room is made for it
            resident.remove(item)
            excess -= size(item)
            if isinstance(policy, Valued):
                policy.evicted(item)
    return total


def size(item: Item) -> int:
    """Return the size of an expert, 1, or of a layer's part of it, in the proportions of a tower."""
    return LAYER_SIZES[item[1] % len(LAYER_SIZES)] if isinstance(item, tuple) else 1


def traces(requests: int) -> dict[str, tuple[Trace, Sequence[int]]]:
    """Return traces by name, each with the rooms to replay it in."""
    random = np.random.default_rng(0)
    by_name: dict[str, tuple[Trace, Sequence[int]]] = {"two in turn": ([[i % 2] for i in range(requests)], [2])}
    for tasks in (8, 20):
        steady = zipf(random, tasks, requests, 1.0)
        kinds = {
            "zipf 1.0": steady,
            "zipf 1.6": zipf(random, tasks, requests, 1.6),
            "mission": mission(random, tasks, requests, 60, 3),
            "short mission": mission(random, tasks, requests, 15, 2),
            "video": mission(random, tasks, requests, 20, 1),
            "all in turn": [i % tasks for i in range(requests)],
            "scans": [task for i in range(0, requests, 80) for task in [*steady[i : i + 80], *range(tasks)]],
            "drift": [(task + i // 200) % tasks for i, task in enumerate(zipf(random, tasks, requests, 1.2))],
        }
        for kind, routes in kinds.items():
            by_name[f"{kind}, {tasks} tasks"] = ([[task] for task in routes], sorted({2, tasks // 4, tasks // 2}))
        whole = sum(LAYER_SIZES) * LAYERS // len(LAYER_SIZES)
        for kind in ("zipf 1.0", "mission", "video", "drift"):
            by_layer = layer_by_layer(random, tasks, kinds[kind][: requests // 8])
            by_name[f"layers, {kind}, {tasks} tasks"] = (by_layer, [whole, 2 * whole, 4 * whole])
    return by_name


def zipf(random: np.random.Generator, tasks: int, requests: int, exponent: float) -> list[int]:
    """Draw independent routes by Zipf's law."""
    shares = 1 / np.arange(1, tasks + 1) ** exponent
    routes: list[int] = random.choice(random.permutation(tasks), requests, p=shares / shares.sum()).tolist()
    return routes


def mission(random: np.random.Generator, tasks: int, requests: int, length: int, active: int) -> list[int]:
    """Draw phases of about `length` images, each of `active` tasks in random shares; one image in 20 is of any task."""
    routes: list[int] = []
    while len(routes) < requests:
        chosen, shares = random.choice(tasks, active, replace=False), random.dirichlet(np.ones(active))
        for _ in range(random.geometric(1 / length)):
            odd = active > 1 and random.random() < 0.05
            routes.append(int(random.integers(tasks) if odd else random.choice(chosen, p=shares)))
    return routes[:requests]


def layer_by_layer(random: np.random.Generator, tasks: int, routes: Sequence[int]) -> Trace:
    """Draw choices `(task, layer)` of every layer."""
    own = [zipf(random, tasks, len(routes), 1.0) for _ in range(LAYERS)]
    return [
        [(task if random.random() < 0.6 else own[layer][i], layer) for layer in range(LAYERS)] for i, task in enumerate(routes)
    ]


def main(options: Sequence[str] | None = None) -> None:
    """Replay and print."""
    arguments = make_parser(__doc__, requests=4000).parse_args(options)
    print(f"{'':<30}{'room':>5}" + "".join(f"{name:>9}" for name in POLICIES))
    rows: dict[str, dict[str, float]] = {}
    for name, (trace, rooms) in traces(arguments.requests).items():
        for room in rooms:
            best = loaded(trace, room, Belady(trace))
            row = {policy: loaded(trace, room, make()) / best for policy, make in POLICIES.items()}
            rows[f"{name}, room {room}"] = row
            print(f"{name:<30}{room:>5}" + "".join(f"{figure:9.2f}" for figure in row.values()), flush=True)
    summary = {
        policy: {
            "geometric_mean": float(np.exp(np.mean([np.log(row[policy]) for row in rows.values()]))),
            "worst": max(row[policy] for row in rows.values()),
        }
        for policy in POLICIES
    }
    for figure in ("geometric_mean", "worst"):
        print(f"{figure.replace('_', ' '):<35}" + "".join(f"{summary[policy][figure]:9.2f}" for policy in POLICIES))
    write_report(arguments.json, {"summary": summary, "traces": rows})


if __name__ == "__main__":
    main()
