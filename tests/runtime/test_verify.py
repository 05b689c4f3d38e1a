"""A bundle that proves itself: a part that is damaged alone is named by `verify`, and by opening with verify=True."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import KINDS, TASKS, Weights, add_bias, images, relist, rewrite, write_layer_bundle

from mingle_edge_runtime import BundleError, EdgeModel
from mingle_edge_runtime.check import verify as module
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.ort.arithmetic import EXACT_PRODUCT
from mingle_edge_runtime.ort.processor import read_processor


def change_golden(bundle: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Write golden.npz anew, its hash corrected."""
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    change(golden)
    np.savez(bundle / "golden.npz", **golden)
    relist(bundle, "golden.npz")


def refused(bundle: Path, message: str) -> None:
    """Both ways to verify raise the same."""
    with pytest.raises(BundleError, match=message):
        verify(bundle).check()
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(bundle, verify=True)


PARTS = {
    "image": [
        *("plain backbone", "expert red", "expert green", "expert blue"),
        *("router posterior, pixels", "router losses, pixels", "router confidence, pixels"),
        *("classification, claimed", "classification, unclaimed"),
    ],
    "layer": ["top_k 3", "classification"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_bundle_passes_in_every_part(bundles, kind) -> None:
    verification = verify(bundles[kind])
    verification.check()
    scope, top_k = kind
    routed = [f"top_k {top_k}"] if scope == "layer" else []
    assert sorted({*verification.cosines, *verification.differences}) == sorted([*PARTS[scope], *routed])
    assert min(verification.cosines.values()) > 0.999999
    assert max(verification.differences.values()) < 1e-5
    assert (verification.heads, verification.labels, verification.arithmetic.onnxruntime) == (3, 12, onnxruntime.__version__)


@pytest.mark.parametrize("kind", KINDS)
def test_a_verified_model_is_as_if_just_opened(bundles, kind) -> None:
    with EdgeModel.open(bundles[kind]) as model:
        expected = model.classify(images(0, 1, 2, 3))
        least = kind[1] * max(task.expert_bytes for task in model.bundle.index.tasks)
    for budget in (None, least):
        with EdgeModel.open(bundles[kind], expert_budget=budget, verify=True) as model:
            stats = model.stats()
            assert (stats.resident_bytes, stats.bytes_loaded, stats.hits, stats.misses) == (0, 0, 0, 0)
            assert model.classify(images(0, 1, 2, 3)) == expected


DAMAGE = {
    "plain backbone": ("plain", 0),
    "expert red": ("embeds", (0, 1)),
    "expert blue": ("embeds", (2, 0)),
    "router posterior, pixels": ("posterior", (0, 2)),
    "router losses, pixels": ("losses", (0, 1)),
    "router confidence, pixels": ("confidence", (0, 3)),
    "classification, claimed": ("probabilities", (0, 3, 5)),
    "classification, unclaimed": ("probabilities", (1, 0, 5)),
}


@pytest.mark.parametrize("part", DAMAGE)
@pytest.mark.parametrize("wrong", [2.0, np.nan])
def test_a_wrong_output_is_named_with_how_wrong_it_is(bundle, part: str, wrong: float) -> None:
    array, where = DAMAGE[part]

    def change(golden: dict[str, np.ndarray]) -> None:
        golden[array][where] = golden[array][where][..., ::-1] if np.ndim(golden[array][where]) else golden[array][where] + 1
        golden[array][where] *= wrong

    change_golden(bundle, change)
    with pytest.raises(BundleError) as caught:
        verify(bundle).check()
    said = re.findall(r"(?:: |; )([a-z, ]+) (?:has a cosine of|differs by) ", str(caught.value))
    assert said == [part]
    refused(bundle, part)


@pytest.mark.parametrize(("difference", "passes"), [(0.0009, True), (0.0011, False)])
@pytest.mark.parametrize("array", ["probabilities", "posterior"])
def test_probabilities_may_differ_by_what_the_bundle_says(bundle, array: str, difference: float, passes: bool) -> None:
    change_golden(bundle, lambda golden: golden[array].__iadd__(np.where(golden[array] > 0.5, -difference, difference)))
    verification = verify(bundle)
    assert verification.largest_difference == 0.001
    assert max(verification.differences.values()) == pytest.approx(difference, rel=1e-2)
    if passes:
        verification.check()
    else:
        refused(bundle, "differs by 0.0011, at most 0.001 is allowed")
        rewrite(bundle, lambda record: record["fidelity"].update(golden_difference=0.002))
        verify(bundle).check()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("heads/{}.npy", ": classification, claimed differs by .*; classification, unclaimed differs by "),
        ("experts/{}.onnx_adapter", ": expert red has a cosine of .*; expert green has a cosine of .*classification, claimed"),
    ],
)
def test_files_of_two_tasks_that_changed_places_are_found(bundle, file: str, message: str) -> None:
    names = [file.format(task) for task in TASKS[:2]]
    contents = [(bundle / name).read_bytes() for name in names]
    for name, content in zip(names, reversed(contents), strict=True):
        (bundle / name).write_bytes(content)
        relist(bundle, name)
    refused(bundle, message)


