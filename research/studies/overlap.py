"""What happens when tasks overlap: the suite's pairs of similar tasks beside pairs of the same tasks that are not similar.

    python -m research.studies.overlap --suite DIR [--pretraining-seeds 0 1 2] [--scope image | layer]

`image`: where the router sends the images of a task that has a sibling, and what its sibling's expert makes of them.
`layer`: every pair is merged by itself, first the one, then the other. The first tasks of all pairs and the second ones are
the same in both kinds of pairs, only their partners change. And the null space is held more or less tightly: uniformly, by
how similar the tasks are, or by how much of the new task's inputs each protected direction carries. Which strength is best
is decided on the tune part; figures are of the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.data.settings import Settings
from mingle_edge.gates.adaptation import NewGate
from mingle_edge.gates.gate_training import GateLearner, InputRecorder
from mingle_edge.gates.gating import GatedLinear
from mingle_edge.gates.null_space import NullSpaceProjector
from research.studies.layer_merging import Layers, merge_layers, right_in_layers
from research.studies.seeds import LEARNING_RATE
from research.studies.study import (
    PARTS,
    Bools,
    Floats,
    PoolSeeds,
    Route,
    Study,
    answering,
    markdown,
    note,
    p1,
    p2,
    parser,
    route,
    spread,
)
from research.suite.tasks import SIMILAR

SEEDS_PER_CLASS = 5
VARIATIONS = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--scope", choices=("image", "layer"), default="image")
    given = options.parse_args(arguments)
    studies = [Study(given.suite, seed, given.tasks) for seed in given.pretraining_seeds]
    (image_scope if given.scope == "image" else layer_scope)(studies)


def siblings(study: Study) -> list[tuple[int, int]]:
    """Return the pairs of similar tasks among those of the study, by number, the one that is merged first in front."""
    names = [task.name for task in study.tasks]
    return [(names.index(a), names.index(b)) for a, b in SIMILAR if a in names and b in names]


def image_scope(studies: list[Study]) -> None:
    """Print routing and accuracy of each task with a sibling, mean over pretraining seeds."""
    rows: dict[str, list[list[float]]] = {}
    for study in studies:
        pool = study.seed_features(VARIATIONS)
        chosen = [study.draw(task, SEEDS_PER_CLASS, draw=0) for task in range(len(study.tasks))]
        router = study.router([of[n] for of, n in zip(pool, chosen, strict=True)])
        routes = route(router, study.features("test"))
        correct = study.correct("test", study.settings.rank)
        pairs = siblings(study)
        partner = dict(pairs) | {b: a for a, b in pairs}
        for task, sibling in sorted(partner.items()):
            name = f"{study.tasks[task].name} ({study.tasks[sibling].name})"
            rows.setdefault(name, []).append(_of_task(task, sibling, correct, routes))
        alone = [task for task in range(len(study.tasks)) if task not in partner]
        rest = [_of_task(task, None, correct, routes) for task in alone]
        rows.setdefault("tasks without a sibling, mean", []).append([float(x) for x in np.mean(rest, axis=0)])
        note(f"{study.folder}: P1 {p1(correct, routes):.1f}, P2 {p2(correct):.1f}")
    header = ["task (sibling)", "to its own", "to the sibling", "to another task, mean", "to the backbone"]
    header += ["own expert (P2)", "sibling's expert", "others' experts", "backbone", "P1"]
    paired = np.array([values for name, values in rows.items() if "(" in name])  # [tasks, seeds, columns]
    print("Images of a task by where they are routed, then its accuracy by what answers; percent, test part.\n")
    body = [[name, *_cells(np.mean(values, axis=0))] for name, values in rows.items()]
    print(markdown(header, [*body, ["tasks with a sibling, mean", *_cells(paired.mean(axis=(0, 1)))]]))


def _of_task(task: int, sibling: int | None, correct: Sequence[Bools], routes: Sequence[Route]) -> list[float]:
    right, to = correct[task], answering(routes[task])
    others = [t for t in range(right.shape[1] - 1) if t not in (task, sibling)]
    shares = [np.mean(to == task), np.nan if sibling is None else np.mean(to == sibling)]
    shares += [np.mean(np.isin(to, others)) / len(others), np.mean(to < 0)]
    accuracies = [right[:, task].mean(), np.nan if sibling is None else right[:, sibling].mean(), right[:, others].mean()]
    return [100 * float(x) for x in [*shares, *accuracies, right[:, -1].mean(), right[np.arange(len(to)), to].mean()]]


def _cells(values: Floats) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.1f}" for value in values]


@dataclass
class ScaledProjector(NullSpaceProjector):
    """Removes of a vector's part along each basis direction the share that `strengths` [m] says."""

    strengths: Tensor = field(default_factory=lambda: torch.ones(0))

    def project(self, vectors: Tensor) -> Tensor:
        """Return the constrained vectors, `[rows, d]` as given."""
        return vectors - (vectors @ self.basis.T * self.strengths) @ self.basis


Strength = Callable[["ScaledLearner", str, Tensor], Tensor]
"""(learner, layer, basis [m, d]) -> strength of each direction [m], 1 hard and 0 free"""


