"""Counters in the form of the protocol's statistics extension, which `tritonclient` reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mingle_edge_runtime import EdgeModel
from mingle_edge_server.protocol.description import VERSION

_PHASES = {"decode": "compute_input", "queue": "queue", "run": "compute_infer"}
_WRITING = "compute_output"


@dataclass
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Add one more time."""
        self.count += 1
        self.ns += round(1e9 * seconds)


@dataclass
class Statistics:
    """What was answered since the start; changed by the event loop alone."""

    images: int = 0
    last: int = 0
    """milliseconds since 1970"""
    durations: dict[str, Duration] = field(
        default_factory=lambda: {name: Duration() for name in ("success", "fail", *_PHASES.values(), _WRITING)}
    )

    def succeeded(self, images: int, seconds: Mapping[str, float]) -> None:
        """Count a request that was answered."""
        self.images += images
        self.last = round(1e3 * time.time())
        self.durations["success"].add(sum(seconds.values()))
        for phase, name in _PHASES.items():
            self.durations[name].add(seconds[phase])

    def wrote(self, seconds: float) -> None:
        """Add the time that a response took to write."""
        self.durations[_WRITING].add(seconds)

    def failed(self, seconds: float) -> None:
        """Count a request that was accepted, and answered with an error."""
        self.durations["fail"].add(seconds)

    def to_json(self, model: EdgeModel, name: str) -> dict[str, Any]:
        """Return the extension's object; `experts`, which is ours, has the counters of the model's experts."""
        stats = asdict(model.stats())
        experts = {key: stats[key] for key in ("budget", "resident_bytes", "hits", "misses", "evictions", "bytes_loaded")}
        statistics = {
            "name": name,
            "version": VERSION,
            "last_inference": self.last,
            "inference_count": self.images,
            "execution_count": self.durations["success"].count,
            "inference_stats": {key: asdict(duration) for key, duration in self.durations.items()},
            "batch_stats": [],
            "experts": experts | {"all_bytes": sum(task.expert_bytes for task in model.bundle.index.tasks)},
        }
        return {"model_stats": [statistics]}
