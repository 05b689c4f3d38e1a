"""A tiny bundle whose router has three stages, a judge and groups, and the same in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from tiny_bundle import (
    DIM,
    GOLDEN_IMAGES,
    LOGIT_SCALE,
    SPEC,
    TASKS,
    BundleWriter,
    Weights,
    constant,
    flat,
    node,
    relist,
    rewrite,
    write_image_bundle,
)

from mingle_edge_runtime.images.preprocess import preprocess

STAGES = ("pixels", "blocks", "embedding")
GROUPS = {"warm": ["red"], "cold": ["green", "blue"]}
LOSSES = np.array([[0.0, 0.6, 0.8, 0.2], [0.7, 0.0, 0.5, 0.25], [0.9, 0.6, 0.0, 0.3]])
DOUBTS = {"pixels": 0.12, "blocks": 0.2, "embedding": 0.15}
BOUNDS = {"pixels": -0.5, "blocks": -0.6, "embedding": 1.5}
JUDGE = {"typical": [3.0, 4.0, 5.0], "deviation": [2.0, 1.0, 3.0], "trust": 0.5, "unsure": 1.8, "bound": 1.4}
_random = np.random.default_rng(3)
SHARPNESS = (
    4 * np.eye(3),
    np.concatenate([4 * np.eye(3), 2 * _random.standard_normal((3, 3))]),
    np.concatenate([4 * np.eye(3), 2 * _random.standard_normal((3, 3)), 3 * _random.standard_normal((DIM, 3))]),
)
"""of each stage, from its features to scores"""


def stage_outputs(weights: Weights, pixels: np.ndarray, mask: np.ndarray | None = None) -> list[dict[str, np.ndarray]]:
    """What each stage computes for all of `pixels`, in float64."""
    values = pixels.astype(np.float64)
    own = [values.mean((2, 3)), values.std((2, 3)), weights.image_scope(flat(pixels), [], [])]
    outputs = []
    for number, matrix in enumerate(SHARPNESS):
        scores = np.concatenate(own[: number + 1], axis=1) @ matrix
        competing = scores if mask is None else np.where(mask > 0.5, scores, -np.inf)
        powers = np.exp(competing - competing.max(1, keepdims=True))
        posterior = powers / powers.sum(1, keepdims=True)
        outputs.append({"posterior": posterior, "losses": posterior @ LOSSES, "confidence": scores.max(1)})
    return outputs


def write_cascade_bundle(
    root: Path,
    weights: Weights,
    top_k: int = 1,
    *,
    stages: tuple[str, ...] = STAGES,
    judge: dict[str, Any] | None = JUDGE,
    doubts: dict[str, float] = DOUBTS,
) -> Path:
    """A bundle of the image scope with the first so many of three stages."""
    write_image_bundle(root, weights, top_k)
    writer = BundleWriter.__new__(BundleWriter)
    writer.root = root
    (root / "router.onnx").unlink()
    rewrite(root, lambda record: record["files"].pop("router.onnx"))
    for number, name in enumerate(stages):
        _write_stage(writer, name, number, last=name == stages[-1])
        relist(root, f"router_{name}.onnx")
    records = [
        {"name": name, "file": f"router_{name}.onnx", "blocks": int(name == "blocks"), "precision": "fp32"}
        | {"doubt": doubts[name], "confidence_bound": BOUNDS[name]}
        for name in stages
    ]
    router = {"stages": records, "groups": GROUPS} | ({"judge": judge} if judge else {})
    rewrite(root, lambda record: record.update(router=router))
    _write_golden(root, weights, top_k, len(stages))
    return root


def _write_stage(writer: BundleWriter, name: str, number: int, last: bool) -> None:
    nodes, inputs = {
        "pixels": ([node("ReduceMean", "pixel_values", "own", axes=[2, 3], keepdims=0)], []),
        "blocks": (
            [
                node("ReduceMean", "pixel_values", "mean", axes=[2, 3]),
                node("Sub", "pixel_values mean", "centered"),
                node("Mul", "centered centered", "squares"),
                node("ReduceMean", "squares", "variance", axes=[2, 3], keepdims=0),
                node("Sqrt", "variance", "own"),
            ],
            [("previous_features", 3)],
        ),
        "embedding": ([node("Identity", "image_embeds", "own")], [("previous_features", 6), ("image_embeds", DIM)]),
    }[name]
    joined = "Concat", "previous_features own" if number else "own", "features"
    nodes += [
        node(*joined, axis=1),
        node("MatMul", "features matrix", "scores"),
        node("Greater", "task_mask half", "competes"),
        node("Where", "competes scores nowhere", "competing"),
        node("Softmax", "competing", "posterior", axis=1),
        node("MatMul", "posterior table", "losses"),
        node("ReduceMax", "scores", "confidence", axes=[1], keepdims=0),
    ]
    mask = constant("task_mask", np.ones(3), np.float32)
    tensors = [mask, constant("matrix", SHARPNESS[number], np.float32), constant("table", LOSSES, np.float32)]
    tensors += [constant("half", 0.5, np.float32), constant("nowhere", -1e30, np.float32)]
    given = [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["batch", size]) for key, size in inputs]
    given.append(helper.make_tensor_value_info("task_mask", TensorProto.FLOAT, [3]))
    outputs = {"posterior": (TensorProto.FLOAT, 2), "losses": (TensorProto.FLOAT, 2), "confidence": (TensorProto.FLOAT, 1)}
    if not last:
        outputs["features"] = (TensorProto.FLOAT, 2)
    writer.graph(f"router_{name}.onnx", nodes, outputs, tensors, tuple(given), pixels=name != "embedding")


def _write_golden(root: Path, weights: Weights, top_k: int, stages: int) -> None:
    pixels = preprocess(GOLDEN_IMAGES, SPEC)
    outputs = stage_outputs(weights, pixels)[:stages]
    posterior = outputs[-1]["posterior"]
    best = np.argsort(-posterior, axis=1)[:, :top_k]
    shares = np.take_along_axis(posterior, best, 1) / np.take_along_axis(posterior, best, 1).sum(1, keepdims=True)
    x = flat(pixels)
    runs = [weights.image_scope(x[i : i + 1], list(best[i]), list(shares[i])) for i in range(len(x))]
    with np.load(root / "golden.npz") as file:
        golden = dict(file)
    golden |= {name: np.stack([stage[name] for stage in outputs]) for name in outputs[0]}
    golden["probabilities"] = np.stack([weights.labels(np.concatenate(runs), posterior), weights.labels(golden["plain"])])
    np.savez(root / "golden.npz", **golden)
    relist(root, "golden.npz")


class Decided:
    """What becomes of one image, by numpy: the stage, the task (None: the plain backbone) and the embedding."""

    def __init__(
        self,
        weights: Weights,
        pixels: np.ndarray,
        *,
        stages: tuple[str, ...] = STAGES,
        judge: dict[str, Any] | None = JUDGE,
        doubts: dict[str, float] = DOUBTS,
        mask: np.ndarray | None = None,
    ) -> None:
        x = flat(pixels)
        self.margin = np.inf  # how near the nearest decision was
        for name, output in zip(stages, stage_outputs(weights, pixels, mask), strict=False):
            posterior, losses, confidence = (output[key][0] for key in ("posterior", "losses", "confidence"))
            last, claimed, sure = name == stages[-1], confidence >= BOUNDS[name], losses.min() <= doubts[name]
            self._near(confidence - BOUNDS[name], losses.min() - doubts[name])
            if claimed and sure and not last:
                break
        self.stage, self.posterior, self.confidence = name, posterior, confidence
        order = np.argsort(losses[:3], kind="stable")
        self._near(losses[order[0]] - losses[3], losses[order[1]] - losses[order[0]])
        self.task = int(order[0]) if claimed and losses[order[0]] <= losses[3] else None
        self.runner_up = int(order[1])
        judged = last and judge is not None and claimed and not (sure and confidence >= judge["unsure"])
        if last and judge is not None:
            self._near(confidence - judge["unsure"])
        if judged:
            self._ask(weights, x, judge, posterior, float(confidence), order[:2])
        self.embed = weights.image_scope(x, [] if self.task is None else [self.task], [] if self.task is None else [1.0])[0]

    def _ask(
        self,
        weights: Weights,
        x: np.ndarray,
        judge: dict[str, Any],
        posterior: np.ndarray,
        confidence: float,
        pair: np.ndarray,
    ) -> None:
        logits = [(LOGIT_SCALE * weights.heads[t] @ weights.image_scope(x, [t], [1.0])[0]).max() for t in pair]
        typical = [(z - judge["typical"][t]) / judge["deviation"][t] for z, t in zip(logits, pair, strict=True)]
        scores = [value + judge["trust"] * np.log(max(posterior[t], 1e-307)) for value, t in zip(typical, pair, strict=True)]
        won = int(scores[1] > scores[0])
        claim = confidence + min(typical[won], 1.0)
        self._near(scores[1] - scores[0], claim - judge["bound"])
        self.stage, self.task, self.runner_up = "experts", int(pair[won]), int(pair[1 - won])
        if claim < judge["bound"]:
            self.task, self.runner_up = None, int(pair[won])

    def _near(self, *differences: float) -> None:
        self.margin = min(self.margin, *map(abs, differences))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Noisy uint8 images `[n, 12, 9, 3]` of many tints, some of which are plain to see and some not."""
    random = np.random.default_rng(seed)
    tints = random.dirichlet([0.4] * 3, (count, 1, 1)) * random.uniform(0, 255, (count, 1, 1, 1))
    noise = random.uniform(0, 120, (count, 12, 9, 3)) * random.uniform(0, 1, (count, 1, 1, 3))
    return np.clip(tints + noise, 0, 255).astype(np.uint8)


def names(*tasks: int | None) -> list[tuple[str, ...]]:
    """The tasks of routes."""
    return [() if t is None else (TASKS[t],) for t in tasks]
