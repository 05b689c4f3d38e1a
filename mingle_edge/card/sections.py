"""The sections of a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape

from mingle_edge.card.evaluation import PROTOCOLS, Evaluated
from mingle_edge.card.front_matter import FILL_IN
from mingle_edge.card.markdown import plain, table
from mingle_edge.core.wording import count, digits, megabytes, percentage
from mingle_edge_runtime.bundle.index import BundleIndex
from mingle_edge_runtime.profile.report import Latency, ProfileReport

_ROUTES = {
    "image": "It looks at each image, chooses the expert of one task for it, or the backbone alone where that is expected to "
    "lose less, and answers with a label. An application that knows the task names it instead.",
    "layer": "In every layer of the network, gates choose experts for each image.",
    "folded": "The task is merged into the weights, so that nothing has to be chosen.",
}
_KINDS = {"named": "one image, the task told", "routed": "one image, the task found", "dense": "the tower without experts"}
_ONLY_YOU = {
    "License of the whole": "it must satisfy every license below",
    "License of the backbone": "and where it comes from",
    "License of each fine-tuned model": "and of the data that it was fine-tuned on",
    "Who made it, and whom to write to": "",
    "What it is for": "the use that you checked it for",
    "What was checked beyond this card": "other light, cameras and places; groups of people, where people are in the pictures",
}
_INPUT = {
    "shortest_edge": "resized to {side} pixels at the shorter side and cropped to {size} in the middle",
    "longest_edge": "resized to {side} pixels at the longer side and padded to {size}",
    "squash": "resized to {side} x {side} pixels whatever their shape",
}


def title(name: str, index: BundleIndex) -> str:
    """Return what it is, in a paragraph."""
    labels = sum(len(task.labels) for task in index.tasks)
    what = f"one vision tower, {count(len(index.tasks), 'task')} that it was fine-tuned for, {count(labels, 'label')} in all"
    return f"# {plain(name)}\n\nA *bundle* of mingle-edge, for ONNX Runtime on a device: {what}. {_ROUTES[index.scope]}"


def to_fill_in() -> str:
    """Return what only a person can say."""
    lines = [f"- **{what}**{f' ({more})' if more else ''}: {FILL_IN}" for what, more in _ONLY_YOU.items()]
    return "\n".join(["## Before you publish this", "Nobody but you can know these, and nothing was guessed.", "", *lines])


def use(name: str, index: BundleIndex) -> str:
    """Return how to load it, and what that needs."""
    spec = index.preprocess
    resized = _INPUT[spec.resize].format(side=spec.side, size=spec.image_size)
    return f"""## Use
```python
from mingle_edge_runtime import EdgeModel

with EdgeModel.open({json.dumps(name)}) as model:
    for prediction in model.classify(["photo.jpg"]):
        print(prediction.label, prediction.probability, prediction.task)
```

It needs ONNX Runtime {index.minimum_onnxruntime} or newer, numpy and Pillow, and `mingle_edge_runtime`, which is part of
mingle-edge; no PyTorch. Images of 8 bits a channel are {resized}; the runtime does that.

