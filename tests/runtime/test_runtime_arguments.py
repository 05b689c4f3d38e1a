"""What `EdgeModel` takes from an application: sizes and providers as people write them, and errors of its own for all else."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import click
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import images

from mingle_edge.cli.byte_size import byte_size
from mingle_edge_runtime import BudgetError, BundleError, EdgeError, EdgeModel, ProviderError, ThreadsError, UnknownTaskError
from mingle_edge_runtime.experts.byte_size import parse_byte_size
from mingle_edge_runtime.ort.providers import resolve_providers

IMAGES = images(0, 1)
BYTES = {"": 1, "B": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
BYTES |= {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@given(st.decimals(0, 4096, places=3), st.sampled_from(list(BYTES)), st.sampled_from(["", " "]), st.sampled_from("ul "))
def test_a_size_is_its_number_times_its_unit(number: Decimal, unit: str, space: str, case: str) -> None:
    text = f"{number:f}{space}{ {'u': unit.upper(), 'l': unit.lower(), ' ': unit}[case] }"
    assert parse_byte_size(text) == byte_size(None, None, text) == Fraction(number) * BYTES[unit] // 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("64MiB", 67_108_864), ("1.5 GB", 1_500_000_000), (" 7 ", 7), ("0.1GB", 100_000_000)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_byte_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "64 XB", "-1MB", "1e9", "64MB!", "1,5GB", "64Mi", "nan", "inf"])
def test_what_is_no_size_is_refused_here_and_on_the_command_line(text: str) -> None:
    message = "is no size; write it like 64MB, 64MiB or 64000000"
    with pytest.raises(BudgetError, match=message):
        parse_byte_size(text)
    with pytest.raises(click.BadParameter, match=message):
        byte_size(None, None, text)


def test_no_memory_has_that_much() -> None:
    assert parse_byte_size(str(2**63 - 1)) == 2**63 - 1
    for text in ("9" * 400 + "GB", str(2**63)):
        with pytest.raises(BudgetError, match="is more than any memory has"):
            parse_byte_size(text)


@pytest.mark.parametrize("budget", [10**6, np.int64(10**6), "1MB", "1 mb", "0.001GB", "1000000"])
def test_a_budget_is_bytes_however_it_is_written(image_bundle, budget) -> None:
    with EdgeModel.open(image_bundle, expert_budget=budget) as model:
        assert model.stats().budget == 10**6
        model.set_expert_budget(None)
        assert model.stats().budget is None
        model.set_expert_budget(budget)
        assert model.stats().budget == 10**6


@pytest.mark.parametrize("budget", [64e6, True, [], b"64MB", object(), "64 X", "", np.float64(1e9)])
def test_what_is_no_budget_is_refused(image_bundle, budget) -> None:
    with pytest.raises(BudgetError, match=r"an expert budget is .*must be a whole number of bytes|is no size"):
        EdgeModel.open(image_bundle, expert_budget=budget)
    with EdgeModel.open(image_bundle) as model:
        with pytest.raises(BudgetError):
            model.set_expert_budget(budget)
        assert model.stats().budget is None


SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


@pytest.mark.parametrize("short", SHORT)
def test_short_names_are_those_of_onnx_runtime(monkeypatch, short: str) -> None:
    every = onnxruntime.get_all_providers()
    assert SHORT[short] in every
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    for name in (short, short.upper(), short.title(), SHORT[short], SHORT[short].lower()):
        assert resolve_providers(name) == resolve_providers([name]) == resolve_providers((name,)) == [SHORT[short]]
    assert resolve_providers([short, "cpu"]) == [SHORT[short], SHORT["cpu"]]


def test_every_provider_of_onnx_runtime_has_its_name(monkeypatch) -> None:
    every = onnxruntime.get_all_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    assert [resolve_providers(name) for name in every] == [[name] for name in every]


def test_one_provider_may_be_a_name(image_bundle) -> None:
    with EdgeModel.open(image_bundle, providers="CPU") as one, EdgeModel.open(image_bundle) as usual:
        np.testing.assert_array_equal(one.embed(IMAGES), usual.embed(IMAGES))


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ("npu", "provider 'npu' is not available; this ONNX Runtime has .*cpu"),
        (["cpu", "gpu"], "provider 'gpu' is not available"),
        ("", "provider '' is not available"),
        ([("CUDAExecutionProvider", {})], "is no name like 'cuda'; options of a provider are not taken"),
        ([None], "provider None is no name"),
        (5, "providers is 5, must be a name like 'cuda'"),
        (0, "providers is 0, must be a name"),
        (b"cpu", "is no name like 'cuda'"),
    ],
    ids=str,
)
def test_what_is_no_provider_is_refused(image_bundle, providers, message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        EdgeModel.open(image_bundle, providers=providers)


@pytest.mark.parametrize("threads", ["2", 2.0, True, [2], 10**9, 0, -1])
def test_what_is_no_number_of_threads_is_refused(image_bundle, threads) -> None:
    with pytest.raises(ThreadsError, match=r"threads is .*, must be"):
        EdgeModel.open(image_bundle, threads=threads)


@pytest.mark.parametrize("path", [None, 5, b"bundle", ["bundle"]])
def test_what_is_no_path_is_refused(path) -> None:
    with pytest.raises(BundleError, match=r"a bundle is .*, must be the path of its folder"):
        EdgeModel.open(path)


@pytest.mark.parametrize("kind", ["image_bundle", "layer_bundle"])
def test_wrong_types_are_errors_of_the_runtime(request, kind: str) -> None:
    with EdgeModel.open(request.getfixturevalue(kind)) as model:
        for wrong in (5, 2.5, b"red", [["red"]], object(), {"red": 1}.items()):
            for call in (model.pin, model.prefetch, model.labels, lambda task: model.classify(IMAGES, task=task)):
                with pytest.raises(UnknownTaskError, match="is not in the bundle; it has red, green, blue"):
                    call(wrong)
        for wrong in ("5", 2.0, None, 0, True - 2, [1]):
            for call in (model.classify, model.submit):
                with pytest.raises(EdgeError, match=r"top is .*, must be a whole number and at least 1"):
                    call(IMAGES, top=wrong)
        for options in ({"threshold": "1"}, {"threshold": float("nan")}, {"audit_every": 2.5}, {"audit_every": None}):
            with pytest.raises(EdgeError, match=r"threshold is .* audit_every is"):
                model.stream(**options)
        for wrong in (None, "ignore", []):
            with pytest.raises(EdgeError, match='must be "raise" or "skip"'):
                model.classify(IMAGES, on_error=wrong)
        assert len(model.classify(IMAGES, top=np.int64(2))[0].labels) == 2
