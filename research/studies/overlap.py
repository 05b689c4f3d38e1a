"""What happens when tasks overlap: the suite's pairs of similar tasks beside pairs of the same tasks that are not similar.

    python -m research.studies.overlap --suite DIR [--pretraining-seeds 0 1 2] [--scope image | layer]

`image`: where the router sends the images of a task that has a sibling, and what its sibling's expert makes of them.
`layer`: every pair is merged by itself, first the one, then the other. The first tasks of all pairs and the second ones are
the same in both kinds of pairs, only their partners change. And the null space is held more or less tightly: uniformly, by
how similar the tasks are, or by how much of the new task's inputs each protected direction carries. Which strength is best
is decided on the tune part; figures are of the test part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import plain_linear
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import Settings
from mingle_edge.gates.adaptation import NewGate
from mingle_edge.gates.gate_training import GateLearner
from mingle_edge.gates.null_space import NullSpaceProjector
from mingle_edge.merging.task_merging import LayerState
from research.studies.layer_merging import SeedsInMemory, merge_layers, percent_in_layers
from research.studies.routes import Bools, Floats, Route, p1, p2, picked
from research.studies.seeds import LEARNING_RATE
from research.studies.study import PARTS, SEEDS_PER_CLASS, VARIATIONS, Study
from research.studies.tables import Table, note, parser, spread
from research.suite.tasks import SIMILAR


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--scope", choices=("image", "layer"), default="image")
    given = options.parse_args(arguments)
    studies = [Study(given.suite, seed, given.tasks) for seed in given.pretraining_seeds]
    print((image_scope if given.scope == "image" else layer_scope)(studies))


def siblings(study: Study) -> list[tuple[int, int]]:
    """Return the pairs of similar tasks among those of the study, by number, the one that is merged first in front."""
    names = [task.name for task in study.tasks]
    return [(names.index(a), names.index(b)) for a, b in SIMILAR if a in names and b in names]


def image_scope(studies: list[Study]) -> Table:
    """Return routing and accuracy of each task with a sibling, mean over pretraining seeds."""
    columns = ["task (sibling)", "to its own", "to the sibling", "to another task, mean", "to the backbone"]
    columns += ["own expert (P2)", "sibling's expert", "others' experts", "backbone", "P1"]
    table = Table(*columns, show=lambda values: "" if np.isnan(values).any() else f"{np.mean(values):.1f}")
    for study in studies:
        routes = study.route(study.cascade(study.drawn(study.seed_features(VARIATIONS))), "test")
        correct = study.correct("test", study.settings.largest_rank)
        pairs = siblings(study)
        partner = dict(pairs) | {b: a for a, b in pairs}
        rows = [_of_task(task, partner.get(task), correct[task], routes[task]) for task in range(len(study.tasks))]
        for task, sibling in sorted(partner.items()):
            table.add(f"{study.tasks[task].name} ({study.tasks[sibling].name})", *rows[task])
        for name, paired in (("without", False), ("with", True)):
            of_kind = [row for task, row in enumerate(rows) if (task in partner) == paired]
            table.add(f"tasks {name} a sibling, mean", *np.mean(of_kind, axis=0))
        note(f"{study.folder}: P1 {p1(correct, routes):.1f}, P2 {p2(correct):.1f}")
    print("Images of a task by where they are routed, then its accuracy by what answers; percent, test part.\n")
    return table


def _of_task(task: int, sibling: int | None, right: Bools, of_task: Route) -> list[float]:
    to = of_task.answering
    others = [t for t in range(right.shape[1] - 1) if t not in (task, sibling)]
    shares = [np.mean(to == task), np.nan if sibling is None else np.mean(to == sibling)]
    shares += [np.mean(np.isin(to, others)) / len(others), np.mean(to < 0)]
    accuracies = [right[:, task].mean(), np.nan if sibling is None else right[:, sibling].mean(), right[:, others].mean()]
    return [100 * float(x) for x in [*shares, *accuracies, right[:, -1].mean(), picked(right, to).mean()]]


@dataclass
class ScaledProjector(NullSpaceProjector):
    """Removes of a vector's part along each basis direction the share that `strengths` says, of all or of each `[m]`."""

    strengths: Tensor | float = 1.0

    def project(self, vectors: Tensor) -> Tensor:
        """Return the constrained vectors, `[rows, d]` as given."""
        return vectors - (vectors @ self.basis.T * self.strengths) @ self.basis


Strength = Callable[["ScaledLearner", str, Tensor], Tensor | float]
"""(learner, layer, basis [m, d]) -> strength of all directions or of each [m], 1 hard and 0 free"""


