"""Names of classes in data: the same name in another spelling is taken, one that is only like it is suggested."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingle_edge.core.errors import ImageFolderError
from mingle_edge.data.class_matching import match_classes, named_classes, suggestion, written_classes

CLASSES = ["annual crop", "caf\u00e9", "Jell\u00f8 \u00c5", "\ud55c\uad6d", "7"]
FORMS = st.sampled_from(("NFC", "NFD"))
SPACES = st.sampled_from(("", " ", "\t", "\u00a0"))


@given(st.lists(st.tuples(st.sampled_from(CLASSES), FORMS, SPACES, SPACES), min_size=1))
def test_a_name_is_the_same_however_it_is_composed_and_whatever_is_around_it(
    written: list[tuple[str, str, str, str]],
) -> None:
    names = [before + unicodedata.normalize(form, name) + after for name, form, before, after in written]
    assert [CLASSES[named_classes(names, CLASSES, "file")[name]] for name in names] == [name for name, *_ in written]
    for name, (said, *_) in zip(names, written, strict=True):
        assert match_classes([name], CLASSES) == {said: name}


@given(st.sampled_from(CLASSES[:2]), st.sampled_from((str.upper, str.title, lambda name: name.replace(" ", "_") + "_")))
def test_what_differs_in_case_spaces_or_underscores_is_refused_with_the_class_it_is_like(name: str, change: object) -> None:
    changed = change(name)  # type: ignore[operator]
    assert match_classes([changed], CLASSES) == {}
    with pytest.raises(ImageFolderError, match=rf"file has '.*', which is no class \(did you mean '{name}'"):
        named_classes([changed], CLASSES, "file")


def test_names_far_from_all_are_refused_without_a_guess() -> None:
    assert suggestion("lighthouse", CLASSES) == ""
    assert suggestion("anual crop", CLASSES) == " (did you mean 'annual crop'?)"


def test_two_classes_that_are_one_name_when_composed_are_not_told_apart_by_another_spelling() -> None:
    classes = ["caf\u00e9", "cafe\u0301"]
    assert named_classes(classes, classes, "file") == {"caf\u00e9": 0, "cafe\u0301": 1}
    with pytest.raises(ImageFolderError, match="which is no class"):
        named_classes(["caf\u00e9 "], classes, "file")


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        (["1", "0", "1"], ["a", "b"], [1, 0, 1]),
        (["1", "0", "1"], ["1", "0"], [0, 1, 0]),
        (["b", "a"], ["a", "b"], [1, 0]),
        ([" 0", "1 "], ["a", "b"], [0, 1]),
    ],
)
def test_text_is_names_or_else_numbers(values: list[str], classes: list[str], numbers: list[int]) -> None:
    assert written_classes(values, classes, "file") == numbers


@pytest.mark.parametrize("values", [["0", "a"], ["2"], ["-1"], ["1.0"], ["\u0661"], ["9" * 5000], [""]])
def test_labels_that_are_no_class(values: list[str]) -> None:
    with pytest.raises(ImageFolderError, match=r"file has (label -?\d|').*(which is no class|numbered from 0 to 1)"):
        written_classes(values, ["a", "b"], "file")
