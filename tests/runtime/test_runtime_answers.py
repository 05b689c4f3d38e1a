"""What a prediction and a route say of themselves, against the bundle's own figures and readers of JSON and HTML."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_bundle import KINDS, TASKS, Weights, images

from mingle_edge_runtime import EdgeError, EdgeModel, LayerRoute, Prediction, Route

COLORS = (0, 2, 3, 1, 3)  # 3, black, belongs to no task
IMAGES = images(*COLORS, seed=1)


class Cells(HTMLParser):
    """The texts of a page and its tags, as a browser understands them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def only_json(value: object) -> bool:
    """Whether a value is of the types that JSON has, exactly."""
    if type(value) is dict:
        return all(type(key) is str and only_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(only_json, value))
    return value is None or type(value) in (str, float, bool)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_the_most_probable_label(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        embeds = model.embed(IMAGES, task="green")
        for prediction, embed in zip(model.classify(IMAGES, task="green", top=2), embeds, strict=True):
            probabilities = Weights().labels(embed[None])[0, 4:8]  # in numpy, of the four labels of the second task
            best = int(probabilities.argmax())
            assert (prediction.label, prediction.task) == (f"green {best}", "green")
            assert prediction.probability == pytest.approx(probabilities[best] / probabilities.sum(), rel=1e-4)
            assert not prediction.rejected


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_is_what_json_holds(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        for prediction in model.classify(IMAGES) + model.classify(IMAGES, task="red", reject_below=1):
            record = prediction.to_dict()
            assert only_json(record)
            assert json.loads(json.dumps(record, allow_nan=False)) == record
            for name in ("label", "task", "probability", "rejected"):
                assert record[name] == getattr(prediction, name)
            for name in ("labels", "tasks", "probabilities"):
                assert tuple(record[name]) == getattr(prediction, name)
            route = prediction.route
            assert (record["route"]["tasks"], record["route"]["weights"]) == (list(route.tasks), list(route.weights))
            assert record["route"]["posterior"] == (route.posterior and dict(zip(TASKS, route.posterior, strict=True)))
            assert [part["layer"] for part in record["route"]["layers"]] == [part.layer for part in route.layers]


def test_numbers_that_json_lacks_become_none() -> None:
    layers = (LayerRoute("blocks.0.q", ("a",), (float("inf"),)),)
    route = Route((), (), (1.0,), float("nan"), layers, ("a",), -float("inf"))
    record = json.loads(json.dumps(route.to_dict(), allow_nan=False))
    assert (record["confidence"], record["confidence_bound"], record["layers"][0]["weights"]) == (None, None, [None])
    assert record["claimed"] is False


def test_a_route_says_by_which_bound_it_was_claimed(bundles) -> None:
    with EdgeModel.open(bundles["image", 1]) as model:
        bound = model.bundle.index.router.stages[0].confidence_bound
        for route, color in zip(model.route(IMAGES), COLORS, strict=True):
            assert route.confidence_bound == np.float32(bound)
            assert route.claimed == bool(route.tasks) == (color != 3) == (route.confidence >= bound)
            posterior = route.posterior_by_task()
            assert list(posterior) == list(TASKS)
            assert list(posterior.values()) == list(route.posterior)
            if color != 3:
                assert max(posterior, key=posterior.get) == TASKS[color]
        named = model.classify(IMAGES, task="red")[0].route
    with EdgeModel.open(bundles["layer", 1]) as model:
        for route in (named, *model.route(IMAGES)):
            assert (route.posterior_by_task(), route.claimed, route.confidence_bound) == (None, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_probability_asked_for_an_image_is_rejected_and_nothing_else_changes(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], threads=1) as model:
        usual = [model.classify(image)[0] for image in IMAGES]
        ranked = sorted(prediction.probabilities[0] for prediction in usual)
        stream = model.stream()
        for bound in (0, 0.0, ranked[0], ranked[2], float(np.nextafter(ranked[2], 2)), np.float64(ranked[-1]), 1):
            for image, before in zip(IMAGES, usual, strict=True):
                after = model.classify(image, reject_below=bound)[0]
                assert after.rejected is bool(max(before.probabilities) < bound)
                assert (after.labels, after.tasks, after.probabilities) == (before.labels, before.tasks, before.probabilities)
                assert (after.route, after.probability) == (before.route, before.probability)
                answer = (None, None) if after.rejected else (before.labels[0], before.tasks[0])
                assert (after.label, after.task) == answer
                assert model.submit(image, reject_below=bound).result(20) == [after]
                assert stream.classify(image, reject_below=bound) == after
        assert not any(prediction.rejected for prediction in model.classify(IMAGES, reject_below=ranked[0] * 0.999))
        assert all(prediction.rejected for prediction in model.classify(IMAGES, head="red", top=1, reject_below=1))


@pytest.mark.parametrize("bound", [-0.1, 1.1, float("nan"), "0.5", True, [0.5]])
def test_what_is_no_probability_rejects_nothing_but_the_call(image_bundle, bound) -> None:
    with EdgeModel.open(image_bundle) as model:
        for call in (model.classify, model.submit, lambda image, **options: model.stream().classify(image[0], **options)):
            with pytest.raises(EdgeError, match=r"reject_below is .*, must be a probability, from 0 to 1"):
                call(IMAGES, reject_below=bound)


HOSTILE = Prediction(
    ("<script>alert(1)</script>", 'a & "b"'), ("<b>", "x\n\x1b[2J"), (0.75, 0.25), Route(("<i>&amp;", "b"), (0.5, 0.5))
)


def test_a_notebook_shows_every_text_as_it_is() -> None:
    cells = Cells(HOSTILE._repr_html_())
    assert cells.tags == {"table", "caption", "tbody", "tr", "td"}
    assert cells.texts == [
        *("experts: <i>&amp; 0.50, b 0.50", "<script>alert(1)</script>", "<b>", "75.0%"),
        *('a & "b"', "x\n\x1b[2J", "25.0%"),
    ]


def test_a_prediction_is_a_line_that_a_terminal_can_show() -> None:
    assert repr(HOSTILE).isprintable()
    prediction = Prediction(("oak", "elm"), ("trees", "trees"), (0.75, 0.25), Route(("trees",), (1.0,)))
    assert repr(prediction) == "Prediction('oak' of 'trees', probability 0.750, 1 more, experts: trees 1.00)"
    rejected = Prediction(("oak",), ("trees",), (0.25,), Route((), ()), rejected=True)
    assert repr(rejected) == "Prediction(rejected: 'oak' of 'trees', probability 0.250, experts: none, plain backbone)"
    assert Cells(rejected._repr_html_()).texts[0] == "rejected, experts: none, plain backbone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_what_it_serves_and_how(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind], expert_budget="1MB") as model:
        said = repr(model)
        expected = {
            "bundle": str(model.bundle.root),
            "scope": kind[0],
            "tasks": "red, green, blue",
            "precision": "fp32, experts fp32",
            "expert budget": "1000000 bytes",
            "provider": "CPUExecutionProvider",
        }
        assert said == f"EdgeModel({', '.join(f'{name}: {value}' for name, value in expected.items())})"
        texts = Cells(model._repr_html_()).texts
        assert texts == ["EdgeModel", *(text for row in expected.items() for text in row)]
    assert repr(model) == said.replace("1000000 bytes", "closed")
