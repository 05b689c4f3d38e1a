"""The head of a model card: what the Hugging Face hub reads of it, in YAML.

https://huggingface.co/docs/hub/model-cards has the members. Values are written as JSON, which is YAML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from mingle_edge.card.evaluation import PROTOCOLS, Evaluated
from mingle_edge_runtime.bundle.index import BundleIndex

FILL_IN = "FILL IN"
"""Marks each place that a person must fill in."""
_TASK = "image-classification"


def front_matter(name: str, index: BundleIndex, evaluated: Sequence[Evaluated]) -> str:
    """Return the YAML between its two rules. What only a person can know is a comment, so that nothing is claimed."""
    lines = [
        f"# {FILL_IN} license: of the whole, which those of the backbone and of every fine-tuned model must allow, as in",
        "# license: apache-2.0",
        f"# {FILL_IN} base_model: the hub's names of the backbone and of the fine-tuned models, as in",
        '# base_model: ["openai/clip-vit-base-patch32"]',
        f"# {FILL_IN} datasets: the hub's names of what the models were fine-tuned on, as in",
        '# datasets: ["owner/name"]',
        "library_name: mingle-edge",
        f"pipeline_tag: {_TASK}",
        f"tags: {json.dumps(_tags(index))}",
    ]
    if evaluated:
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:", *_results(evaluated)]
    return "\n".join(["---", *lines, "---"])


def _tags(index: BundleIndex) -> list[str]:
    ways = {"image": ["mixture-of-experts"], "layer": ["mixture-of-experts"], "folded": []}[index.scope]
    return ["onnx", "onnxruntime", "edge", "vision", "model-merging", *ways]


def _results(evaluated: Sequence[Evaluated]) -> Iterator[str]:
    for one in evaluated:
        told = f"{one.images} labeled test images of {one.task}"
        yield f"  - task: {{type: {_TASK}, name: {json.dumps('Image classification')}}}"
        yield f"    dataset: {{type: {json.dumps(one.task)}, name: {json.dumps(told)}}}"
        yield "    metrics:"
        for protocol, meaning in PROTOCOLS.items():
            name = json.dumps(f"Accuracy in percent, {meaning} ({protocol})")
            yield f"    - {{type: accuracy, value: {round(one.accuracy[protocol], 2)}, name: {name}}}"
