"""Values of every type in every place of a task file: what is wrong is one short error that says where it is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mingle_edge.core.errors import TaskFileError, shown
from mingle_edge.data.settings import RANGES, Settings
from mingle_edge.data.task_file import read_task_file

HUGE = f"0x{'f' * 5000}"  # Python writes no such number in decimal digits
VALUES = (
    *("1", "-1", HUGE, "1.5", "nan", "-inf", "1e300", "true", "1979-05-27T07:32:00Z", "07:32:00", "[]", "[[]]", "[{}]", "{}"),
    *('""', '" "', r'"\u0000"', r'"\u001b[2J"', f'"{"a" * 6000}"', f"'{'../' * 2000}a'", '"**.parquet"', '"/dev/zero"'),
    *('{files = "seeds", share = [nan, 1]}', '{files = "seeds", share = "01"}', '["a", "a"]', '[nan, "a"]', '"hf://\\u0000"'),
)
TASK_KEYS = ("name", "weights", "seeds", "seeds_per_class", "classes", "templates", "head", "test", "tune", "", "x" * 2000)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "seeds").mkdir()
    (folder / "a.safetensors").touch()
    return folder


def outcome(base: Path, backbone: dict[str, str], task: dict[str, str], settings: str = "") -> str:
    """The error of a task file with these values, which are TOML; empty where it is read."""

    def table(values: dict[str, str]) -> str:
        return "".join(f'"{key}" = {value}\n' for key, value in values.items())

    text = f"[backbone]\n{table(backbone)}[settings]\n{settings}\n[[task]]\n{table(task)}"
    path = base / "tasks.toml"
    path.write_text(text, encoding="utf-8")
    try:
        Settings.from_mapping(read_task_file(path).settings, str(path))
    except TaskFileError as error:
        return str(error)
    return ""


BACKBONE = {"model": '"ViT-B-32"', "weights": '"openai"'}
TASK = {"name": '"sea"', "weights": '"a.safetensors"', "seeds": '"seeds"', "classes": '["calm", "rough"]'}


def test_the_file_the_others_change_is_sound(base: Path) -> None:
    assert outcome(base, BACKBONE, TASK, "rank = 8") == ""


@pytest.mark.parametrize("key", TASK_KEYS)
def test_any_value_in_a_task(base: Path, key: str) -> None:
    refused = list(filter(None, (outcome(base, BACKBONE, TASK | {key: value}) for value in VALUES)))
    assert len(refused) >= len(VALUES) - 4  # few keys take more than two of them
    for message in refused:
        assert message.startswith(str(base / "tasks.toml"))
        assert len(message) < 1000 + 2 * 6000 * ("names" in message)  # a path is told whole
        assert "\0" not in message


@pytest.mark.parametrize("key", ["model", "weights"])
def test_any_value_in_the_backbone(base: Path, key: str) -> None:
    for value in VALUES:
        message = outcome(base, BACKBONE | {key: value}, TASK)
        assert message.startswith(str(base / "tasks.toml")) or value.startswith('"')  # an unknown name is found out later


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_any_value_in_the_settings(base: Path, name: str) -> None:
    allowed = {"true"} if Settings.__annotations__[name] == "bool" else {"1", "1.5"} if name in RANGES else set()
    for value in VALUES:
        message = outcome(base, BACKBONE, TASK, f"{name} = {value}")
        assert (f" {name} " in message and len(message) < 600) or value in allowed, value


@pytest.mark.parametrize("name", RANGES)
def test_a_number_is_a_number_in_its_range(name: str) -> None:
    for value in (True, float("nan"), float("inf"), -float("inf"), 1e300, 10**400, 10**6000, -(10**6000), "1", None):
        with pytest.raises(TaskFileError, match=rf"\[settings\]: {name} must"):
            Settings.from_mapping({name: value})
    for end in RANGES[name]:
        assert getattr(Settings.from_mapping({name: end}), name) == end


def test_a_setting_that_python_could_not_even_name() -> None:
    with pytest.raises(TaskFileError, match="there is no setting 'xxx"):
        Settings.from_mapping({"x" * 10**6: 1})


def test_values_are_shown_short_whatever_they_are() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("a" * 10**6, 10**6000, nested):
        assert len(shown(value)) < 70
    assert shown([1, "a"]) == "[1, 'a']"
    while nested:  # taken apart by hand, as Python's own way is recursive
        nested = nested.pop()


@pytest.mark.parametrize("key", ["classes", "templates"])
def test_words_that_a_tokenizer_would_take_hours_for(base: Path, key: str) -> None:
    message = outcome(base, BACKBONE, TASK | {key: f'["{"a{}" * 500_000}"]'})
    assert f"{key} holds 'a{{}}a{{}}" in message
    assert "of 1500000 characters; shorten it to 1000 at most" in message


def test_thousands_of_classes_are_read_at_once(base: Path) -> None:
    """Twenty thousand names compared pair by pair would take a minute."""
    names = [f"class {number}" for number in range(20_000)]
    (base / "many.txt").write_text("\n".join(names))
    assert outcome(base, BACKBONE, TASK | {"classes": '"many.txt"'}) == ""
    (base / "many.txt").write_text("\n".join([*names, names[7]]))
    assert "holds the class 'class 7' twice" in outcome(base, BACKBONE, TASK | {"classes": '"many.txt"'})
