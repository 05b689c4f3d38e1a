"""Evaluation against a loop over single images, and histories against models merged no further."""

import numpy as np
import pytest
import torch
from tiny_clip import first_tasks

from mingle_edge.clip.head import Head
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.core.errors import OptionError
from mingle_edge.data.images import load_images
from mingle_edge.evaluation.answers import Answers, measure, predict_among, predict_within
from mingle_edge.evaluation.evaluate import evaluate, read_test_images
from mingle_edge.evaluation.metrics import average_accuracy, backward_transfer
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_tower import GatedTower
from mingle_edge.routing.calibration import calibration_error


def test_accuracies_of_the_image_scope_equal_a_loop_over_single_images(image_model, task_file):
    report = evaluate(image_model.path, task_file, device="cpu")
    tower = GatedTower(image_model)
    heads = [torch.from_numpy(image_model.head(name).weight) for name in image_model.task_names]
    for t, (name, tests) in enumerate(read_test_images(image_model, task_file).items()):
        correct = dict.fromkeys(PROTOCOLS, 0)
        for path, label in zip(tests.paths, tests.labels, strict=True):
            image = load_images([path], image_model.architecture)
            decided = tower.route(image)
            claimed, posterior = bool(decided.choice[0] < 3), torch.from_numpy(decided.posterior)
            routed = tower.embed(image, image_model.task_names[int(decided.choice[0])] if claimed else None)[0]
            correct["P1"] += int((heads[t] @ routed).argmax()) == label
            correct["P2"] += int((heads[t] @ tower.embed(image, name)[0]).argmax()) == label
            if claimed:
                shares = [p * (100 * head @ routed).softmax(0) for p, head in zip(posterior[0].float(), heads, strict=True)]
            else:
                shares = torch.cat([100 * head @ routed for head in heads]).softmax(0).split([len(h) for h in heads])
            correct["P3"] += [(i, c) for i, s in enumerate(shares) for c in range(len(s))][
                int(torch.cat(list(shares)).argmax())
            ] == (t, label)
        for protocol in PROTOCOLS:
            assert report.final[protocol][t] == pytest.approx(100 * correct[protocol] / len(tests.paths)), (t, protocol)


def test_accuracy_right_after_a_merge_is_that_of_the_model_merged_so_far(merge_of_each_scope, tmp_path):
    whole, file = merge_of_each_scope
    history = evaluate(whole.path, file, top_k=1, device="cpu")
    for count in (1, 2):
        earlier = merge(first_tasks(file, count), tmp_path / str(count))
        then = evaluate(earlier.path, file, top_k=1, device="cpu")
        for protocol in PROTOCOLS:
            assert history.after_own[protocol][count - 1] == pytest.approx(then.final[protocol][-1])
    assert history.bwt("P2") == 0 or whole.scope == "layer"


def test_top_k_of_the_image_scope_mixes_experts(image_model, task_file):
    """Every image under all three experts by its posteriors, against mixtures written out weight by weight."""
    mixed = evaluate(image_model.path, task_file, top_k=3, device="cpu")
    names, tower = image_model.task_names, GatedTower(image_model)
    experts = [{n: torch.from_numpy(a) for n, a in image_model.expert(name).items()} for name in names]
    for t, (name, tests) in enumerate(read_test_images(image_model, task_file).items()):
        right = 0
        for path, label in zip(tests.paths, tests.labels, strict=True):
            image = load_images([path], image_model.architecture)
            decided = tower.route(image, tower.cascade.without_judge())
            shares = torch.from_numpy(decided.posterior[0]).float() if decided.choice[0] < 3 else torch.zeros(3)
            parameters = dict(tower.backbone)
            for share, expert in zip(shares, experts, strict=True):
                for key in {key.removesuffix(".A") for key in expert if not key.endswith(".B")}:
                    if f"{key}.A" in expert:
                        change, key = expert[f"{key}.B"] @ expert[f"{key}.A"], f"{key}.weight"
                    else:
                        change = expert[key] - tower.backbone[key]
                    parameters[key] = parameters[key] + share * change
            embeds = embed_images(image, parameters, image_model.architecture)[0]
            right += int((torch.from_numpy(image_model.head(name).weight) @ embeds).argmax()) == label
        assert mixed.final["P1"][t] == pytest.approx(100 * right / len(tests))


