"""What the exit code of a command says; docs/exit-codes.md explains each code."""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """The codes of every command, beside 128 + n for signal n, and 141 where whoever read standard output has gone."""

    DONE = 0
    PARTLY = 1
    USAGE = 2
    INPUT = 3
    DAMAGED = 4
    GATE = 5
    DIFFERS = 6
    ENVIRONMENT = 7
    DEFECT = 70


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.PARTLY: "done in part: some images or methods failed, each is named",
    ExitCode.USAGE: "usage: no such command, option or value",
    ExitCode.INPUT: "input: a file, image, setting or output folder is wrong or missing",
    ExitCode.DAMAGED: "damaged bundle or merged model, or one of another format version",
    ExitCode.GATE: "a gate failed: less exact, less accurate or slower than allowed",
    ExitCode.DIFFERS: "this device computes other answers than the exporting machine",
    ExitCode.ENVIRONMENT: "environment: a package, provider, memory, disk space or network",
    ExitCode.DEFECT: "a defect of mingle-edge itself; please report the traceback",
}
"""What a code says, in a line of the help."""

ERRORS = {
    "builtins.MemoryError": ExitCode.ENVIRONMENT,
    "builtins.ImportError": ExitCode.ENVIRONMENT,
    "builtins.OSError": ExitCode.INPUT,
    "builtins.RecursionError": ExitCode.INPUT,
    "builtins.OverflowError": ExitCode.INPUT,
    "mingle_edge.core.errors.MingleError": ExitCode.INPUT,
    "mingle_edge.core.errors.MergedModelError": ExitCode.DAMAGED,
    "mingle_edge.core.errors.NoMergedModelError": ExitCode.INPUT,
    "mingle_edge.core.errors.MergeConflictError": ExitCode.INPUT,
    "mingle_edge.core.errors.DiskSpaceError": ExitCode.ENVIRONMENT,
    "mingle_edge.core.errors.DeviceError": ExitCode.ENVIRONMENT,
    "mingle_edge.core.errors.HubUnreachableError": ExitCode.ENVIRONMENT,
    "mingle_edge_export.errors.ExportError": ExitCode.INPUT,
    "mingle_edge_export.errors.DiskSpaceError": ExitCode.ENVIRONMENT,
    "mingle_edge_export.errors.ParityError": ExitCode.GATE,
    "mingle_edge_runtime.errors.EdgeError": ExitCode.INPUT,
    "mingle_edge_runtime.errors.BundleError": ExitCode.DAMAGED,
    "mingle_edge_runtime.errors.NoBundleError": ExitCode.INPUT,
    "mingle_edge_runtime.errors.DeviceDiffersError": ExitCode.DIFFERS,
    "mingle_edge_runtime.errors.RegressionError": ExitCode.GATE,
    "mingle_edge_runtime.errors.ProviderError": ExitCode.ENVIRONMENT,
    "mingle_edge_runtime.errors.ThreadsError": ExitCode.INPUT,
    "mingle_edge_runtime.errors.DeviceMemoryError": ExitCode.ENVIRONMENT,
    "mingle_edge_server.errors.ServerError": ExitCode.INPUT,
    "mingle_edge_server.errors.AddressError": ExitCode.ENVIRONMENT,
}
"""Full name of an error -> its exit code and that of unlisted errors derived from it. Names, so that nothing is imported."""

_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOLCK)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def exit_code_of(error: BaseException) -> ExitCode | None:
    """Return the exit code of an error that a user can act on; None for any other.

    What caused the error decides where it is the file system or memory: a bundle that may not be read is not damaged.
    """
    listed = (ERRORS.get(f"{kind.__module__}.{kind.__qualname__}") for kind in type(error).__mro__)
    code = next((found for found in listed if found is not None), None)
    cause: BaseException | None = error
    while code is not None and cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _ENVIRONMENT):
            return ExitCode.ENVIRONMENT
        if isinstance(cause, OSError) and cause.errno in _FORBIDDEN and code is not ExitCode.ENVIRONMENT:
            return ExitCode.INPUT
        cause = cause.__cause__
    return code
