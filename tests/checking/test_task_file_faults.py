"""Reading a task file part by part finds a fault where the reader of whole files does, and only there."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_clip import write_task_file

from mingle_edge.checking import task_file_faults
from mingle_edge.checking.report import Findings
from mingle_edge.core.errors import MingleError
from mingle_edge.data.task_file import TaskFile, parse_task_file

JUNK: list[Any] = [
    *(3, -1, True, 0.5, "", " ", "x\x00y", "nowhere/at/all", "hf://", "hf://datasets/a", "a/<class>/<class>/*"),
    *([], ["a", "a"], [1], ["{}"], {}, {"files": 3}, {"files": "seeds/task0", "share": [0.9, 0.1]}, {"fils": "x"}, "TASK0"),
]
KEYS = [
    "name",
    "weights",
    "seeds",
    "seeds_per_class",
    "classes",
    "templates",
    "head",
    "test",
    "tune",
    "model",
    "rank",
    "scope",
    "x",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_file(tmp_path_factory.mktemp("sound"), tasks=2, tune=True, rank=4)


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    """Up to four changes: the table, the key, and what it becomes; None where it goes."""
    table = st.sampled_from(["", "backbone", "settings", "0", "1"])
    return draw(st.lists(st.tuples(table, st.sampled_from(KEYS), st.sampled_from([None, *JUNK])), min_size=1, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(changes=damages())
def test_there_are_faults_where_the_whole_is_refused(
    sound: Path, monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, str, Any]]
) -> None:
    document = tomllib.loads(sound.read_text())
    tables = {"": document, "backbone": document["backbone"], "settings": document["settings"]}
    tables |= {"0": document["task"][0], "1": document["task"][1]}
    for table, key, value in changes:
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value
    with monkeypatch.context() as patched:
        patched.setattr(task_file_faults, "read_document", lambda path: copy.deepcopy(document))
        faults = Findings()
        readable = task_file_faults.read_all_faults(sound, faults)
    whole: TaskFile | MingleError
    try:
        whole = parse_task_file(sound, document)
    except MingleError as error:
        whole = error
    if isinstance(whole, MingleError):
        assert faults, (str(whole), document)
        assert len(faults) <= 2 * len(changes), (faults, document)
    else:
        assert not faults
        assert [task.source for task in readable.tasks] == whole.tasks
        assert readable.backbone == whole.backbone


@pytest.mark.parametrize("key", ["weights", "seeds", "head", "test", "classes", "templates"])
def test_a_broken_key_hides_no_other_of_its_task(sound: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    document = tomllib.loads(sound.read_text())
    document["task"][0] |= {key: "nowhere/x.txt", "tune": 3}
    monkeypatch.setattr(task_file_faults, "read_document", lambda path: document)
    faults = Findings()
    readable = task_file_faults.read_all_faults(sound, faults)
    assert {message.message.split("'task0' ")[1].split()[0] for message in faults} >= {key, "tune"}
    assert [task.source.name for task in readable.tasks] == ["task0", "task1"]
    assert readable.tasks[0].broken == {key, "tune"}
    assert readable.tasks[1].broken == frozenset()
