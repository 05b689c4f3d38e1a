"""ONNX Runtime that does not import: "not installed" only where that is so, the reason in every other case."""

from __future__ import annotations

import importlib
import sys
import types
from unittest import mock

import pytest

from mingle_edge_runtime import ProviderError
from mingle_edge_runtime.ort.providers import resolve_providers
from mingle_edge_runtime.ort.session import check_version, onnxruntime

REASONS: list[tuple[Exception, str]] = [
    (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), r"ONNX Runtime is not installed: pip install"),
    (ImportError("libcudnn.so.9: cannot open shared object file"), r"does not import, ImportError: libcudnn.so.9: cannot open"),
    (
        ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"),
        r"does not import, .*No module named 'flatbuffers'",
    ),
    (AttributeError("_ARRAY_API not found"), r"does not import, AttributeError: _ARRAY_API not found"),
    (RuntimeError("module compiled against\x1b ABI"), r"does not import, RuntimeError: module compiled against\\x1b ABI"),
    (OSError(12, "Cannot allocate memory"), r"does not import, OSError: .*Cannot allocate memory"),
]


@pytest.mark.parametrize(("problem", "message"), REASONS)
def test_why_onnxruntime_does_not_import_is_said(monkeypatch, problem: Exception, message: str) -> None:
    monkeypatch.setattr(importlib, "import_module", mock.Mock(side_effect=problem))
    for call in (onnxruntime, lambda: check_version("1.20"), lambda: resolve_providers(["cpu"])):
        with pytest.raises(ProviderError, match=message) as caught:
            call()
        assert ("not installed" in str(caught.value)) == (getattr(problem, "name", None) == "onnxruntime")


def test_an_interrupted_import_stays_an_interruption(monkeypatch) -> None:
    monkeypatch.setattr(importlib, "import_module", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        onnxruntime()


def test_what_an_uninstalled_package_left_is_named(tmp_path, monkeypatch) -> None:
    left = types.ModuleType("onnxruntime")
    left.__path__ = [str(tmp_path / "onnxruntime")]
    monkeypatch.setitem(sys.modules, "onnxruntime", left)
    with pytest.raises(
        ProviderError, match=rf"not whole: {tmp_path}/onnxruntime is what .* left; remove that folder, then pip install"
    ):
        check_version("1.20")
    importlib.reload(importlib.import_module("mingle_edge_runtime"))  # as an application that starts now imports it
