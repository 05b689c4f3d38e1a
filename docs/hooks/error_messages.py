"""Every error message of the packages, read from their source: what a value stands in for is written `…`."""

from __future__ import annotations

import ast
import html
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
PACKAGES = ("mingle_edge", "export/mingle_edge_export", "runtime/mingle_edge_runtime", "server/mingle_edge_server")
TREES = ("MingleError", "ExportError", "EdgeError", "ServerError")
NOT_OF_A_TREE = ("Exception", "ValueError", "ClickException")
VALUE = "…"
NEXT_STEPS = (
    *("ask", "call", "choose", "compare", "convert", "copy", "create", "do", "export", "free", "give", "leave", "make"),
    *("measure", "merge", "name", "open", "profile", "run", "send", "start", "try", "upgrade", "use"),
)
"""Words that the next step begins with."""
RULE = re.compile(r"\b(must|needs|at most|at least|one of|paths are|is no name|can only|twice)\b")
"""A message that states a rule: what to do is to follow it."""
WAYS_OUT = {
    "BundleError": "copy the bundle again, or export it again",
    "BudgetError": "set a larger budget, or none",
    "CheckpointError": "copy or save the checkpoint again",
    "DeviceDiffersError": "do not serve this bundle on this device until `verify` ends with 0",
    "ExpertError": "copy the bundle again, or free memory where the reason is memory",
    "HeadError": "make the head again",
    "HubError": "correct the name, or fill the cache",
    "ImageError": "replace the image, or leave it out",
    "ImageFolderError": "mend what the reason names",
    "MergedModelError": "give the folder of a merged model, or restore it",
    "OutputError": "name another file or folder",
    "ProviderError": "install what the message names",
    "RegressionError": "do not ship the bundle before you know why",
    "RequestError": "correct the request",
    "TaskFileError": "correct the task file where the reason says",
}
"""Error class -> what to do where a message of it names the reason alone."""
FEWEST_WORDS = 3
"""A template with fewer words is one that a function fills in, whose calls have the words."""


def error_classes(package: str) -> dict[str, str]:
    """Return the error classes of a package that reach its users -> what each docstring says."""
    return {
        node.name: ast.get_docstring(node) or ""
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_")
        if node.name in TREES or {_name(base) for base in node.bases}.isdisjoint(NOT_OF_A_TREE)
    }


def error_messages(package: str) -> dict[str, list[str]]:
    """Return the messages of every error class that a package raises, in the order of the source, each once."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / package).rglob("*.py"))]
    makers = {
        node.name: (name, node)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (name := _name(node.returns)).endswith("Error")
    }
    within = {id(node) for _, maker in makers.values() for node in ast.walk(maker)}
    messages: dict[str, list[str]] = defaultdict(list)
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or id(node) in within:
                continue
            called = _name(node.func)
            raised, maker = makers.get(called, (called, None))
            if not raised.endswith("Error"):
                continue
            arguments = [part for argument in node.args if (part := _template(argument))]
            template = _filled(maker, arguments) if maker else " ".join(arguments)
            if len(re.findall(r"[A-Za-z]{2,}", template)) >= FEWEST_WORDS and template not in messages[raised]:
                messages[raised].append(template)
    return messages


def error_tables() -> str:
    """Return Markdown: for every error class of every package a table of its messages and what each says to do."""
    lines: list[str] = []
    for package in PACKAGES:
        documented = error_classes(package)
        lines += ["", f"## {Path(package).name}"]
        for raised, messages in sorted(error_messages(package).items()):
            if not messages or raised not in documented:
                continue
            lines += [
                "",
                f"### {raised}",
                "",
                documented[raised].splitlines()[0],
                "",
                "| message | what to do |",
                "| --- | --- |",
            ]
            for what, way_out in map(_parts, messages):
                usual = (
                    "give what this rule allows" if RULE.search(what) else WAYS_OUT.get(raised, "mend what the message names")
                )
                if re.search(r"\w", what):
                    lines.append(f"| {_cell(what)} | {_cell(way_out or usual)} |")
    return "\n".join(lines)


def _filled(maker: ast.FunctionDef, arguments: list[str]) -> str:
    """Return the message that a function makes of its arguments, as far as its source shows it."""
    names = [argument.arg for argument in maker.args.args if argument.arg not in ("self", "cls")]
    given = dict(zip(names, arguments, strict=False))
    for node in ast.walk(maker):
        if isinstance(node, ast.Call) and _name(node.func).endswith("Error") and node.args:
            return " ".join(_template(argument, given) for argument in node.args)
    return " ".join(arguments)


def _parts(message: str) -> tuple[str, str]:
    """Split a message into what is wrong and the next step, which stands behind its last semicolon, or its last colon."""
    if "; " in message:
        what, _, way_out = message.rpartition("; ")
        return what, "as the message says" if way_out == VALUE else way_out
    what, _, way_out = message.rpartition(": ")
    return (what, way_out) if what and way_out.split()[0] in NEXT_STEPS else (message, "")


def _cell(text: str) -> str:
    """Return a text that Markdown shows as it is, in a table."""
    escaped = re.sub(r"([\\`*_|\[\]])", r"\\\1", " ".join(text.split()))
    return html.escape(escaped, quote=False)


def _name(node: ast.expr | None) -> str:
    """Return the last part of a name, as in `errors.ImageError`; nothing of any other expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _template(node: ast.expr, given: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the text of an expression, with `VALUE` for what only a run knows and is not among `given` names."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part, given) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, given)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left, given) + _template(node.right, given)
    return given.get(_name(node), VALUE)
