"""Make names fit a drawing or a line of text: shorter, and not one over another."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(text: str, length: int) -> str:
    """Return at most `length` characters; what is left out is the middle, since names of variants differ at their ends."""
    if len(text) <= length:
        return text
    kept = max(length - 2, 0)
    return f"{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}"[:length]


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places close to the wanted ones, at least `gap` apart and in the same order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[list[int], float]] = []  # members from the least to the greatest, and their middle
    for i in order:
        members, middle = [i], wanted[i]
        while groups and groups[-1][1] + gap * (len(groups[-1][0]) + len(members)) / 2 > middle:
            members = groups.pop()[0] + members
            middle = sum(wanted[j] for j in members) / len(members)
        groups.append((members, middle))
    return [
        middle + gap * (members.index(i) - (len(members) - 1) / 2)
        for i in range(len(wanted))
        for members, middle in groups
        if i in members
    ]
