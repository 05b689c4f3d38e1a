"""Tables of docs/settings.md and docs/commands.md, written from the code: `python docs/hooks/reference.py`.

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`. `make docs` writes them anew, and a test compares them.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

sys.path.insert(0, str(Path(__file__).parent))  # also where it is loaded by its path

from docstrings import named_items

from mingle_edge.cli import COMMANDS, main
from mingle_edge.data.settings import OFFICIAL, RANGES, Settings
from mingle_edge_export import ExportOptions
from mingle_edge_export.options import DEFAULT_BOUNDS
from mingle_edge_runtime import EdgeModel

DOCS = Path(__file__).parents[1]
_WIDTH = 78  # characters of a line of help, whatever the terminal's


def settings() -> str:
    """Return the table of a merge's settings."""
    effects = named_items(inspect.getdoc(Settings) or "", get_type_hints(Settings))
    hints = get_type_hints(Settings)
    rows = [["setting", "type and range", "default", "official", "effect"]]
    for field in fields(Settings):
        official = getattr(OFFICIAL, field.name)
        changed = _toml(official) if official != field.default else ""
        rows.append(
            [f"`{field.name}`", _type(field.name, hints[field.name]), _toml(field.default), changed, effects[field.name]]
        )
    return _table(rows)


def export_options() -> str:
    """Return the table of `ExportOptions`, with the option of the command for each."""
    effects = named_items(inspect.getdoc(ExportOptions) or "", [field.name for field in fields(ExportOptions)])
    options = {parameter.name: parameter for parameter in _command("export").params if isinstance(parameter, click.Option)}
    rows = [["`mingle-edge export`", "`ExportOptions`", "values", "default", "effect"]]
    for field in fields(ExportOptions):
        option = options[field.name]
        default = "" if field.default is None else f"`{field.default}`"
        rows.append([f"`{option.opts[-1]}`", f"`{field.name}`", _values(option), default, effects[field.name]])
    return _table(rows)


def bounds() -> str:
    """Return the table of what an export of each precision must keep."""
    rows = [["precision", "least cosine with PyTorch", "least share of equal routes", "most accuracy lost, points"]]
    rows += [[name, f"{of.cosine}", f"{of.route_agreement}", f"{of.accuracy_drop}"] for name, of in DEFAULT_BOUNDS.items()]
    return _table(rows)


def open_arguments() -> str:
    """Return the table of the arguments of `EdgeModel.open`, with the option of `mingle-edge run` for each."""
    parameters = inspect.signature(EdgeModel.open).parameters
    effects = named_items(inspect.getdoc(EdgeModel.open) or "", parameters)
    options = {
        parameter.name: parameter.opts[-1] for parameter in _command("run").params if isinstance(parameter, click.Option)
    }
    rows = [["argument", "`mingle-edge run`", "default", "effect"]]
    for name, parameter in parameters.items():
        default = "" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"
        option = f"`{options[name]}`" if options.get(name) else ""
        rows.append([f"`{name}`", option, default, effects[name]])
    return _table(rows)


def commands() -> str:
    """Return a section for every command: what it says of itself, its arguments and its options."""
    parts = []
    group = click.Context(main, info_name="mingle-edge", terminal_width=_WIDTH, **main.context_settings)
    for name in COMMANDS:
        command = _command(name)
        context = click.Context(command, group, info_name=name)
        parts += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts).rstrip()


TABLES = {
    "settings.md": {
        "settings": settings,
        "export options": export_options,
        "bounds": bounds,
        "arguments of open": open_arguments,
    },
    "commands.md": {"commands": commands},
}
"""Page -> its tables, by name."""


def written(page: str) -> str:
    """Return a page of docs/ with its tables as the code has them now."""
    text = (DOCS / page).read_text()
    for name, table in TABLES[page].items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, started, rest = text.partition(start)
        _, ended, after = rest.partition(end)
        if not (started and ended):
            raise ValueError(
                f"docs/{page}: there is no place for the table {name}; write {start.strip()} and {end} where it goes"
            )
        text = f"{before}{start}\n{table()}\n\n{end}{after}"
    return text


def _command(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"mingle_edge.cli.{name}").command
    return command


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def _toml(value: Any) -> str:
    """Return a value as a task file has it."""
    return f"`{str(value).lower() if isinstance(value, bool) else repr(value).replace(chr(39), chr(34))}`"


def _type(name: str, hint: Any) -> str:
    """Return what may be given for a setting, in words."""
    kinds = list(_kinds(hint))
    if name not in RANGES:
        return " or ".join(kinds)
    least, most = RANGES[name]
    return f"{' or '.join(kinds)}, {_number(least)} to {_number(most)}"


def _kinds(hint: Any) -> Iterator[str]:
    names = {int: "whole number", float: "number", bool: "`true` or `false`"}
    if hint in names:
        yield names[hint]
        return
    for argument in get_args(hint):
        yield from _kinds(argument) if not isinstance(argument, str) else [_toml(argument)]


def _number(value: float) -> str:
    if value == int(value):
        whole = int(value)
        power = whole.bit_length() - 1
        if whole >= 1 << 16:
            return (
                f"2^{power}" if whole == 1 << power else f"2^{power + 1} - 1" if whole + 1 == 1 << (power + 1) else f"{whole:,}"
            )
        return str(whole)
    return "below 1" if 0.99 < value < 1 else f"{value:g}"


def _values(option: click.Option) -> str:
    """Return what an option takes, in words."""
    kind = option.type
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        number = "whole number" if isinstance(kind, click.IntRange) else "number"
        return f"{number}, {kind.min:g} or more" if kind.max is None else f"{number}, {kind.min:g} to {kind.max:g}"
    return f"`{option.metavar}`" if option.metavar else "text"


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / name).write_text(written(name))
