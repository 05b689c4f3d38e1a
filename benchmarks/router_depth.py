"""The depth the router chooses by leave-one-out on the seeds, beside what it then does on test images, and what depth costs.

    python -m benchmarks.router_depth [--suites 12 13 14] [--runs 40] [--json FILE]

For each suite, that is seed of `mingle-edge demo`: the backbone is pretrained, the seeds' statistics are taken as `merge`
takes them, and of every depth are printed the leave-one-out error on the seeds, what it is above the best depth's with the
standard error of that difference, the error on the test images, and which depth is chosen, by the seeds alone. Suites below
12 were seen while the rule was made (2 is the demonstration's own). About a minute a suite.

Then the time of the router's graph by depth over that of the dense tower: ViT-B/32 of random weights, interleaved, one thread
on its own clock.
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
from mingle_edge.clip.vision_tower import Parameters, router_features
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
from mingle_edge.routing.depth import choose_depth, deepest, left_out_errors, mean_of_tasks
from mingle_edge.routing.features import router_statistics
from mingle_edge.routing.router import DIRECTIONS, fit_router
from mingle_edge.routing.statistics import MOMENTS, RouterStatistics
from mingle_edge_export.graph.builder import WeightFile
from mingle_edge_export.tower.router import write_router
from mingle_edge_export.tower.vision_tower import PIXELS, Backbone, Tower, pixel_graph
from mingle_edge_runtime.ort.session import CPU, Session

COSTED = MODELS["ViT-B-32"]
COSTED_TASKS = 8


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, runs=40)
    parser.add_argument("--suites", type=int, nargs="*", default=[12, 13, 14])
    arguments = parser.parse_args(options)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"suites": {}}
    for suite in arguments.suites:
        routed = figures["suites"][suite] = route_suite(suite)
        for depth, (error, excess, spread, test) in enumerate(routed["by_depth"]):
            seeds = f"seeds {error:5.2f}%, above the best {excess:5.2f} +- {spread:.2f}"
            print(
                f"suite {suite}, {depth} blocks: {seeds}; test {test:5.2f}% {'[chosen]' * (depth == routed['chosen'])}",
                flush=True,
            )
    if arguments.runs:
        figures["times_dense"] = cost_by_depth(arguments.runs)
        for depth, ratio in enumerate(figures["times_dense"]):
            print(f"router, {depth} blocks: {ratio:.3f} x the dense tower")
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
    size = MOMENTS * architecture.width
    by_depth = [[s.first(size * (m + 1)) for s in statistics] for m in range(depths + 1)]
    left_out = [left_out_errors(of_depth) for of_depth in by_depth]
    best = min(left_out, key=lambda shares: mean_of_tasks(shares)[0])
    rows = []
    for of_depth, shares in zip(by_depth, left_out, strict=True):
        excess = mean_of_tasks([a - b for a, b in zip(shares, best, strict=True)])
        rows.append([100 * figure for figure in (mean_of_tasks(shares)[0], *excess, test_error(of_depth, tests))])
    return {"by_depth": rows, "chosen": choose_depth(statistics, size)}


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


def test_error(statistics: list[RouterStatistics], tests: list[np.ndarray]) -> float:
    """Return the share of test images routed to another task, mean of the tasks."""
    router = fit_router(statistics)
    features = len(router.weight)
    return float(np.mean([(router.posterior(x[:, :features])[0].argmax(1) != t).mean() for t, x in enumerate(tests)]))


def cost_by_depth(runs: int) -> list[float]:
    """Time the router of each depth; returns its median ratio to the dense tower."""
    random = np.random.default_rng(1)
    feeds = {PIXELS: random.standard_normal((1, 3, COSTED.image_size, COSTED.image_size), dtype=np.float32)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "backbone.bin").open("wb") as file:
            stored = Backbone(COSTED, random_backbone(COSTED), WeightFile(file, "backbone.bin"))
            Tower(pixel_graph("dense", COSTED), stored).write(folder / "dense.onnx")
            for depth in range(deepest("auto", COSTED.layers) + 1):
                size = MOMENTS * COSTED.width * (depth + 1)
                features = random.standard_normal((COSTED_TASKS, DIRECTIONS, 2, size), dtype=np.float32)
                router = fit_router([RouterStatistics.from_features(of_task) for of_task in features])
                with (folder / f"router{depth}.bin").open("wb") as own:
                    write_router(folder / f"router{depth}.onnx", stored, depth, router, WeightFile(own, f"router{depth}.bin"))
        paths = [folder / "dense.onnx", *sorted(folder.glob("router*.onnx"))]
        ways = {path.stem: partial(Session(path, [CPU], 1).run, feeds) for path in paths}
    _, *routers = compare_in_turn(ways, runs, clock=time.thread_time).values()
    return [compared["ratio"] for compared in routers]


if __name__ == "__main__":
    main()
