"""The router's depth: what left-out seeds say, and what the choice depends on."""

import numpy as np
import pytest
import torch
from correlated_tasks import images, scatter
from tiny_clip import first_tasks

from mingle_edge.core.errors import TaskFileError
from mingle_edge.data.image_folder import list_images
from mingle_edge.data.images import load_images
from mingle_edge.data.settings import Settings
from mingle_edge.merging.merge import merge
from mingle_edge.routing.depth import choose_depth, left_out_errors, mean_of_tasks
from mingle_edge.routing.features import router_features
from mingle_edge.routing.layout import PIXELS, Layout
from mingle_edge.routing.leave_one_out import left_out_scores
from mingle_edge.routing.router import fit_router
from mingle_edge.routing.statistics import KEPT_SEEDS, MOMENTS, RouterStatistics


def test_errors_are_those_of_routers_made_without_the_seed():
    """Linear ones made anew, as thin as stored: scale and shrinkage, which the closed form leaves alone, matter little."""
    parts = [part.astype(np.float32) for part in images(1, count=14, each=6, F=20, apart=1.0)]
    errors = left_out_errors([RouterStatistics.from_features(part) for part in parts])
    anew = []
    for t, part in enumerate(parts):
        wrong = []
        for i in range(len(part)):
            rest = [np.delete(part, i, axis=0) if s == t else other for s, other in enumerate(parts)]
            router = fit_router([RouterStatistics.from_features(other) for other in rest], own_share=0)
            posterior, _ = router.posterior(part[i])
            wrong.append((posterior.argmax(1) != t).mean())
        anew.append(np.array(wrong))
    assert 0.1 < mean_of_tasks(anew)[0] < 0.6  # neither easy nor hopeless
    assert mean_of_tasks(errors)[0] == pytest.approx(mean_of_tasks(anew)[0], abs=0.02)
    assert np.corrcoef(np.concatenate(errors), np.concatenate(anew))[0, 1] > 0.95


@pytest.mark.parametrize(("count", "each", "F"), [(12, 5, 8), (4, 3, 40)])
def test_coordinates_give_back_the_images(count, each, F):
    features = images(2, tasks=1, count=count, each=each, F=F)[0].astype(np.float32)
    statistics = RouterStatistics.from_features(features)
    again = statistics.mean + np.sqrt(each) * statistics.coordinates @ statistics.factor
    lost = (again - features) / features.std((0, 1))
    assert (lost**2).mean() <= 1.001e-3  # 99.9% of the scatter of features of unit variance is kept


def test_coordinates_of_a_merged_task_are_those_of_its_seeds(image_model, task_file):
    """In their order, each seed before its variations. Of features of unit variance at most 0.1% of all scatter is lost."""
    statistics = image_model.router_statistics("task1")
    backbone = {name: torch.from_numpy(value) for name, value in image_model.backbone().items()}
    seeds = load_images(list_images(task_file.parent / "seeds" / "task1"), image_model.architecture)
    expected = router_features(seeds, backbone, image_model.architecture, 3).numpy()
    images = statistics.coordinates.shape[1]
    again = statistics.mean + np.sqrt(images) * statistics.coordinates[:, 0] @ statistics.factor
    assert statistics.count == len(seeds) == 6
    assert images == 1 + Settings().router_augmentations
    variance = (statistics.factor**2).sum(axis=0)
    varied = variance > 1e-6 * variance.mean()  # levels that no pixel has are not
    assert varied.mean() > 0.9
    lost = ((again - expected) ** 2)[:, varied] / variance[varied]
    assert lost.sum() <= 2e-3 * images * expected.shape[1]
    other = ((again[::-1] - expected) ** 2)[:, varied] / variance[varied]
    assert other.sum() > 20 * lost.sum()


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_factor_keeps_small_features_beside_large_ones(scale):
    """Deep features are larger than shallow ones; a smaller depth must not lose its scatter to them."""
    features = images(3, tasks=1, count=30, each=2, F=16)[0]
    features[:, :, 8:] *= scale
    statistics = RouterStatistics.from_features(features.astype(np.float32)).columns(np.arange(8))
    whole = scatter(features[:, :, :8])
    assert np.linalg.norm(whole - statistics.factor.T @ statistics.factor) <= 3e-3 * np.linalg.norm(whole)
    assert len(statistics.mean) == 8


def test_of_very_many_seeds_some_are_left_out_in_turn():
    features = images(4, tasks=1, count=200, each=1, F=3)[0].astype(np.float32)
    statistics = RouterStatistics.from_features(features)
    assert statistics.coordinates.shape[0] == KEPT_SEEDS
    again = statistics.mean + statistics.coordinates @ statistics.factor  # [k, 1, F]
    np.testing.assert_allclose(again[[0, -1]], features[[0, -1]], atol=0.1)


LAYOUT = Layout(width=2, depths=4, dim=3)


def laid_out(pixels, depths, embedding):
    """Features `[n, v, F]` of some columns of the pixels' statistics, of every depth and of the embedding; the others are 0."""
    rest = np.zeros((*pixels.shape[:2], PIXELS - pixels.shape[2]))
    return np.concatenate([pixels, rest, *depths, embedding], axis=2).astype(np.float32)