@dataclass(frozen=True)
class ScaledLearner(GateLearner):
    """A learner whose constraint is as strong, direction by direction, as measured similarity says."""

    strength: Strength = lambda learner, layer, basis: 1.0
    similarity: float = 0.0  # of the new task to the one before, in [0, 1]

    def start(self, layer: str, A: Tensor, basis: Tensor | None) -> NewGate:
        gate = super().start(layer, A, basis)
        if basis is not None:
            gate.constraint = ScaledProjector(basis, strengths=self.strength(self, layer, basis))
        return gate

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Mean tokens of the seeds with a constant 1, `[n, d]`, as each layer of the plain backbone reads them."""
        plain = plain_linear(self.pretrained.backbone)
        inputs: dict[str, Tensor] = {}

        def recording(layer: str, x: Tensor) -> Tensor:
            inputs[layer] = torch.cat([x.mean(1), torch.ones(len(x), 1)], dim=1)
            return plain(layer, x)

        with torch.inference_mode():
            self.pretrained.embed(self.images(range(len(self.task.calibration_images))), linear=recording)
        return inputs

    def overlap(self, layer: str, basis: Tensor) -> Tensor:
        """Return the share of the new task's inputs that lies along each direction, `[m]`."""
        x = self.inputs[layer]
        return ((x @ basis.T).square().sum(0) / x.square().sum()).clamp(0, 1)


STRENGTHS: dict[str, Strength | None] = {
    "1 (hard)": lambda learner, layer, basis: 1.0,
    "0.9": lambda learner, layer, basis: 0.9,
    "0.5": lambda learner, layer, basis: 0.5,
    "0 (none)": lambda learner, layer, basis: 0.0,
    "relaxed as published (gamma 1)": None,
    "1 - similarity of tasks": lambda learner, layer, basis: 1 - learner.similarity,
    "similarity of tasks": lambda learner, layer, basis: learner.similarity,
    "1 - share of the new task's inputs": lambda learner, layer, basis: 1 - learner.overlap(layer, basis),
    "share of the new task's inputs": lambda learner, layer, basis: learner.overlap(layer, basis),
}


def layer_scope(studies: list[Study]) -> Table:
    """Merge two tasks at a time, similar and not, under each strength, and return a table."""
    # (strength, kind, part) -> [model][pair][first task, second task, change of the first]
    figures: dict[tuple[str, str, str], list[list[list[float]]]] = defaultdict(list)
    alike: dict[str, list[float]] = {"similar": [], "dissimilar": []}
    for study in studies:
        similarities = task_similarities(study)
        pairs = siblings(study)
        rotated = [(a, pairs[(i + 1) % len(pairs)][1]) for i, (a, _) in enumerate(pairs)]
        for kind, chosen in (("similar", pairs), ("dissimilar", rotated)):
            for key in [(name, kind, part) for name in STRENGTHS for part in PARTS]:
                figures[key].append([])
            for a, b in chosen:
                alike[kind].append(float(similarities[a, b]))
                for name, strength in STRENGTHS.items():
                    before, after = merge_pair(study, a, b, strength, float(similarities[a, b]))
                    for part in PARTS:
                        states = ((before, a), (after, a), (after, b))
                        own, first, second = (percent_in_layers(study, *of, part) for of in states)
                        figures[name, kind, part][-1].append([first, second, first - own])
                note(f"{study.folder}: {study.tasks[a].name}, {study.tasks[b].name}")
    for kind, values in alike.items():
        print(f"Measured similarity of {kind} pairs: {np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}).")
    tune, test = ({name: _acc(*(figures[name, kind, part] for kind in alike)) for name in STRENGTHS} for part in PARTS)
    print(f"Best on the tune part: {max(tune, key=lambda name: tune[name].mean())}. Deviation over pretraining seeds.\n")
    columns = [f"{kind}: {column}" for kind in alike for column in ("first task", "second task", "BWT")]
    table = Table("strength", "ACC, tune part", "ACC", *columns)
    for name in STRENGTHS:
        means = [value for kind in alike for value in np.mean(figures[name, kind, "test"], axis=(0, 1))]
        table.add(name, spread(tune[name]), spread(test[name]), *(f"{value:.1f}" for value in means))
    return table


def _acc(*kinds: list[list[list[float]]]) -> Floats:
    """Return the ACC of each model, over the pairs of all kinds."""
    mean: Floats = np.mean([np.array(of_kind)[:, :, :2].mean(axis=(1, 2)) for of_kind in kinds], axis=0)
    return mean


def merge_pair(study: Study, first: int, second: int, strength: Strength | None, similarity: float) -> list[LayerState]:
    """Merge two tasks and return the states after either; None: the relaxation of the published code instead of a strength."""
    settings = Settings(scope="layer", rank=study.settings.largest_rank, learning_rate=LEARNING_RATE)
    seeds: dict[int, ImageSet] = {
        n: SeedsInMemory(study.images["seeds"][n].load(study.draw(n, SEEDS_PER_CLASS, 0), study.architecture))
        for n in (first, second)
    }
    if strength is None:
        return merge_layers(study, seeds, replace(settings, relaxation=1.0))
    return merge_layers(study, seeds, settings, partial(ScaledLearner, strength=strength, similarity=similarity))


def task_similarities(study: Study) -> Floats:
    """Return cosine `[T, T]` of the tasks' mean seed features where every feature has unit deviation within tasks, cut at 0."""
    features = [of[:, 0] for of in study.drawn(study.seed_features(VARIATIONS))]
    within = np.concatenate([of - of.mean(0) for of in features]).std(0)
    means = np.stack([of.mean(0) for of in features]) / within
    means -= means.mean(0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray((means @ means.T).clip(0, 1))


if __name__ == "__main__":
    main()
