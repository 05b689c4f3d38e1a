"""The blocks the router chooses by leave-one-out on the seeds, beside what it then does on test images, and what they cost.

    python -m benchmarks.router_depth [--suites 12 13 14] [--runs 40] [--json FILE]

For each suite, that is seed of `mingle-edge demo`: the backbone is pretrained, the seeds' statistics are taken as `merge`
takes them, and of the pixels alone and of every depth beside them are printed the leave-one-out error on the seeds, what it is
above the best one's with the standard error of that difference, the error on the test images, and which is chosen, by the seeds
alone. Suites below 12 were seen while the rule was made (2 is the demonstration's own). About a minute a suite.

Then the time of the graphs of both stages, by depth, over that of the dense tower: ViT-B/32 of random weights, interleaved, one
thread on its own clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.architectures import MODELS, random_backbone
from benchmarks.command import make_parser, write_report
from benchmarks.interleaved import compare_in_turn
from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.clip.vision_tower import Parameters
from mingle_edge.core.progress import silent
from mingle_edge.data.image_folder import list_images
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.demo import tiny_clip
from mingle_edge.demo.captions import captioned_images
from mingle_edge.demo.demo import CAPTIONED
from mingle_edge.demo.splits import make_split, write_unlabeled
from mingle_edge.demo.tasks import TASKS
from mingle_edge.experts.finetuned_task import PretrainedModel
from mingle_edge.routing.cascade import Cascade, Stage
from mingle_edge.routing.depth import choose_depth, deepest, left_out_errors, mean_of_tasks
from mingle_edge.routing.features import router_features, router_statistics
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.router import DIRECTIONS, Router, fit_router
from mingle_edge.routing.statistics import RouterStatistics
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.router import EARLIER, write_stage
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tower, pixel_graph
from mingle_edge_runtime.ort.session import CPU, Session

COSTED = MODELS["ViT-B-32"]
COSTED_TASKS = 8
NAMES = ("pixels", *(f"{blocks} blocks" for blocks in range(8)))
"""Of what a router reads, in this order."""


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, runs=40)
    parser.add_argument("--suites", type=int, nargs="*", default=[12, 13, 14])
    arguments = parser.parse_args(options)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"suites": {}}
    for suite in arguments.suites:
        routed = figures["suites"][suite] = route_suite(suite)
        for depth, (error, excess, spread, test) in zip(NAMES, routed["by_depth"], strict=False):
            seeds = f"seeds {error:5.2f}%, above the best {excess:5.2f} +- {spread:.2f}"
            print(
                f"suite {suite}, {depth}: {seeds}; test {test:5.2f}% {'[chosen]' * (depth == routed['chosen'])}",
                flush=True,
            )
    if arguments.runs:
        figures["times_dense"] = cost_by_depth(arguments.runs)
        for depth, ratio in zip(NAMES, figures["times_dense"], strict=False):
            print(f"router, {depth}: {ratio:.3f} x the dense tower")
    write_report(arguments.json, figures)


def route_suite(suite: int) -> dict[str, Any]:
    """Return figures in percent of one suite of the demonstration.

    By depth: error of left-out seeds, excess over the best depth, its standard error, error on test images.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone, architecture = pretrained(folder, suite)
        depths = deepest("auto", architecture.layers)
        statistics = []
        for task in TASKS:
            write_unlabeled(folder / task.name, make_split(task, "seeds", suite))
            statistics.append(
                router_statistics(
                    task.name,
                    ImageSet(list_images(folder / task.name)),
                    PretrainedModel(backbone, architecture, torch.device("cpu")),
                    Settings(),
                )
            )
    tests = []
    for task in TASKS:
        pixels = tiny_clip.to_pixels(make_split(task, "test", suite).images)
        with torch.inference_mode():
            tests.append(router_features(pixels, backbone, architecture, depths).double().numpy())
    layout = Layout.of(architecture, depths)
    read = [layout.columns(blocks) for blocks in (None, *range(depths + 1))]
    by_depth = [[s.columns(columns) for s in statistics] for columns in read]
    left_out = [left_out_errors(of_depth) for of_depth in by_depth]
    best = min(left_out, key=lambda shares: mean_of_tasks(shares)[0])
    rows = []
    for columns, of_depth, shares in zip(read, by_depth, left_out, strict=True):
        excess = mean_of_tasks([a - b for a, b in zip(shares, best, strict=True)])
        rows.append([100 * figure for figure in (mean_of_tasks(shares)[0], *excess, test_error(of_depth, tests, columns))])
    chosen = choose_depth(statistics, layout)
    return {"by_depth": rows, "chosen": NAMES[0 if chosen is None else chosen + 1]}


