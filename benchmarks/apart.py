"""Calls in a process of their own, which has imported and kept in memory nothing but what the call needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_PROGRAM = """
import json, sys
from {module} import {name}
print(json.dumps({name}(*json.loads(sys.argv[1]))))
"""


def call(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of a module, with arguments that JSON can hold, and return its result, which JSON can hold, too."""
    started = sys.modules["__main__"].__spec__  # of `python -m`
    module = started.name if function.__module__ == "__main__" and started else function.__module__
    program = _PROGRAM.format(module=module, name=function.__name__)
    command = [sys.executable, "-c", program, json.dumps(arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
