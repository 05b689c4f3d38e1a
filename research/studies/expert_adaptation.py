"""What does adapting experts on the seeds give back, in how many bytes, and does it cost elsewhere?

    python -m research.studies.expert_adaptation --suite DIR [--pretraining-seeds 0 1 2] [--tasks 20]

P2 of complete experts on the test images. First, one adaptation at rank 32, cut to every rank and precision, beside
truncation. Then what a user gets of `rank = "auto"` and `keep = 0.3`: the stored expert, and the forms that the export
chooses for `--keep 0.3` and for `--expert-bytes` of a quarter and an eighth of what an expert of rank 32 takes in fp32, beside
truncated experts (`expert_steps = 0`) that are chosen by the same rules. Last, the same images under the seven corruptions of
`compare` (severity 5), where no seed shows one: 100 of each task's test images, the same for all.

A task's figures are kept in `DIR/kept`, so that a study that was interrupted continues. How rate, steps and losses were chosen:
`python -m research.studies.adaptation_choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from mingle_edge.comparison.material import KEPT_BYTES
from mingle_edge.data.calibration_images import task_generator
from mingle_edge.data.corruptions import CORRUPTIONS, Corruption
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.settings import AUTOMATIC, LARGEST_AUTOMATIC_RANK, Settings
from mingle_edge.evaluation.answers import predict_within
from mingle_edge.experts import expert_adaptation, expert_size, left_out_seeds, rounding
from mingle_edge.experts.complete_expert import CompleteExpert
from mingle_edge.experts.expert_adaptation import adapt_expert
from mingle_edge.experts.expert_form import FormPrecision, form_bytes
from mingle_edge.experts.expert_size import PRECISIONS, ranks_up_to, size_expert
from mingle_edge.experts.form_choice import RUN_AS_CODES, best_within, sized_forms, smallest_that_keeps
from mingle_edge.experts.left_out_seeds import LeftOutSeeds, image_loss
from mingle_edge.experts.rounding import rounded_expert
from mingle_edge_runtime.bundle.index import SizedForm
from research.studies.study import BATCH, Study, sources
from research.studies.tables import Table, note, parser, percent

RANK = 32
"""Of the adaptation that is cut, and in fp32 of the expert whose bytes are the measure."""
RANKS = (4, 8, 12, 16, 24, 32)
STEPS, KEEP = 150, 0.3
SHARES = {"a quarter": 4, "an eighth": 8}
"""Of the bytes of an expert of rank 32 in fp32: one in so many."""
SEVERITY, CORRUPTED = 5, 100  # test images of a task
EXPERTS = ("truncated", "adapted")
HELD = "stored, fp32"
KEPT = f"--keep {KEEP}"
BUDGETS = {name: f"--expert-bytes {name}" for name in SHARES}
ESTIMATES = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""Points recorded as lost that forms are counted up to."""