@dataclass(frozen=True)
class ScaledLearner(GateLearner):
    """A learner whose constraint is as strong, direction by direction, as measured similarity says."""

    strength: Strength = lambda learner, layer, basis: torch.ones(len(basis))
    similarity: float = 0.0  # of the new task to the one before, in [0, 1]
    inputs: dict[str, Tensor] = field(default_factory=dict)  # layer -> mean tokens of the seeds with a constant 1, [n, d]

    def start(self, layer: str, A: Tensor, basis: Tensor | None) -> NewGate:
        gate = super().start(layer, A, basis)
        if basis is not None:
            if not self.inputs:
                self._record()
            gate.constraint = ScaledProjector(basis, strengths=self.strength(self, layer, basis))
        return gate

    @torch.inference_mode()
    def _record(self) -> None:
        """Record what the plain backbone's layers read of the seeds."""
        architecture, backbone = self.pretrained.architecture, self.pretrained.backbone
        layers = frozenset(architecture.block_linears())
        recorder = InputRecorder(GatedLinear(backbone, {}), layers, every_token=False)
        embed_images(self.images(range(len(self.task.calibration_images))), backbone, architecture, recorder)
        self.inputs.update({layer: torch.cat(rows) for layer, rows in recorder._rows.items()})

    def overlap(self, layer: str, basis: Tensor) -> Tensor:
        """Return the share of the new task's inputs that lies along each direction, `[m]`."""
        x = self.inputs[layer]
        return ((x @ basis.T).square().sum(0) / x.square().sum()).clamp(0, 1)


def uniform(value: float) -> Strength:
    """Return the same strength everywhere."""
    return lambda learner, layer, basis: torch.full((len(basis),), value)


STRENGTHS: dict[str, Strength | None] = {
    "1 (hard)": uniform(1.0),
    "0.9": uniform(0.9),
    "0.5": uniform(0.5),
    "0 (none)": uniform(0.0),
    "relaxed as published (gamma 1)": None,
    "1 - similarity of tasks": lambda learner, layer, basis: torch.full((len(basis),), 1 - learner.similarity),
    "similarity of tasks": lambda learner, layer, basis: torch.full((len(basis),), learner.similarity),
    "1 - share of the new task's inputs": lambda learner, layer, basis: 1 - learner.overlap(layer, basis),
    "share of the new task's inputs": lambda learner, layer, basis: learner.overlap(layer, basis),
}


def layer_scope(studies: list[Study]) -> None:
    """Merge two tasks at a time, similar and not, under each strength, and print a table."""
    # (strength, kind, part) -> [model][pair][first task, second task, change of the first]
    found: dict[tuple[str, str, str], list[list[list[float]]]] = {}
    alike: dict[str, list[float]] = {"similar": [], "dissimilar": []}
    for study in studies:
        similarities = task_similarities(study)
        pairs = siblings(study)
        rotated = [(a, pairs[(i + 1) % len(pairs)][1]) for i, (a, _) in enumerate(pairs)]
        for kind, chosen in (("similar", pairs), ("dissimilar", rotated)):
            for key in [(name, kind, part) for name in STRENGTHS for part in PARTS]:
                found.setdefault(key, []).append([])
            for a, b in chosen:
                alike[kind].append(float(similarities[a, b]))
                for name, strength in STRENGTHS.items():
                    before, after = merge_pair(study, a, b, strength, float(similarities[a, b]))
                    for part in PARTS:
                        own, first, second = (_percent(study, *of, part) for of in ((before, a), (after, a), (after, b)))
                        found[name, kind, part][-1].append([first, second, first - own])
                note(f"{study.folder}: {study.tasks[a].name}, {study.tasks[b].name}")
    for kind, values in alike.items():
        print(f"Measured similarity of {kind} pairs: {np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f}).")
    tune = {name: _acc(*(found[name, kind, "tune"] for kind in alike)) for name in STRENGTHS}
    print(f"Best on the tune part: {max(tune, key=lambda name: tune[name].mean())}. Deviation over pretraining seeds.\n")
    rows = []
    for name in STRENGTHS:
        row = [name, spread(tune[name]), spread(_acc(*(found[name, kind, "test"] for kind in alike)))]
        for kind in alike:
            row += [f"{value:.1f}" for value in np.mean(found[name, kind, "test"], axis=(0, 1))]
        rows.append(row)
    columns = [f"{kind}: {column}" for kind in alike for column in ("first task", "second task", "BWT")]
    print(markdown(["strength", "ACC, tune part", "ACC", *columns], rows))


def _acc(*kinds: list[list[list[float]]]) -> Floats:
    """Return the ACC of each model, over the pairs of all kinds."""
    mean: Floats = np.mean([np.array(of_kind)[:, :, :2].mean(axis=(1, 2)) for of_kind in kinds], axis=0)
    return mean


def merge_pair(study: Study, first: int, second: int, strength: Strength | None, similarity: float) -> list[Layers]:
    """Merge two tasks and return the states after either; None: the relaxation of the published code instead of a strength."""
    settings = Settings(scope="layer", rank=study.settings.rank, learning_rate=LEARNING_RATE)
    pair = (first, second)
    seeds = [PoolSeeds(study.images(n, "seeds")[study.draw(n, SEEDS_PER_CLASS, 0)]) for n in pair]
    if strength is None:
        return merge_layers(study, pair, seeds, replace(settings, relaxation=1.0))

    return merge_layers(study, pair, seeds, settings, partial(ScaledLearner, strength=strength, similarity=similarity))


def task_similarities(study: Study) -> Floats:
    """Return cosine `[T, T]` of the tasks' mean seed features where every feature has unit deviation within tasks, cut at 0."""
    features = [of[study.draw(n, SEEDS_PER_CLASS, 0), 0] for n, of in enumerate(study.seed_features(VARIATIONS))]
    within = np.concatenate([of - of.mean(0) for of in features]).std(0)
    means = np.stack([of.mean(0) for of in features]) / within
    means -= means.mean(0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray((means @ means.T).clip(0, 1))


def _percent(study: Study, layers: Layers, task: int, part: str) -> float:
    return 100 * float(right_in_layers(study, layers, task, part).mean())


if __name__ == "__main__":
    main()
