"""What each package may import: the device side runs with everything of the workstation side unimportable."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from PIL import Image

WORKSTATION = ["torch", "torchvision", "onnx", "open_clip", "transformers", "safetensors", "sklearn", "jinja2", "vl_convert"]
WORKSTATION += ["mingle_edge", "mingle_edge_export"]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, blocked: list[str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which `blocked` cannot be imported."""
    script = BLOCK.format(names=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


def test_the_runtime_runs_without_the_workstation_side(image_bundle) -> None:
    code = f"""
import numpy as np
import mingle_edge_runtime, mingle_edge_runtime.check.verify, mingle_edge_runtime.profile
with mingle_edge_runtime.EdgeModel.open({str(image_bundle)!r}) as model:
    print(len(model.classify(np.zeros((2, 9, 9, 3), np.uint8))))
mingle_edge_runtime.check.verify.verify({str(image_bundle)!r}).check()
"""
    result = python(code, WORKSTATION)
    assert (result.stdout, result.stderr, result.returncode) == ("2\n", "", 0)


def test_the_runtime_imports_nothing_but_numpy_and_pillow() -> None:
    code = """
before = set(sys.modules)
import mingle_edge_runtime, mingle_edge_runtime.check.verify, mingle_edge_runtime.profile
top = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(top - sys.stdlib_module_names - {"mingle_edge_runtime"}))
"""
    result = python(code, [])
    assert result.stdout == "['PIL', 'numpy']\n", result


def test_a_missing_onnxruntime_names_the_extras(image_bundle) -> None:
    code = f"""
import mingle_edge_runtime
try:
    mingle_edge_runtime.EdgeModel.open({str(image_bundle)!r})
except mingle_edge_runtime.ProviderError as error:
    print(error)
"""
    result = python(code, [*WORKSTATION, "onnxruntime"])
    assert result.stdout == ("ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-gpu for CUDA\n"), result


@pytest.mark.parametrize("arguments", [["verify"], ["run", "IMAGE", "--json"], ["inspect"], ["profile", "--runs", "2"]])
def test_the_command_line_serves_a_device(image_bundle, tmp_path, arguments) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    command, *rest = [argument.replace("IMAGE", str(tmp_path / "image.png")) for argument in arguments]
    code = f"""
sys.argv = {["mingle-edge", command, str(image_bundle), *rest]!r}
from mingle_edge.cli import main
main()
"""
    result = python(code, [name for name in WORKSTATION if name != "mingle_edge"])
    assert result.returncode == 0, result.stderr


def test_an_application_of_the_server_needs_the_runtime_and_its_own_stack_alone(image_bundle) -> None:
    code = f"""
import mingle_edge_runtime, mingle_edge_server
with mingle_edge_runtime.EdgeModel.open({str(image_bundle)!r}) as model:
    print(mingle_edge_server.create_app(model).state.model_name)
"""
    result = python(code, WORKSTATION)
    assert (result.stdout, result.stderr) == (f"{image_bundle.name}\n", "")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_a_package_that_serve_misses_names_the_extra(image_bundle, package: str) -> None:
    code = f"""
sys.argv = {["mingle-edge", "serve", str(image_bundle)]!r}
from mingle_edge.cli import main
main()
"""
    result = python(code, [package])
    assert result.returncode == 7
    assert f"this command needs the package {package}; " in result.stderr
    assert "[serve]'" in result.stderr


@pytest.mark.parametrize("imported_before", [True, False])
def test_telemetry_is_off(imported_before: bool) -> None:
    first = "import onnxruntime" if imported_before else ""
    code = f"""
import os
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
{first}
calls = []
if "onnxruntime" in sys.modules:
    onnxruntime.disable_telemetry_events = lambda: calls.append(1)
import mingle_edge_runtime
print(os.environ["ORT_DISABLE_TELEMETRY"], len(calls))
"""
    result = python(code, [])
    assert result.stdout == f"1 {int(imported_before)}\n", result


def test_importing_the_merging_side_loads_no_command_line() -> None:
    code = """
import mingle_edge, mingle_edge_export
print([name for name in sys.modules if f"{name}.".startswith(("mingle_edge.cli.", "click."))])
"""
    assert python(code, []).stdout.endswith("[]\n")


def test_the_exporter_needs_torch_for_its_checks_alone() -> None:
    code = """
import importlib, pkgutil
import mingle_edge_export
names = [module.name for module in pkgutil.walk_packages(mingle_edge_export.__path__, "mingle_edge_export.")]
checked = [name for name in names if not name.startswith("mingle_edge_export.check.")]
for name in checked:
    importlib.import_module(name)
print(len(checked) > 15, "mingle_edge_export.tower.router" in checked)
"""
    result = python(code, ["torch", "torchvision", "open_clip", "transformers"])
    assert (result.stdout, result.returncode) == ("True True\n", 0), result


HEAVY = ["torch", "torchvision", "open_clip", "transformers", "onnx", "onnxruntime", "huggingface_hub", "pyarrow", "ray"]


def test_the_python_api_is_there_before_anything_heavy_is() -> None:
    code = """
import mingle_edge, inspect
from mingle_edge import compare, evaluate, merge
print(*(name for name in mingle_edge.__all__ if not inspect.getdoc(getattr(mingle_edge, name))))
print([name for name in dir(mingle_edge) if not hasattr(mingle_edge, name)], callable(merge))
"""
    result = python(code, HEAVY)
    assert (result.stdout, result.stderr) == ("\n[] True\n", "")


def test_mistakes_are_told_before_anything_heavy_is_imported(image_model, task_file, tmp_path) -> None:
    """A second, instead of the eight that torch takes: what a command can say without it, it says without it."""
    text = task_file.read_text()
    typo = task_file.with_name("typo.toml")
    typo.write_text(text.replace("rank = 8", "ranks = 8"))
    untested = task_file.with_name("untested.toml")
    untested.write_text("\n".join(line for line in text.splitlines() if not line.startswith("test")))
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied/notes.txt").touch()
    mistakes = {
        ("--help",): "Merge fine-tuned CLIP models",
        ("merge", typo, "-o", tmp_path / "m"): "there is no setting 'ranks'; did you mean 'rank'?",
        ("merge", task_file, "-o", tmp_path / "occupied"): "must be new or empty, and holds notes.txt",
        ("merge", task_file, "--into", tmp_path): "not a merged model",
        ("evaluate", tmp_path, task_file): "not a merged model",
        ("evaluate", image_model.path, typo): "there is no setting 'ranks'; did you mean 'rank'?",
        ("evaluate", image_model.path, untested): "task 'task0' of the merged model has no test images",
        ("compare", typo, "-o", tmp_path / "c"): "there is no setting 'ranks'; did you mean 'rank'?",
        ("compare", task_file, "-o", tmp_path / "c", "--methods", "tie"): "there is no method 'tie'; did you mean 'ties'?",
        ("compare", task_file, "-o", tmp_path / "c", "--ablation", "step"): "did you mean 'steps'?",
        ("compare", task_file, "-o", tmp_path / "c", "--corruptions", "snow"): "there is no corruption 'snow'",
        ("compare", task_file, "-o", tmp_path / "c", "--tune"): "task 'task0' has none; add tune =",
        ("compare", "--list"): "mingle-exact-top1: ",
        (
            "merge",
            task_file,
            "-o",
            tmp_path / "m",
        ): "the package torch; install it in a clone of mingle-edge with: pip install '.[merge]'",
    }
    commands = [[str(argument) for argument in arguments] for arguments in mistakes]
    code = f"""
from click.testing import CliRunner
from mingle_edge.cli import main
for command in {commands!r}:
    print(repr(CliRunner().invoke(main, command).output))
"""
    result = python(code, HEAVY)
    assert result.stderr == ""
    for said, (arguments, expected) in zip(result.stdout.splitlines(), mistakes.items(), strict=True):
        assert expected in ast.literal_eval(said), (arguments, said)
