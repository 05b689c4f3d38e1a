"""How long work reports where it is. The library never prints; whoever calls it decides what to show."""

from typing import Protocol

WARNING = "warning"
"""The stage of a warning, which its detail says; the work goes on."""


class Progress(Protocol):
    """Receives the state of long work."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Take in that `done` of `total` steps of a named stage are finished; `detail` is a short note such as the current
        loss. A stage that begins before another has reached its total is a part of that one.
        """


def silent(stage: str, done: int, total: int, detail: str = "") -> None:
    """Show nothing."""