Figures = Mapping[str, Any]
"""What was measured of one task; see `measure` and `curve_of`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args(arguments)
    curve = Table(
        "rank", "in", "bytes, % of rank 32 in fp32", *EXPERTS, "individual less truncated", "less adapted", show=hundredths
    )
    dial = Table(
        *("chosen by", "expert", "rank", "bytes, %", "P2", "points lost", "as recorded", "tasks that no form is within"),
        show=hundredths,
    )
    estimates = Table("recorded as lost, at most", "expert", "forms", "recorded", "lost", show=hundredths)
    rough = Table("", *CORRUPTIONS, "all seven", "as they are", show=hundredths)
    sentences = []
    for seed in given.pretraining_seeds:
        study = Study(given.suite, seed, given.tasks)
        of_tasks = of_each_task(study, measure, sources(*ADAPTATION, expert_size, left_out_seeds, measure, dial_of))
        curves = of_each_task(study, curve_of, sources(*ADAPTATION, curve_of))
        individual = percent([of["individual"] for of in of_tasks])
        add_curve(curve, of_tasks, curves)
        curve.add(("individual", ""), "", individual, individual, 0.0, 0.0)
        add_dial(dial, of_tasks)
        add_estimates(estimates, of_tasks)
        sentences.append(f"Seed {seed}: {correlations(of_tasks)}")
        for name in of_tasks[0]["corrupted"]:
            cells = np.mean([of["corrupted"][name] for of in of_tasks], axis=0)  # [1 + corruptions], the plain images first
            rough.add(name, *(100 * cells[1:]), 100 * cells[1:].mean(), 100 * cells[0])
    print(f"P2 ACC, percent, of {given.tasks} tasks; ± over pretraining seeds. Adapted at rank {RANK}, then cut:\n\n{curve}")
    print(f'\nMerged with rank = "auto", keep = {KEEP}; bytes as a share of rank {RANK} in fp32:\n\n{dial}')
    print(f"\nPoints recorded as lost and points lost, of all ranks and precisions of the stored experts:\n\n{estimates}\n")
    print("\n".join(sentences))
    print(f"\n{CORRUPTED} test images of each task, severity {SEVERITY}:\n\n{rough}")


def of_each_task(study: Study, how: Callable[[Study, int], Figures], code: str) -> list[Figures]:
    """Return what was measured of each task, by this code before or now."""
    figures = []
    for number, task in enumerate(study.tasks):
        figures.append(study.figures(number, partial(how, study, number), code, RANKS, STEPS, KEEP, CORRUPTED))
        note(f"{study.folder}: {task.name}, {how.__name__}")
    return figures


def hundredths(values: Sequence[Any]) -> str:
    """Return the mean and, of more than one value, the deviation, to a hundredth; of texts the last."""
    if isinstance(values[-1], str):
        return values[-1]
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}" if len(values) > 1 else f"{np.mean(values):.2f}"


def measure(study: Study, number: int) -> Figures:
    """Measure one task.

    individual: accuracy of the fine-tuned model, a share. unit: bytes of an expert of rank 32 in fp32. dial: by way, see
    `dial_of`. corrupted: by model, the accuracy on images as they are and under each corruption.
    """
    unit = form_bytes(shapes(study.expert(number, RANK)), RANK, "fp32")
    settings = replace(study.settings, rank=AUTOMATIC, keep=KEEP)
    dials, experts = {}, {}
    for way, steps in zip(EXPERTS, (0, STEPS), strict=True):
        dials[way], experts[way] = dial_of(study, number, replace(settings, expert_steps=steps), unit // SHARES["an eighth"])
    models = {
        "individual": None,
        "truncated, full rank, fp32": study.expert(number),
        f"truncated, rank {RANK}, fp32": study.expert(number, RANK),
        **{f"{way}, an eighth of the bytes": expert for way, expert in experts.items()},
    }
    images = study.images["test"][number]
    some = images.evenly(CORRUPTED)
    few = ImageSet([images.paths[n] for n in some], [images.labels[n] for n in some], kept_bytes=KEPT_BYTES)
    corruptions = [None, *(Corruption(name, SEVERITY) for name in CORRUPTIONS)]
    return {
        "individual": accuracy(study, number, None, images),
        "unit": unit,
        "dial": dials,
        "corrupted": {
            name: [accuracy(study, number, expert, few, corruption) for corruption in corruptions]
            for name, expert in models.items()
        },
    }


def curve_of(study: Study, number: int) -> Figures:
    """Measure accuracy and bytes of every rank and precision, of the truncated expert of rank 32 and of it adapted."""
    task, start = study.tasks[number], study.expert(number, RANK)
    generator = task_generator(study.settings.seed, task.name, "expert")
    left_out = LeftOutSeeds(task, study.pretrained, generator)
    settings = replace(study.settings, expert_steps=STEPS)
    adapted = adapt_expert(start, ranks_up_to(RANK)[::-2], task, study.pretrained, left_out, settings, generator).expert
    curves = {}
    for way, expert in zip(EXPERTS, (start, adapted), strict=True):
        forms: list[tuple[int, FormPrecision]] = [(rank, precision) for rank in RANKS for precision in PRECISIONS]
        curves[way] = [
            {
                "rank": rank,
                "precision": precision,
                "bytes": form_bytes(shapes(expert), rank, precision),
                "accuracy": accuracy(study, number, in_form(study, expert, rank, precision), study.images["test"][number]),
            }
            for rank, precision in forms
        ]
    return curves


def dial_of(study: Study, number: int, settings: Settings, size: int) -> tuple[dict[str, Any], CompleteExpert]:
    """Return what a merge with these settings makes of a task, and the stored expert in the form chosen within `size` bytes.

    rank: of the stored expert. forms: as recorded, with bytes and accuracy; in fp32 that of the stored expert alone.
    """
    truncated = study.expert(number, LARGEST_AUTOMATIC_RANK)
    sized = size_expert(truncated, study.tasks[number], study.pretrained, settings)
    forms = sized_forms(sized.forms, shapes(sized.expert), PRECISIONS)
    forms = [form for form in forms if form.precision in RUN_AS_CODES or form.rank == sized.expert.rank]
    experts = [in_form(study, sized.expert, form.rank, cast(FormPrecision, form.precision)) for form in forms]
    accuracies = [accuracy(study, number, expert, study.images["test"][number]) for expert in experts]
    recorded = [asdict(form) | {"accuracy": share} for form, share in zip(forms, accuracies, strict=True)]
    chosen = best_within([form for form in forms if form.precision in RUN_AS_CODES], size) or forms[0]
    return {"rank": sized.expert.rank, "forms": recorded}, experts[forms.index(chosen)]


def in_form(study: Study, expert: CompleteExpert, rank: int, precision: FormPrecision) -> CompleteExpert:
    """Return the first directions of an expert as a device computes them."""
    return rounded_expert(expert.first(rank), study.pretrained.backbone, precision)


def shapes(expert: CompleteExpert) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that a merged model stores of an expert."""
    sides = {f"{layer}.{side}": of for layer, (B, A) in expert.factors.items() for side, of in (("A", A), ("B", B))}
    return {name: tuple(array.shape) for name, array in (sides | dict(expert.unfactored)).items()}


