"""Which tasks the image router will confuse: leave-one-out on a few calibration images of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mingle_edge.checking.report import Confusion
from mingle_edge.checkpoints import Checkpoint
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.progress import Progress
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.experts.finetuned_task import PretrainedModel
from mingle_edge.routing.depth import choose_depth, deepest
from mingle_edge.routing.features import router_statistics
from mingle_edge.routing.layout import Layout
from mingle_edge.routing.leave_one_out import left_out_scores

MOST_IMAGES = 12  # of a task
MOST_VARIATIONS = 2  # of an image; a merge makes more


def router_confusion(
    calibration_images: Mapping[str, ImageSet],
    backbone: Checkpoint,
    architecture: VisionArchitecture,
    settings: Settings,
    progress: Progress,
) -> Confusion:
    """Return where a router of these tasks, two or more, sends images that it has not seen.

    It is a router of fewer images and variations than the merge's, and so a rough one; of the backbone only the blocks that
    it reads are loaded.

    Raises:
        CheckpointError: the backbone computes values that are not finite.
    """
    most = deepest(settings.router_blocks, architecture.layers)
    behind = tuple(f"blocks.{block}." for block in range(most, architecture.layers))
    read = {name: backbone.tensor(name) for name in architecture.parameter_shapes() if not name.startswith(behind)}
    pretrained = PretrainedModel(read, architecture, torch.device("cpu"))
    few = replace(settings, router_augmentations=min(settings.router_augmentations, MOST_VARIATIONS))
    statistics = []
    for name, images in calibration_images.items():
        some = ImageSet([images.paths[number] for number in images.evenly(MOST_IMAGES)])
        statistics.append(router_statistics(name, some, pretrained, few, progress, embedding=False))
    layout = Layout.of(architecture, most)
    blocks = choose_depth(statistics, layout) if settings.router_blocks == "auto" else most
    routed: dict[str, list[float]] = {}
    tasks = list(calibration_images)
    for task, scores in left_out_scores([s.columns(layout.columns(blocks)) for s in statistics]):
        chosen = scores.argmax(axis=2).ravel()  # [k v]
        routed[tasks[task]] = [float((chosen == other).mean()) for other in range(len(tasks))]
    return Confusion(tasks, blocks, {name: s.count for name, s in zip(tasks, statistics, strict=True)}, routed)