def pretrained(folder: Path, suite: int) -> tuple[Parameters, VisionArchitecture]:
    """Train the demonstration's backbone and read it as a merge does."""
    images, subjects = captioned_images((None, *TASKS), suite, CAPTIONED)
    model = tiny_clip.new_model(suite)
    tiny_clip.train_text_tower(model, sorted(set(subjects)), suite, silent)
    tiny_clip.pretrain(model, images, subjects, suite, silent)
    print(f"suite {suite}: pretrained", file=sys.stderr, flush=True)
    tiny_clip.save_config(folder / "model.json")
    tiny_clip.save(model, folder / "backbone.safetensors")
    architecture = read_architecture("model.json", folder, "backbone.safetensors")
    checkpoint = open_checkpoint("backbone.safetensors", base=folder, architecture=architecture, model="model.json")
    return dict(checkpoint.tensors()), architecture


def test_error(statistics: list[RouterStatistics], tests: list[np.ndarray], columns: np.ndarray) -> float:
    """Return the share of test images routed to another task, mean of the tasks."""
    router = fit_router(statistics)
    return float(np.mean([(router.posterior(x[:, columns])[0].argmax(1) != t).mean() for t, x in enumerate(tests)]))


def cost_by_depth(runs: int) -> list[float]:
    """Time the stage of pixels, and with it the stage of blocks of each depth; returns median ratios to the dense tower."""
    random = np.random.default_rng(1)
    layout = Layout.of(COSTED, deepest("auto", COSTED.layers))

    def router(blocks: int | None) -> Router:
        features = random.standard_normal((COSTED_TASKS, DIRECTIONS, 2, len(layout.columns(blocks))), dtype=np.float32)
        return fit_router([RouterStatistics.from_features(of_task) for of_task in features])

    pixels = Stage("pixels", 0, router(None), -1.0)
    images = random.standard_normal((1, 3, COSTED.image_size, COSTED.image_size), dtype=np.float32)
    feeds = {PIXELS: images, EARLIER: np.zeros((1, len(layout.columns(None))), np.float32)}
    losses, groups = np.zeros((COSTED_TASKS, COSTED_TASKS + 1)), np.zeros(COSTED_TASKS, np.int64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "backbone.bin").open("wb") as file:
            stored = Backbone(COSTED, random_backbone(COSTED), WeightFile(file, "backbone.bin"))
            Tower(pixel_graph("dense", COSTED), stored).write(folder / "dense.onnx")
            for depth in range(layout.depths):
                cascade = Cascade((pixels, Stage("blocks", depth, router(depth), -1.0)), losses, groups)
                with (folder / f"router{depth}.bin").open("wb") as own:
                    weights = WeightFile(own, f"router{depth}.bin")
                    write_stage(folder / f"pixels{depth}.onnx", cascade, 0, stored, "fp32", weights)
                    write_stage(folder / f"router{depth}.onnx", cascade, 1, stored, "fp32", weights)
        paths = [folder / "dense.onnx", folder / "pixels0.onnx", *sorted(folder.glob("router*.onnx"))]
        ways = {path.stem: partial(_run, Session(path, [CPU], 1), feeds) for path in paths}
    _, first, *others = (compared["ratio"] for compared in compare_in_turn(ways, runs, clock=time.thread_time).values())
    return [first, *(first + ratio for ratio in others)]


def _run(session: Session, feeds: dict[str, np.ndarray]) -> object:
    return session.run({name: feeds[name] for name in session.inputs})


if __name__ == "__main__":
    main()
