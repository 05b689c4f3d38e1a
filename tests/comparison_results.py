"""Made-up results of a comparison, of the shape and size real ones have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

TASKS = (
    "digits", "letters", "textures", "signs", "satellite", "gauge", "counting", "defects", "shapes", "clocks", "fruits",
    "weave", "barcodes", "seven-segment", "arrows", "dominoes", "leaves", "screws", "playing-cards", "constellations",
)  # fmt: skip
SEVEN = ("motion_blur", "impulse_noise", "gaussian_noise", "pixelate", "spatter", "contrast", "jpeg")
BACKBONE = 351_234_048  # bytes

# label: registered name, ACC in P1, BWT, ACC in P2, times the backbone stored per task, latency, router, tuned parameter
KNOWN: dict[str, tuple[str, float, float, float, float, float, bool, str | None]] = {
    "pretrained": ("pretrained", 55.6, 0.0, 55.6, 0.0, 1.0, False, None),
    "individual": ("individual", 92.4, 0.0, 92.4, 1.0, 1.0, False, None),
    "weight-averaging": ("weight-averaging", 61.1, -7.1, 61.1, 0.0, 1.0, False, None),
    "task-arithmetic": ("task-arithmetic", 60.0, -3.4, 60.0, 0.0, 1.01, False, "scale"),
    "ties": ("ties", 59.9, -1.5, 59.9, 0.0, 1.0, False, "scale"),
    "magmax": ("magmax", 61.2, -7.2, 61.2, 0.0, 1.0, False, "scale"),
    "consensus-ta": ("consensus-ta", 45.8, -11.8, 45.8, 0.0, 0.99, False, "scale"),
    "opcm": ("opcm", 65.7, -7.8, 65.7, 0.0, 1.0, False, "share"),
    "adamerging-published": ("adamerging", 59.7, -22.7, 59.7, 0.0, 1.0, False, "rate"),
    "adamerging-corrected": ("adamerging", 62.3, -9.9, 62.3, 0.0, 1.0, False, "rate"),
    "lora-wemoe-published": ("lora-wemoe", 49.6, -24.5, 49.6, 0.05, 1.38, False, "rate"),
    "lora-wemoe-corrected": ("lora-wemoe", 56.9, -17.9, 57.2, 0.12, 1.42, False, "rate"),
    "mingle-pooled": ("mingle", 69.9, -2.2, 72.0, 0.13, 2.2, False, "rate"),
    "mingle-top1": ("mingle", 62.4, -1.3, 72.1, 0.13, 1.6, False, "rate"),
    "image-top1": ("image", 84.6, -1.2, 92.1, 0.14, 1.17, True, None),
    "image-posterior-weighted": ("image", 85.3, -1.0, 92.1, 0.14, 1.33, True, "k"),
}


def results(
    tasks: Sequence[str] = TASKS,
    labels: Sequence[str] = tuple(KNOWN),
    orders: int = 10,
    protocols: Sequence[str] = ("P1", "P2", "P3"),
    corruptions: Sequence[str] = SEVEN,
    tuned: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """The object of `results.json`; the labels are keys of `KNOWN`."""
    make = _Maker(list(tasks), orders, list(protocols), list(corruptions), tuned, random.Random(seed))
    for label in labels:
        make.method(label)
    return make.results


class _Maker:
    def __init__(
        self, tasks: list[str], orders: int, protocols: list[str], corruptions: list[str], tuned: bool, rng: random.Random
    ) -> None:
        self.tasks, self.rng, self.protocols = tasks, rng, protocols
        self.hardness = [rng.uniform(-9, 7) for _ in tasks]
        self.results: dict[str, Any] = {
            "format": "mingle-edge comparison",
            "format_version": 1,
            "task_file": "suite20.toml",
            "protocols": protocols,
            "tasks": [
                {"name": name, "classes": rng.randint(4, 26), "test_images": 500, "tune_images": 200, "seed_images": 50}
                for name in tasks
            ],
            "settings": {"orders": orders, "seed": 42, "seeds_per_class": 5, "tuned": tuned, "corruptions": corruptions},
            "orders": [rng.sample(tasks, len(tasks)) for _ in range(orders)],
            "seconds": 5210.3,
            "machine": {"cpu": "AMD EPYC 7B13", "cores": 16, "device": "cpu", "memory_bytes": 134_000_000_000},
            "versions": {"mingle-edge": "0.1.0", "python": "3.11.9", "torch": "2.14.0", "numpy": "2.1.3"},
            "methods": {}, "accuracy": {}, "steps": {}, "matrix": {}, "by_task": {},
            "routes": {}, "confusion": {}, "corrupted": {}, "failed": [],
        }  # fmt: skip

    def method(self, label: str) -> None:
        name, acc, bwt, named, per_task, latency, router, tuned = KNOWN[label]
        settings, rng, count = self.results["settings"], self.rng, len(self.tasks)
        parameters: dict[str, Any] = {"rank": 64, "steps": 50, "rate": 1e-4, "layers": "attn+mlp"} if per_task else {}
        trials = [{"parameters": {tuned: value}, "acc": acc - rng.uniform(0, 9)} for value in (0.1, 0.2, 0.3, 0.5, 1.0)]
        best = max(trials, key=lambda trial: trial["acc"])["parameters"]
        apart = settings["tuned"] and tuned is not None
        self.results["methods"][label] = {
            "method": name,
            "parameters": parameters | (best if tuned else {}),
            "summary": f"What {name} does in one line, and where it comes from (arXiv 0000.00000)",
            "tuning": {"trials": trials, "chosen": best} if apart else None,
            "stored_bytes": int(BACKBONE * (count if label == "individual" else 1 + per_task * count)),
            "active_bytes": int(BACKBONE * (1 if label == "individual" else 1 + min(per_task, 0.15))),
            "latency_ratio": latency,
            "seconds_per_task": [rng.uniform(2.9, 3.2) * (1 + 9 * per_task) for _ in self.tasks],
        }
        heights = {"P1": acc, "P2": named, "P3": acc - (4 if router else 14)}
        heights = {protocol: heights[protocol] for protocol in self.protocols}
        self.results["accuracy"][label] = self._accuracy(heights, bwt)
        self.results["steps"][label] = {protocol: self._steps(height, bwt) for protocol, height in heights.items()}
        self.results["matrix"][label] = {protocol: self._matrix(label, height, bwt) for protocol, height in heights.items()}
        self.results["by_task"][label] = {
            protocol: {
                name: _percent(height + hard + rng.gauss(0, 3)) for name, hard in zip(self.tasks, self.hardness, strict=True)
            }
            for protocol, height in heights.items()
        }
        if router:
            self.results["routes"][label] = self._shares(rng.uniform(84, 90), backbone=True)
        self.results["confusion"][label] = self._shares(88 if router else 70, backbone=False)
        if settings["corruptions"]:
            self.results["corrupted"][label] = {
                name: self._accuracy({key: height - 6 - 4 * i for key, height in heights.items()}, bwt - 1)
                for i, name in enumerate(settings["corruptions"])
            }

    def _accuracy(self, heights: dict[str, float], bwt: float) -> dict[str, dict[str, float]]:
        rng, spread = self.rng, len(self.results["orders"]) > 1
        found = {}
        for protocol, height in heights.items():
            names = {"acc": _percent(height + rng.gauss(0, 0.1)), "acc_std": rng.uniform(0.2, 1.9) * spread}
            names |= {"bwt": bwt + rng.gauss(0, 0.1) if bwt else 0.0, "bwt_std": rng.uniform(0.1, 1.5) * spread}
            if protocol == "P1":
                names |= {"fwt": rng.gauss(1, 2), "fwt_std": rng.uniform(0.1, 1) * spread}
            found[protocol] = names
        return found

    def _steps(self, height: float, bwt: float) -> dict[str, list[float]]:
        last, count = len(self.tasks) - 1, len(self.tasks)
        means = [_percent(height - 1.6 * bwt * (1 - t / max(last, 1)) ** 2 + self.rng.gauss(0, 0.4)) for t in range(count)]
        return {"mean": means, "std": [self.rng.uniform(1, 3) * (1.3 - t / count) for t in range(count)]}

    def _matrix(self, label: str, height: float, bwt: float) -> list[list[float | None]]:
        """Rows: after step t; columns: tasks of the first order. Before its own merge a task is near the backbone's."""
        place = [self.tasks.index(name) for name in self.results["orders"][0]]
        rows: list[list[float | None]] = []
        for t in range(len(place)):
            later = label in ("pretrained", "individual")
            row = []
            for j, task in enumerate(place):
                forgot = bwt * 2 * (t - j) / len(place)
                level = height - bwt + forgot if j <= t or later else 55 - 0.2 * t
                row.append(_percent(level + 1.5 * self.hardness[task] + self.rng.gauss(0, 1)))
            rows.append(row)
        return rows

    def _shares(self, own: float, backbone: bool) -> list[list[float]]:
        """Percent of the images of each task (rows) that go to each task, and to the backbone."""
        count, rows = len(self.tasks), []
        for i in range(count):
            weights = [self.rng.random() ** 6 for _ in range(count + backbone)]
            weights[i] = 0
            left = 100 - (own + self.hardness[i]) if sum(weights) else 0
            row = [weight * left / (sum(weights) or 1) for weight in weights]
            row[i] = 100 - left
            rows.append(row)
        return rows


def _percent(value: float) -> float:
    return min(max(value, 0.0), 100.0)
