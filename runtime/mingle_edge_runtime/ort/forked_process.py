"""Processes that were forked from one that had a bundle open.

A fork copies memory and leaves every thread but one behind: ONNX Runtime's threads are not there to run, nor to be waited for
when a session ends, so using or freeing a session of the parent hangs. Here such sessions are never freed in a child.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_in_forked_children(session: Any) -> None:
    """Let a forked child neither free `session` nor wait for its threads, even when it ends."""
    _sessions.add(session)


def _keep() -> None:
    import ctypes  # in children alone

    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # modules, and lists in them, are cleared as a process ends


os.register_at_fork(after_in_child=_keep)
