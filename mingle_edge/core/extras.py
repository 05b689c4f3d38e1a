"""Packages that come with an extra of this one, and what to do where one of them cannot be imported."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "torch": "merge",
    "open_clip": "merge",
    "safetensors": "merge",
    "huggingface_hub": "merge",
    "onnx": "merge",
    "onnxruntime": "cpu",
    "pyarrow": "data",
    "sklearn": "demo",
    "joblib": "demo",
    "ray": "ray",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "vl_convert": "report",
    "jinja2": "report",
    "markupsafe": "report",
}
"""Package -> extra."""


def package_of(error: ImportError) -> str | None:
    """Find the package of an extra that cannot be imported; None for a mistake of our own.

    A package that is there may fail within: for a module of another one, a library of the system, a version that does not fit.
    """
    if error.name and (package := error.name.split(".")[0]) in EXTRAS:
        return package
    failing, trace = None, error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).split(".")[0]
        failing = failing or (package if package in EXTRAS else None)
        trace = trace.tb_next
    return failing


def advice(error: ImportError, package: str) -> str:
    """Return the next step: install it where it is not there, else what fails."""
    command = install_command(EXTRAS[package])
    missing = isinstance(error, ModuleNotFoundError) and error.name == package
    if missing or find_spec(package) is None:
        return f"install it {command}"
    return f"it is installed and fails to import ({error}): mend that, or install it again {command} --force-reinstall"


def install_command(extra: str) -> str:
    """Return where and how to install an extra: from the source, as the package is on no index yet."""
    return f"in a clone of mingle-edge with: pip install '.[{extra}]'"
