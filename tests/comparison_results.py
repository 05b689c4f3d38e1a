"""Made-up results of a comparison, of the shape and size real ones have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean, harmonic_mean
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
    unmerged: Sequence[str] = ("postmarks", "road-works"),
    seed: int = 1,
) -> dict[str, Any]:
    """The object of `results.json`; the labels are keys of `KNOWN`."""
    rng = random.Random(seed)

    def percent(mean: float, std: float) -> float:
        return min(max(rng.gauss(mean, std), 0.0), 100.0)

    def accuracy(heights: dict[str, float], bwt: float) -> dict[str, dict[str, float]]:
        by_protocol = {}
        for protocol, height in heights.items():
            figures = {"acc": percent(height, 0.1), "bwt": bwt and rng.gauss(bwt, 0.1)}
            figures |= {"fwt": rng.gauss(1, 2)} if protocol == "P1" else {}
            by_protocol[protocol] = figures | {f"{name}_std": rng.uniform(0.1, 1.9) * (orders > 1) for name in figures}
        return by_protocol

    def matrix(height: float, ready: bool) -> list[list[float]]:
        """Rows: after step t; columns: tasks of the first order. Before its own merge a task is near the backbone's."""
        return [[percent(height if j <= t or ready else 55, 4) for j in range(len(tasks))] for t in range(len(tasks))]

    def shares(own: float, columns: int) -> list[list[float]]:
        """Percent of the images of each task (rows) that go to each task, and to the backbone if there is one more column."""
        rows = []
        for i in range(len(tasks)):
            weights = [rng.random() ** 6 + own * (i == j) for j in range(columns)]
            rows.append([100 * weight / sum(weights) for weight in weights])
        return rows

    record: dict[str, Any] = {
        "format": "mingle-edge comparison",
        "format_version": 2,
        "task_file": "suite20.toml",
        "protocols": list(protocols),
        "tasks": [
            {"name": name, "classes": rng.randint(4, 26), "test_images": 500, "tune_images": 200, "seed_images": 50}
            for name in tasks
        ],
        "unmerged_tasks": [
            {"name": name, "classes": 5, "test_images": 300, "tune_images": 100, "seed_images": 25} for name in unmerged
        ],
        "settings": {
            "orders": orders, "seed": 42, "seeds_per_class": 5, "tuned": tuned, "corruptions": list(corruptions)
        },
        "orders": [rng.sample(list(tasks), len(tasks)) for _ in range(orders)],
        "seconds": 5210.3,
        "machine": {"cpu": "AMD EPYC 7B13", "cores": 16, "device": "cpu", "memory_bytes": 134_000_000_000},
        "versions": {"mingle-edge": "0.1.0", "python": "3.11.9", "torch": "2.14.0", "numpy": "2.1.3"},
        "methods": {}, "accuracy": {}, "steps": {}, "matrix": {}, "by_task": {},
        "routes": {}, "identified": {}, "confusion": {}, "growth": {}, "unmerged": {}, "corrupted": {}, "failed": [],
    }  # fmt: skip
    for label in labels:
        name, acc, bwt, named, per_task, latency, router, parameter = KNOWN[label]
        trials = [{"parameters": {parameter: value}, "acc": acc - rng.uniform(0, 9)} for value in (0.1, 0.2, 0.3, 0.5, 1.0)]
        best = max(trials, key=lambda trial: trial["acc"])["parameters"] if parameter else {}
        record["methods"][label] = {
            "method": name,
            "parameters": ({"rank": 64, "steps": 50, "rate": 1e-4, "layers": "attn+mlp"} if per_task else {}) | best,
            "summary": f"What {name} does in one line, and where it comes from (arXiv 0000.00000)",
            "tuning": {"trials": trials, "chosen": best} if tuned and parameter else None,
            "stored_bytes": int(BACKBONE * (len(tasks) if label == "individual" else 1 + per_task * len(tasks))),
            "active_bytes": int(BACKBONE * (1 if label == "individual" else 1 + min(per_task, 0.15))),
            "bytes_per_task": int(BACKBONE * per_task),
            "latency_ratio": latency,
            "seconds_per_task": [rng.uniform(2.9, 3.2) * (1 + 9 * per_task) for _ in tasks],
        }
        heights = {"P1": acc, "P2": named, "P3": acc - (4 if router else 14)}
        heights = {protocol: heights[protocol] for protocol in protocols}
        record["accuracy"][label] = accuracy(heights, bwt)
        record["corrupted"][label] = {
            corruption: accuracy({protocol: height - 6 - 4 * i for protocol, height in heights.items()}, bwt - 1)
            for i, corruption in enumerate(corruptions)
        }
        record["steps"][label] = {
            protocol: {"mean": [percent(height - bwt, 0.4) for _ in tasks], "std": [rng.uniform(1, 3) for _ in tasks]}
            for protocol, height in heights.items()
        }
        ready = label in ("pretrained", "individual")
        record["matrix"][label] = {protocol: matrix(height, ready) for protocol, height in heights.items()}
        record["by_task"][label] = {p: {task: percent(height, 6) for task in tasks} for p, height in heights.items()}
        record["confusion"][label] = shares(18 if router else 6, len(tasks))
        if router:
            table = record["routes"][label] = shares(18, len(tasks) + 1)
            own = [row[i] for i, row in enumerate(table)]
            record["identified"][label] = {"own": fmean(own), "unclaimed": fmean(row[-1] for row in table)}
        stored = [BACKBONE * (1 + per_task * (t + 1)) for t in range(len(tasks))]
        ratios = [latency + (0.02 * t if latency > 2 else 0.0) for t in range(len(tasks))]
        several = len(tasks) > 1
        record["growth"][label] = {
            "stored_bytes": stored,
            "multiply_adds": ratios,
            "backbone_multiply_adds": 4.4e9,
            "stored_bytes_per_task": BACKBONE * per_task if several else None,
            "multiply_adds_per_task": (ratios[-1] - ratios[0]) / (len(tasks) - 1) if several else None,
        }
        if unmerged:
            by_task = {name: percent(acc - 20, 5) for name in unmerged}
            mean = fmean(by_task.values())
            score = harmonic_mean((record["accuracy"][label][protocols[0]]["acc"], mean))
            record["unmerged"][label] = {
                **{"acc": mean, "acc_std": rng.random(), "h_score": score, "h_score_std": rng.random()},
                **{"by_task": by_task, "unclaimed": rng.uniform(0, 100) if router else None},
            }
    if not corruptions:
        record["corrupted"] = {}
    return record