def test_the_router_is_reported_as_single_images_find_it(image_model, task_file):
    report = evaluate(image_model.path, task_file, device="cpu")
    tower, names = GatedTower(image_model), image_model.task_names
    stages = [*(stage.name for stage in tower.cascade.stages), "experts"]
    reached, sure, right = np.zeros((3, len(stages))), [], []
    for t, (name, tests) in enumerate(read_test_images(image_model, task_file).items()):
        head, images = torch.from_numpy(image_model.head(name).weight), load_images(tests.paths, image_model.architecture)
        plain = (tower.embed(images) @ head.T).argmax(1).tolist()
        assert report.router.plain[name] == pytest.approx(100 * np.mean(np.equal(plain, tests.labels)))
        decided = [tower.route(images[i : i + 1]) for i in range(len(images))]
        reached[t] = np.mean([np.arange(len(stages)) == one.stage[0] for one in decided], axis=0)
        sure += [one.posterior[0].max() for one in decided]
        right += [one.posterior[0].argmax() == t for one in decided]
        assert report.own_route[t] == pytest.approx(100 * np.mean([one.choice[0] == t for one in decided]))
        assert report.unclaimed[t] == pytest.approx(100 * np.mean([one.choice[0] == 3 for one in decided]))
    settled = dict(zip(stages, 100 * reached.mean(0), strict=True))
    assert report.router.stages == pytest.approx(
        {name: share for name, share in settled.items() if name in report.router.stages}
    )
    assert sum(report.router.stages.values()) == pytest.approx(100)
    assert report.router.calibration_error["calibrated"] == pytest.approx(
        100 * calibration_error(np.array(sure), np.array(right)), abs=1e-3
    )
    assert report.router_blocks == image_model.router_depth
    assert list(report.router.foreign_refused) == names
    assert 0 <= report.router.foreign_auroc <= 1
    assert report.to_json()["router"]["plain"] == report.router.plain


def test_of_the_layer_scope_no_router_is_reported(layer_model, layer_task_file):
    report = evaluate(layer_model.path, layer_task_file, device="cpu")
    assert report.router is None
    assert report.to_json()["router"] is None


def test_metrics_of_a_known_history():
    after_own, final = [90.0, 80.0, 70.0], [84.0, 81.0, 70.0]
    assert average_accuracy(final) == pytest.approx(np.mean(final))
    assert backward_transfer(after_own, final) == pytest.approx(((84 - 90) + (81 - 80)) / 2)
    assert backward_transfer([50.0], [50.0]) == 0


def test_posterior_decides_between_equal_labels_only_for_claimed_images():
    head = Head(torch.eye(4)[:2], None, 100.0)
    embeds = torch.eye(4)[:1].repeat(2, 1)
    posterior = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    owner, label = predict_among(embeds, [head, head], posterior, torch.tensor([True, False]))
    assert (owner[0], label[0]) == (1, 0)
    assert label[1] == 0
    assert predict_within(embeds, head).tolist() == [0, 0]


def test_a_task_still_to_come_is_measured_by_its_head_alone():
    heads, embeds = [Head(rows, None, 1.0) for rows in (torch.eye(4)[:2], torch.eye(4)[2:])], torch.eye(4)
    coming = measure(Answers(embeds), None, [0, 1, 0, 1], 1, heads, merged=1)
    assert (coming.right, coming.owners) == ({"P1": 75.0}, None)
    merged = measure(Answers(embeds), embeds.flip(0), [0, 1, 0, 1], 1, heads, merged=2)
    assert merged.right == {"P1": 75.0, "P2": 25.0, "P3": 50.0}
    assert merged.owners.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("scope", "options", "message"),
    [
        ("image", {"pooling": "batch"}, "pooling averages the gates of the layer scope, .* leave out --pooled"),
        ("image", {"top_k": 4}, "top-k is 4, and the model has 3 experts; give at most 3"),
        ("layer", {"top_k": 4}, "top-k is 4, and the model has 3 experts; give at most 3"),
    ],
)
def test_options_that_do_nothing_are_refused(request, scope, options, message):
    model, file = (request.getfixturevalue(name) for name in (f"{scope}_model", f"{scope}_task_file".removeprefix("image_")))
    with pytest.raises(OptionError, match=message):
        evaluate(model.path, file, **options)
