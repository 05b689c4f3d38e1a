"""Which class of a task a folder, or a label in words or numbers, belongs to: that of the same name, never one only like it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mingle_edge.core.errors import ImageFolderError, shown

_NEAREST = 3  # names that a message suggests
_SEARCHED = 2000  # names compared letter by letter for a suggestion
_DIGITS = 18  # of a label that is read as a number


def normalized(name: str) -> str:
    """Return the name that two spellings of one share: composed, without spaces around it.

    File systems and archives of macOS take letters and their accents apart.
    """
    return unicodedata.normalize("NFC", name).strip()


def match_classes(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return class -> name, for all that match exactly, or when normalized with one candidate each."""
    there, wanted = set(names), set(classes)
    matched = {name: name for name in classes if name in there}
    twins, rivals = _grouped(there - wanted), _grouped(wanted - there)
    for key, rival in rivals.items():
        candidates = twins.get(key, [])
        if len(candidates) == len(rival) == 1:
            matched[rival[0]] = candidates[0]
    return matched


def named_classes(names: Iterable[str], classes: Sequence[str], where: str) -> dict[str, int]:
    """Return the number of the class that each name says.

    Raises:
        ImageFolderError: a name that is no class; the nearest classes are named.
    """
    numbers = {key: [classes.index(name) for name in same] for key, same in _grouped(classes).items()}
    exact = {name: number for number, name in enumerate(classes)}
    found: dict[str, int] = {}
    for name in sorted(set(names)):
        same = [exact[name]] if name in exact else numbers.get(normalized(name), [])
        if len(same) != 1:
            raise ImageFolderError(
                f"{where} has {shown(name)}, which is no class{suggestion(name, classes)}; correct the classes, or the labels"
            )
        found[name] = same[0]
    return found


def written_classes(values: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Return the class numbers of labels in text: names of classes, or else, if all are whole numbers, places in `classes`.

    Raises:
        ImageFolderError: a label that is neither.
    """
    known = {normalized(name) for name in classes}
    written = {value: normalized(value) for value in set(values)}
    numbers = {value: number for value, text in written.items() if (number := _whole_number(text)) is not None}
    if len(numbers) < len(written) or all(text in known for text in written.values()):
        found: Mapping[str, int] = named_classes(written, classes, where)
    else:
        found = numbers
        check_numbers(numbers.values(), classes, where)
    return [found[value] for value in values]


def check_numbers(numbers: Iterable[int], classes: Sequence[str], where: str) -> None:
    """Raise `ImageFolderError` for a label that is no place in `classes`."""
    for number in numbers:
        if not 0 <= number < len(classes):
            raise ImageFolderError(
                f"{where} has label {number}, and the {len(classes)} classes of the task are numbered from 0 to "
                f"{len(classes) - 1}; correct the classes, or name another column of labels"
            )


def suggestion(name: str, among: Sequence[str]) -> str:
    """Return a question after the nearest names, as part of a message; empty where none is near."""
    key = folded(name)
    near = [other for other in among if folded(other) == key]
    near = near or difflib.get_close_matches(name[:100], among[:_SEARCHED], n=_NEAREST, cutoff=0.75)
    return f" (did you mean {' or '.join(shown(other) for other in near[:_NEAREST])}?)" if near else ""


def folded(name: str) -> str:
    """Return what names share that differ at most in case, spaces, dashes and underscores."""
    return " ".join(normalized(name).replace("_", " ").replace("-", " ").split()).casefold()


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(normalized(name), []).append(name)
    return grouped


def _whole_number(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS else None
