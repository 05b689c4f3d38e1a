"""The command line: the only place that knows all four packages, and loads each when a command needs it."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from typing import Any

import click

from mingle_edge import __version__
from mingle_edge.cli.exit_codes import MEANINGS, ExitCode, exit_code_of
from mingle_edge.cli.interruption import exit_code, terminable, told
from mingle_edge.cli.terminal import one_line, terminal
from mingle_edge.core.extras import advice, package_of

COMMANDS = (
    *("init", "check", "merge", "evaluate", "compare", "export", "head"),
    *("run", "serve", "verify", "inspect", "profile", "card", "demo"),
)


class LazyGroup(click.Group):
    """Loads a command's module when it is asked for, and turns expected errors into one line and an exit code."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run as a process: a defect of ours shows its traceback, and ends with a code of its own."""
        try:
            return self.main(*arguments, **options)
        except Exception:
            traceback.print_exc()
            sys.exit(ExitCode.DEFECT)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command line with its output and the signals it may get in hand."""
        with terminal(), terminable(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of metadata, which nobody needs, or what becomes an error
            return super().main(*arguments, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List commands in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of `mingle_edge.cli.<name>`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"mingle_edge.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error a user can act on becomes one line on standard error, and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo(told(error), err=True)
            ctx.exit(exit_code(error))
        except Exception as error:
            code, message = exit_code_of(error), _message(error)
            if code is None or message is None:
                raise
            click.echo(f"error: {one_line(message)}", err=True)
            ctx.exit(code)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what exit codes say."""
        with formatter.section("Exit codes"):
            formatter.write_dl([*((str(int(code)), meaning) for code, meaning in MEANINGS.items()), _SIGNALED])


_SIGNALED = ("128+n", "ended by signal n: 130 is Ctrl-C, 141 that nobody reads the output")


def _message(error: Exception) -> str | None:
    """Return what to print of an error that has an exit code; None where it is a mistake of ours after all."""
    if isinstance(error, ImportError):
        package = package_of(error)
        return None if package is None else f"this command needs the package {package}; {advice(error, package)}"
    if isinstance(error, OSError):
        if error.filename is None and error.strerror is None:
            return None
        return f"{error.filename or 'file system'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f' ({error})' if str(error) else ''}"
    if isinstance(error, RecursionError | OverflowError):
        return f"something in the input is too deep or too large ({error})"
    return str(error)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="mingle-edge")
def main() -> None:
    """Merge fine-tuned CLIP models into one bundle for a device.

    On a workstation: init, check, merge, evaluate, export. On the device: run, serve, verify, profile.
    """
