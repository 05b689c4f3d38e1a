"""What the server imports: the runtime and its own stack, and neither the workstation's side nor the command line's."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which `blocked` cannot be imported."""
    script = BLOCK.format(names=blocked) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_an_application_needs_the_runtime_and_the_servers_stack_alone(image_bundle) -> None:
    code = f"""
import mingle_edge_runtime, mingle_edge_server
with mingle_edge_runtime.EdgeModel.open({str(image_bundle)!r}) as model:
    print(mingle_edge_server.create_app(model).state.model_name)
"""
    result = python(code, "torch", "onnx", "open_clip", "jinja2", "mingle_edge", "mingle_edge_export")
    assert (result.stdout, result.stderr) == (f"{image_bundle.name}\n", "")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_a_missing_package_names_the_extra(image_bundle, package: str) -> None:
    code = f"""
sys.argv = {["mingle-edge", "serve", str(image_bundle)]!r}
from mingle_edge.cli import main
main()
"""
    result = python(code, package)
    assert result.returncode == 7
    assert f"this command needs the package {package}; " in result.stderr
    assert "[serve]'" in result.stderr
