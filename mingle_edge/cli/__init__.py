"""The command line: the only place that knows all three packages, and loads each when a command needs it."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from mingle_edge import __version__
from mingle_edge.cli.interruption import Terminated, exit_code, terminable
from mingle_edge.cli.terminal import one_line, terminal
from mingle_edge.core.extras import advice, package_of

COMMANDS = ("init", "check", "merge", "evaluate", "compare", "export", "run", "verify", "inspect", "profile", "demo")
ERROR_TREES = {
    "mingle_edge.core.errors": "MingleError",
    "mingle_edge_export.errors": "ExportError",
    "mingle_edge_runtime.errors": "EdgeError",
}


class CommandError(click.ClickException):
    """One line on standard error and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the message."""
        click.echo(f"error: {one_line(self.format_message())}", file=file or sys.stderr)


class LazyGroup(click.Group):
    """Loads a command's module when it is asked for, and turns expected errors into one line."""

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
        """Run the command; errors a user can act on become `CommandError`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            what = "terminated" if isinstance(error, Terminated) else "\ninterrupted"  # behind the terminal's ^C
            click.echo(f"{what}; nothing that was finished is lost, run the same command again to continue", err=True)
            ctx.exit(exit_code(error))
        except ImportError as error:
            package = package_of(error)
            if package is None:
                raise
            raise CommandError(f"this command needs the package {package}; {advice(error, package)}") from error
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            raise CommandError(f"{error.filename or 'file system'}: {error.strerror}") from error
        except MemoryError as error:
            raise CommandError(f"there is not enough memory{f' ({error})' if str(error) else ''}") from error
        except (RecursionError, OverflowError) as error:
            raise CommandError(f"something in the input is too deep or too large ({error})") from error
        except tuple(_loaded_error_trees()) as error:
            raise CommandError(str(error)) from error


def _loaded_error_trees() -> Iterator[type[Exception]]:
    for module, name in ERROR_TREES.items():
        if module in sys.modules:
            yield getattr(sys.modules[module], name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="mingle-edge")
def main() -> None:
    """Merge fine-tuned CLIP models into one bundle for a device.

    On a workstation: init, check, merge, evaluate, export. On the device: run, verify, profile.
    """