def by_depth(seed, informative, tasks=3):
    """Statistics of pixels and four depths, of which the named ones tell the tasks apart."""
    random = np.random.default_rng(seed)
    statistics = []
    for t in range(tasks):
        pixels, *depths = (random.standard_normal((20, 3, 8)) + (6 * t if m in informative else 0) for m in (None, *range(4)))
        features = laid_out(pixels, depths, random.standard_normal((20, 3, 3)) + 6 * t)
        statistics.append(RouterStatistics.from_features(features))
    return statistics


@pytest.mark.parametrize(
    ("informative", "depth"), [({None}, None), ({0}, 0), ({1}, 1), ({3}, 3), ({2, 3}, 2), ({None, 0, 1, 2, 3}, None)]
)
def test_the_smallest_depth_that_tells_tasks_apart(informative, depth):
    statistics = by_depth(0, informative)
    assert choose_depth(statistics, LAYOUT) == depth
    assert choose_depth(statistics[::-1], LAYOUT) == depth
    assert choose_depth(statistics[:1], LAYOUT) is None  # nothing to tell apart


def test_a_depth_is_refused_only_when_more_seeds_than_chance_miss_it():
    """One seed of sixty lost is within the standard error of its own loss; five are not."""
    layout = Layout(width=1, depths=2, dim=1)

    def statistics(lost):
        random = np.random.default_rng(0)
        by_task = []
        for t in range(3):
            far = 9 * np.array([t == 1, t == 2, 0, 0])
            first, second = (random.standard_normal((20, 1, 4)) * 0.1 + far for _ in range(2))
            first[: lost if t == 0 else 0] += [9, 0, 0, 0]  # look like task 1 at depth 0 alone
            noise = random.standard_normal((20, 1, 1))
            by_task.append(RouterStatistics.from_features(laid_out(noise, [first, second], noise)))
        return by_task

    first = layout.columns(0)
    errors = [mean_of_tasks(left_out_errors([s.columns(first) for s in statistics(lost)]))[0] for lost in (1, 5)]
    assert errors == pytest.approx([1 / 60, 5 / 60])
    assert [choose_depth(statistics(lost), layout) for lost in (1, 5)] == [0, 1]


def test_single_seeds_tell_nothing_and_the_deepest_is_taken():
    assert choose_depth(single_seeds(), LAYOUT) == 3


def single_seeds():
    random = np.random.default_rng(0)
    return [RouterStatistics.from_features(random.standard_normal((1, 4, LAYOUT.features), dtype=np.float32)) for _ in range(3)]


def test_identical_seeds_do_no_harm():
    statistics = [RouterStatistics.from_features(np.full((5, 2, LAYOUT.features), t, np.float32)) for t in range(2)]
    assert choose_depth(statistics, LAYOUT) is None
    assert all(np.isfinite(scores).all() for _, scores in left_out_scores(statistics))


def test_the_depth_is_that_of_the_tasks_there_are(image_model, task_file, tmp_path):
    """Of a view as of a model merged no further; and features of a smaller depth are among those of a larger one."""
    earlier = merge(first_tasks(task_file, 2), tmp_path / "earlier")
    view = image_model.select(earlier.task_names)
    assert view.router_depth == earlier.router_depth
    for one, other in zip(view.cascade().stages, earlier.cascade().stages, strict=True):
        np.testing.assert_array_equal(one.router.weight, other.router.weight)
        assert (one.name, one.blocks, one.doubt) == (other.name, other.blocks, other.doubt)
    assert image_model.select(["task1"]).router_depth is None
    fixed = task_file.with_name("depth-fixed.toml")
    fixed.write_text(task_file.read_text().replace("[settings]", "[settings]\nrouter_blocks = 1"))
    shallow = merge(fixed, tmp_path / "fixed")
    assert shallow.router_depth == 1
    pixels, blocks, *_ = shallow.cascade().stages
    assert (pixels.name, blocks.name, blocks.blocks) == ("pixels", "blocks", 1)
    assert len(pixels.router.weight) == PIXELS
    assert len(blocks.router.weight) == PIXELS + MOMENTS * 2 * image_model.architecture.width
    same = image_model.layout.columns(1, embedding=True)
    for name in shallow.task_names:
        statistics, deep = shallow.router_statistics(name), image_model.router_statistics(name)
        np.testing.assert_allclose(deep.mean[same], statistics.mean, rtol=1e-5, atol=1e-6)
        assert len(deep.mean) > len(statistics.mean)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", "router_blocks must be a whole number or 'auto', not 'two'"),
        (1.5, "router_blocks must be a whole number or 'auto', not 1.5"),
        (True, "router_blocks must be a whole number or 'auto', not True"),
        (-1, "router_blocks must not be negative, and is -1"),
    ],
)
def test_a_wrong_depth_is_refused(value, message):
    with pytest.raises(TaskFileError, match=message):
        Settings.from_mapping({"router_blocks": value})
    assert [Settings.from_mapping({"router_blocks": right}).router_blocks for right in (0, 3, "auto")] == [0, 3, "auto"]


def test_more_blocks_than_the_tower_has_are_refused_before_any_work(task_file, tmp_path):
    file = task_file.with_name("too-deep.toml")
    file.write_text(task_file.read_text().replace("[settings]", "[settings]\nrouter_blocks = 9"))
    with pytest.raises(TaskFileError, match=r"router_blocks is 9, and the tower has 3 blocks; .*\"auto\""):
        merge(file, tmp_path / "m")
    assert not (tmp_path / "m").exists()