Run `mingle-edge verify` once on each device: it compares every file with its hash, and what the device computes with what
it must compute."""


def tasks(index: BundleIndex) -> str:
    """Return the tasks with their labels."""
    rows = [
        (plain(task.name), str(len(task.labels)), str(task.rank), f"{megabytes(task.expert_bytes)} MB") for task in index.tasks
    ]
    labels = "\n\n".join(
        f"<details>\n<summary>{escape(task.name, quote=False)}: {count(len(task.labels), 'label')}</summary>\n\n"
        f"{', '.join(map(plain, task.labels))}\n\n</details>"
        for task in index.tasks
    )
    return f"## Tasks and labels\n{table(('task', 'labels', 'rank of its expert', 'expert'), rows)}\n\n{labels}"


def accuracy(index: BundleIndex, evaluated: Sequence[Evaluated]) -> str:
    """Return what was measured on labeled images, and how close the bundle is to what that was measured with."""
    lines = ["## Accuracy"]
    if evaluated:
        lines += [
            _accuracies(evaluated),
            "",
            "In percent of labeled test images, by `mingle-edge evaluate` on the merged model in PyTorch from which this "
            "bundle was exported. *Labels told*: the application says whose labels compete, and the expert is chosen. *Task "
            "told*: it says whose expert to use, too. *Nothing told*: the labels of all tasks compete.",
        ]
    else:
        lines.append(
            f"{FILL_IN}: no labeled test images were given. `mingle-edge evaluate MERGED TASKS.toml --json FILE` measures it, "
            "`mingle-edge card --evaluation FILE` writes it here."
        )
    known = index.fidelity
    if known.cosine is None:
        lines += ["", "How close this bundle is to its model in PyTorch was not measured when it was exported."]
    else:
        agreed = f", and {known.route_agreement:.1%} of the routes are the same" if known.route_agreement is not None else ""
        cosine = f"have a cosine of at least {known.cosine:.5f} with those of its model in PyTorch"
        lines += ["", f"On the images of the export, this bundle's embeddings {cosine}{agreed}."]
    return "\n".join(lines)


def cost(index: BundleIndex, report: ProfileReport | None) -> str:
    """Return its size and precision, and what it took on a device."""
    total, experts = sum(file.size for file in index.files.values()), sum(task.expert_bytes for task in index.tasks)
    shape = index.architecture
    lines = [
        "## Size and speed",
        f"{megabytes(total)} MB in {count(len(index.files), 'file')}, of it experts {megabytes(experts)} MB. Weights of the "
        f"backbone are {index.precision}, those of experts {index.expert_precision}. The tower has {shape.layers} blocks of "
        f"width {shape.width}, patches of {shape.patch_size} pixels, and images of {shape.image_size}.",
        "",
    ]
    if report is None:
        lines.append(
            "`mingle-edge profile BUNDLE --json FILE` measures latency and memory on a device, `mingle-edge card --profile "
            "FILE` writes them here."
        )
    else:
        lines += _measured(report)
    return "\n".join(lines)


def limits(index: BundleIndex, evaluated: Sequence[Evaluated]) -> str:
    """Return what it cannot do, and what it is not for."""
    return "\n".join(["## Limits, and what it is not for", *(f"- {line}" for line in _limits(index, evaluated))])


def sources(index: BundleIndex, digest: str) -> str:
    """Return where the weights came from, by their hashes."""
    rows = [("backbone", f"`{index.source.backbone_sha256}`")]
    for task in index.tasks:
        known = index.source.tasks.get(task.name)
        rows.append((plain(task.name), f"`{known}`" if known else "not recorded"))
    made = ", ".join(f"{plain(name)} {plain(version)}" for name, version in index.producer.items())
    return (
        f"## Where the weights came from\n{table(('part', 'sha256 of its checkpoint'), rows, '---')}\n\n"
        f"Written by {made}, in format {index.format_version}. The sha256 of `bundle.json`, which holds that of every other "
        f"file, is `{digest}`."
    )


def _accuracies(evaluated: Sequence[Evaluated]) -> str:
    routed = any(one.own_route is not None for one in evaluated)
    head = ["task", "test images", *(f"{meaning} ({protocol})" for protocol, meaning in PROTOCOLS.items())]
    rows = [[plain(one.task), str(one.images), *(percentage(one.accuracy[p]) for p in PROTOCOLS)] for one in evaluated]
    means = [percentage(sum(one.accuracy[p] for one in evaluated) / len(evaluated)) for p in PROTOCOLS]
    rows.append(["mean of the tasks", "", *means])
    if routed:
        head.append("routed to it")
        for row, share in zip(rows, [*(percentage(one.own_route) for one in evaluated), ""], strict=True):
            row.append(share)
    return table(head, rows)


def _measured(report: ProfileReport) -> Iterator[str]:
    machine, threads = report.machine, report.settings.threads
    if report.latency:
        rows = [(_KINDS.get(kind, plain(kind)), *_percentiles(times)) for kind, times in report.latency.items()]
        yield table(("milliseconds", "median", "90%", "99%"), rows)
        yield ""
    where = [plain(machine.cpu or machine.architecture), count(machine.usable_cores or 0, "core")]
    where += [
        f"ONNX Runtime {plain(machine.onnxruntime)}",
        count(threads, "thread") if threads else "its own choice of threads",
    ]
    yield f"On {', '.join(where)}; without decoding and resizing."
    if taken := report.residence.get("bundle"):
        yield f"Ready for all tasks, it takes {megabytes(taken.memory.resident)} MB of memory."
    if report.busy:
        yield f"\n**Beware: {plain(report.busy)}.**"
    if not report.complete:
        yield "\n**Beware: the profile was interrupted.**"


def _percentiles(times: Latency) -> list[str]:
    return [digits(1e3 * seconds) for seconds in (times.p50, times.p90, times.p99)]


def _limits(index: BundleIndex, evaluated: Sequence[Evaluated]) -> Iterator[str]:
    yield (
        "It knows the labels above and no others. Every image gets one of them, also one that shows none of them, unless the "
        "application rejects what is improbable (`reject_below`). Nothing calibrates the probabilities of labels: choose that "
        "bound on labeled images of your own."
    )
    if index.scope == "image":
        seen = [one.own_route for one in evaluated if one.own_route is not None]
        right = f" Of each task's test images, at least {min(seen):.1f}% were routed to it." if seen else ""
        yield (
            "The router sees how an image looks, not what it is asked, and mistakes tasks whose images look alike for each "
            f"other.{right} Name the task where you know it."
        )
        yield (
            "Another light, noise, camera or source than in the few images that the router was made from can send images "
            "astray, and an image of no task may be claimed by one."
        )
        judged = ", and for the last few of them two experts" if index.router is not None and index.router.judge else ""
        yield f"Images that the router is in doubt of take longer: the backbone runs for them once more{judged}."
    if index.precision != "fp32" or index.expert_precision != "fp32":
        yield "Its weights have fewer bits than those of the merged model, so that single answers differ."
    yield "It classifies whole images: it finds no objects in them and reads no text. It has no text tower."
    yield (
        "What the backbone and the fine-tuned models learned wrongly, about people above all, it has kept. This card measures "
        "none of that."
    )
    yield (
        "It is not for decisions about people (who somebody is, what somebody may do or get), nor for any other in which a "
        "wrong label can harm somebody and nobody looks at it first."
    )