@torch.inference_mode()
def accuracy(
    study: Study, number: int, expert: CompleteExpert | None, images: ImageSet, corruption: Corruption | None = None
) -> float:
    """Return the share of a task's images that an expert labels right; None: its fine-tuned model."""
    pretrained, task, parameters = study.pretrained, study.tasks[number], study.tasks[number].finetuned
    if expert is not None:  # multiplied out, which is faster for many images, and the same to float rounding
        moved = {f"{layer}.weight": B @ A for layer, (B, A) in expert.factors.items()}
        backbone = pretrained.backbone
        parameters = {**backbone, **expert.unfactored, **{name: backbone[name] + update for name, update in moved.items()}}
    right = 0
    for numbers, batch in images.batches(study.architecture, corruption=corruption, size=BATCH):
        labels = predict_within(pretrained.embed(batch, parameters), task.head)
        right += int((labels == torch.tensor([images.labels[n] for n in numbers])).sum())
    return right / len(images)


ADAPTATION = (expert_adaptation, rounding, image_loss, LeftOutSeeds.__init__, LeftOutSeeds.mean_loss, in_form, accuracy)
"""What adapted experts and their accuracy depend on."""


def add_curve(table: Table, of_tasks: Sequence[Figures], curves: Sequence[Figures]) -> None:
    """Add a row of each rank and precision, in the mean over tasks."""
    individual = percent([of["individual"] for of in of_tasks])
    for place, form in enumerate(curves[0]["adapted"]):
        size = percent([curve["adapted"][place]["bytes"] / of["unit"] for curve, of in zip(curves, of_tasks, strict=True)])
        both = [percent([curve[way][place]["accuracy"] for curve in curves]) for way in EXPERTS]
        table.add((f"{form['rank']}", form["precision"]), f"{size:.1f}", *both, *(individual - cell for cell in both))


def add_dial(table: Table, of_tasks: Sequence[Figures]) -> None:
    """Add a row of each rule that a form is chosen by and each way, in the mean over tasks."""
    for rule in (HELD, KEPT, *BUDGETS.values()):
        for way in EXPERTS:
            rows, without = [], 0
            for of in of_tasks:
                form, within = choose(of["dial"][way], rule, of["unit"])
                without += not within
                lost = of["individual"] - form["accuracy"]
                rows.append(
                    [
                        form["rank"],
                        *(100 * x for x in (form["bytes"] / of["unit"], form["accuracy"], lost)),
                        form["points_lost"],
                    ]
                )
            table.add((rule, way), *np.mean(rows, axis=0), without)


def choose(dial: Mapping[str, Any], rule: str, unit: int) -> tuple[dict[str, Any], bool]:
    """Return the form that a rule chooses, and whether it is within; where none is, the export names that which is nearest."""
    if rule == HELD:
        stored = [form for form in dial["forms"] if (form["rank"], form["precision"]) == (dial["rank"], "fp32")]
        return stored[0], True
    forms = [form for form in dial["forms"] if form["precision"] in RUN_AS_CODES]
    sized = [SizedForm(**{name: value for name, value in form.items() if name != "accuracy"}) for form in forms]
    if rule == KEPT:
        chosen, nearest = smallest_that_keeps(sized, KEEP), min(sized, key=lambda form: (form.points_lost, form.bytes))
    else:
        share = next(SHARES[name] for name, of in BUDGETS.items() if of == rule)
        chosen, nearest = best_within(sized, unit // share), min(sized, key=lambda form: form.bytes)
    return forms[sized.index(chosen or nearest)], chosen is not None


def lost_of(of_tasks: Sequence[Figures], way: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return points recorded as lost and lost, of each form of each task `[forms, 2]`."""
    return np.array(
        [
            (form["points_lost"], 100 * (of["individual"] - form["accuracy"]))
            for of in of_tasks
            for form in of["dial"][way]["forms"]
        ]
    )


def add_estimates(table: Table, of_tasks: Sequence[Figures]) -> None:
    """Add a row of each range of points recorded as lost."""
    for least, most in zip((-1.0, *ESTIMATES), ESTIMATES, strict=False):
        for way in EXPERTS:
            lost = lost_of(of_tasks, way)
            within = lost[(lost[:, 0] > least) & (lost[:, 0] <= most)]
            table.add((f"{most:g}", way), len(within), *(within.mean(0) if len(within) else (0.0, 0.0)))


def correlations(of_tasks: Sequence[Figures]) -> str:
    """Say how what is recorded goes with what is lost, over all forms of all tasks."""
    parts = []
    for way in EXPERTS:
        recorded, lost = lost_of(of_tasks, way).T
        together = np.corrcoef(recorded, lost)[0, 1] if np.ptp(recorded) and np.ptp(lost) else np.nan
        parts.append(f"{way}, {recorded.mean():.2f} recorded and {lost.mean():.2f} lost, correlation {together:.2f}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
