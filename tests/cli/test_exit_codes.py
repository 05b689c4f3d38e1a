"""Exit codes: one for each kind of failure, in one table, as the help and the documentation say."""

from __future__ import annotations

import errno
import importlib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mingle_edge.cli import main
from mingle_edge.cli.exit_codes import ERRORS, MEANINGS, ExitCode, exit_code_of
from mingle_edge.core.errors import (
    CheckpointError,
    DiskSpaceError,
    HubError,
    HubUnreachableError,
    MergeConflictError,
    MergedModelError,
    MingleError,
    OutputError,
)
from mingle_edge_export.errors import AccuracyError, ExportError
from mingle_edge_runtime.errors import BundleError, DeviceDiffersError, EdgeError, ExpertError, NoBundleError
from mingle_edge_server.errors import AddressError, ServerError

PAGE = Path(__file__).parents[2] / "docs/exit-codes.md"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("name", ERRORS)
def test_every_name_in_the_table_is_an_error(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


@pytest.mark.parametrize("tree", [MingleError, ExportError, EdgeError, ServerError])
def test_every_error_of_the_packages_has_a_code(tree: type[Exception]) -> None:
    kinds = [tree]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert exit_code_of(kind.__new__(kind)) is not None
    assert len(kinds) > 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError(), ExitCode.INPUT),
        (MergedModelError(), ExitCode.DAMAGED),
        (MergeConflictError(), ExitCode.INPUT),
        (DiskSpaceError(), ExitCode.ENVIRONMENT),
        (HubError(), ExitCode.INPUT),
        (HubUnreachableError(), ExitCode.ENVIRONMENT),
        (AccuracyError("worse"), ExitCode.GATE),
        (NoBundleError(), ExitCode.INPUT),
        (BundleError(), ExitCode.DAMAGED),
        (ExpertError(), ExitCode.DAMAGED),
        (DeviceDiffersError(), ExitCode.DIFFERS),
        (OSError(errno.ENOENT, "gone"), ExitCode.INPUT),
        (OSError(errno.ENOSPC, "full"), ExitCode.ENVIRONMENT),
        (caused(OutputError(), OSError(errno.EDQUOT, "full")), ExitCode.ENVIRONMENT),
        (caused(BundleError(), OSError(errno.EMFILE, "files")), ExitCode.ENVIRONMENT),
        (caused(BundleError(), MemoryError()), ExitCode.ENVIRONMENT),
        (caused(BundleError(), PermissionError(errno.EACCES, "no")), ExitCode.INPUT),
        (caused(BundleError(), OSError(errno.EIO, "broken")), ExitCode.DAMAGED),
        (caused(AddressError(), PermissionError(errno.EACCES, "below 1024")), ExitCode.ENVIRONMENT),
        (caused(KeyError("a mistake of ours"), MemoryError()), None),
        (ValueError(), None),
        (click.UsageError("wrong"), None),
    ],
    ids=lambda value: repr(value),
)
def test_an_error_has_the_code_of_what_went_wrong(error: Exception, code: ExitCode | None) -> None:
    assert exit_code_of(error) is code


def test_help_and_documentation_list_the_codes() -> None:
    assert list(MEANINGS) == list(ExitCode)
    shown = CliRunner().invoke(main, ["--help"]).output
    assert [int(code) for code in re.findall(r"^  (\d+) +\S", shown, re.MULTILINE)] == [*map(int, ExitCode)]
    documented = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(map(int, documented)) == sorted([*map(int, ExitCode), 141])


def test_a_defect_of_ours_shows_its_traceback_and_has_a_code_of_its_own() -> None:
    code = """
import click, mingle_edge.cli as cli
cli.LazyGroup.get_command = lambda *given: click.Command("x", callback=lambda: 1 / 0)
cli.main(["x"])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == ExitCode.DEFECT
    assert process.stderr.startswith("Traceback ")
    assert process.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_damaged_model_differs_from_one_that_is_not_there(image_model, task_file, tmp_path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/mingle.json").write_text((image_model.path / "mingle.json").read_text().replace("rank", "rang"))
    codes = [
        CliRunner().invoke(main, ["evaluate", str(tmp_path / name), str(task_file)]).exit_code for name in ("damaged", "gone")
    ]
    assert codes == [ExitCode.DAMAGED, ExitCode.INPUT]