def test_a_confidence_at_the_bound_does_not_decide(bundle) -> None:
    with np.load(bundle / "golden.npz") as file:
        confidence = file["confidence"][0]
    for bound in [np.nextafter(value, sign * np.inf) for value in confidence for sign in (-1, 1)]:
        rewrite(bundle, lambda record, bound=bound: record["router"]["stages"][0].update(confidence_bound=float(bound)))
        verify(bundle).check()


@pytest.mark.parametrize("product", [EXACT_PRODUCT, 1_048_544])
def test_what_differs_names_the_machine_and_its_arithmetic(bundle, monkeypatch, product: int) -> None:
    measure = module.measure_arithmetic
    monkeypatch.setattr(module, "measure_arithmetic", lambda providers: replace(measure(providers), product=product))
    verify(bundle).check()  # saturation alone is no fault: codes of a bundle do not reach it
    change_golden(bundle, lambda golden: golden["embeds"].__imul__(-1))
    with pytest.raises(BundleError) as caught:
        EdgeModel.open(bundle, verify=True)
    message = str(caught.value)
    machine = f"{read_processor()}, onnxruntime {onnxruntime.__version__}"
    assert f"on this machine, {machine}: expert red has a cosine of -1.0" in message
    saturates = "this processor multiplies 8-bit integers with saturation: 64 x 255 by 64 x 127 gives 1048544, not 2072640"
    assert (saturates in message) == (product != EXACT_PRODUCT)
    assert message.endswith(
        ". Try another version of ONNX Runtime or another provider, or export the bundle again in a higher precision"
    )


def test_a_flipped_bit_of_any_file_is_found_by_its_hash(bundle) -> None:
    for path in [path for path in bundle.rglob("*") if path.is_file() and path.name != "bundle.json"]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(bundle, f"{path.name} has sha256 .*: the file is damaged, copy or export it again")
        path.write_bytes(content)
    verify(bundle).check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.1e6])
@pytest.mark.parametrize("part", ["heads", "biases"])
def test_a_head_with_a_value_that_no_head_has_is_refused_at_every_open(bundle, part: str, value: float) -> None:
    add_bias(bundle, "green", np.arange(4, dtype=np.float32))
    EdgeModel.open(bundle).close()
    array = np.load(bundle / f"{part}/green.npy")
    array[2] = value
    np.save(bundle / f"{part}/green.npy", array)
    relist(bundle, f"{part}/green.npy")
    message = (
        f"{part}/green.npy, of the head of task 'green': a value of label 'green 2' is not finite, or beyond 1e.06: export"
    )
    with pytest.raises(BundleError, match=message):
        EdgeModel.open(bundle)
    refused(bundle, message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 12, 9, 3)), r"it holds no uint8 images \[n, H, W, 3\]; export it again"),
        (np.zeros((12, 9, 3), np.uint8), "it holds no uint8 images"),
        (np.zeros((0, 12, 9, 3), np.uint8), "it holds no uint8 images"),
        (np.array([None]), "golden.npz cannot be read as arrays without pickle"),
    ],
)
def test_golden_images_of_another_kind_are_refused(bundle, images: np.ndarray, message: str) -> None:
    change_golden(bundle, lambda golden: golden.update(images=images))
    refused(bundle, message)


@pytest.mark.parametrize("array", ["plain", "posterior", "confidence", "embeds", "probabilities"])
def test_a_golden_array_that_does_not_fit_is_named(bundle, array: str) -> None:
    change_golden(bundle, lambda golden: golden.update({array: golden[array][:-1]}))
    refused(bundle, rf"golden.npz does not fit the bundle: {array} is float64 \[.*\] instead of float \[.*\]; export it again")
    change_golden(bundle, lambda golden: golden.update({array: np.array(["a"])}))
    refused(bundle, rf"{array} is <U1 \[1\] instead of float \[")
    change_golden(bundle, lambda golden: golden.pop(array))
    refused(bundle, rf"golden.npz does not fit the bundle: it holds no {array} \[.*\]; export it again")


def test_the_layer_scope_needs_its_probabilities_too(tmp_path) -> None:
    bundle = write_layer_bundle(tmp_path / "layer", Weights(), top_k=2)
    change_golden(bundle, lambda golden: golden.pop("probabilities"))
    refused(bundle, r"it holds no probabilities \[1, 4, 12\]")


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_golden_file_that_was_cut_is_named(bundle, keep: int) -> None:
    path = bundle / "golden.npz"
    path.write_bytes(path.read_bytes()[:keep])
    relist(bundle, "golden.npz")
    refused(bundle, r"golden.npz cannot be read as arrays.*; export the bundle again")


def test_a_bundle_is_not_read_twice_over(bundle) -> None:
    size = sum(file["size"] for file in json.loads((bundle / "bundle.json").read_text())["files"].values())
    done: list[tuple[int, int]] = []
    verify(bundle, progress=lambda *figures: done.append(figures))
    assert done[-1] == (size, size)
