"""Answers of a program that is not Python, beside those of `EdgeModel`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mingle_edge_runtime import EdgeModel

TOP = 3  # labels


def assert_python_s(
    answers: Sequence[dict[str, Any]], bundle: Path, images: Sequence[Path], least: float, **named: str
) -> None:
    """Fail unless each answer has the label, the route and, up to `least`, the cosine of the embedding that Python gives.

    answers: `label`, `task`, `probability`, `route`, `embedding` of each image.
    named: the task or the head that was asked for.
    """
    assert len(answers) == len(images)
    with EdgeModel.open(bundle, threads=1) as model:
        expected = [model.classify(image, top=TOP, **named)[0] for image in images]
        embeds = np.concatenate([model.embed(image, named.get("task")) for image in images])
    actual = np.array([answer["embedding"] for answer in answers], np.float64)
    cosines = (actual * embeds).sum(1) / (np.linalg.norm(actual, axis=1) * np.linalg.norm(embeds, axis=1))
    assert cosines.min() >= least
    tolerance = 1e-3 if least > 0.9999 else 0.05
    for image, answer, prediction in zip(images, answers, expected, strict=True):
        assert (answer["task"], answer["label"]) == (prediction.task, prediction.label), image
        assert abs(answer["probability"] - prediction.probability) <= tolerance, image
        route = answer["route"]
        assert (route["tasks"], route["stage"]) == (list(prediction.route.tasks), prediction.route.stage), image
        np.testing.assert_allclose(route["weights"], prediction.route.weights, atol=tolerance)
        if prediction.route.posterior is not None:
            np.testing.assert_allclose(route["posterior"], prediction.route.posterior, atol=tolerance)
