"""kill -9 before and after every operation on the file system of merge, merge --into and export, and inside saves.

Whatever the moment: what was there is intact, the command repeats, and its result is that of a run that nothing interrupted.
"""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from kill_points import kill, operations, state
from tiny_tasks import TASKS, write_tasks

from mingle_edge.core.errors import MergedModelError
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import OutputError, export_bundle
from mingle_edge_export.check import parity
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.errors import EdgeError


class Merge:
    """`merge -o` of one task, or `--into` a model of one of a second."""

    def __init__(self, task_file: Path, model: Path | None) -> None:
        self.task_file, self.before = task_file, model

    def prepare(self, place: Path) -> None:
        """What is there before."""
        if self.before:
            shutil.copytree(self.before, place / "model")

    def run(self, place: Path) -> None:
        """The command."""
        merge(self.task_file, place / "model", into=self.before is not None)

    repeat = run

    def check_killed(self, place: Path) -> None:
        """What was merged before is there, and what is there is whole."""
        if self.before is None and not (place / "model/mingle.json").exists():
            with pytest.raises(MergedModelError, match="not a merged model"):
                MergedModel.open(place / "model")
            return
        model = MergedModel.open(place / "model")
        kept = [TASKS[0]] if self.before else []
        assert model.task_names in (kept, [*kept, TASKS[len(kept)]])
        model.backbone()
        for name in model.task_names:
            assert model.router_statistics(name).count == 2
            model.expert(name)
            model.head(name)
        for name, content in state(self.before).items() if self.before else ():
            if name.startswith(("experts/", "heads/", "backbone")):
                assert state(place / "model")[name] == content, name


class Export:
    """`export` to a folder that is not there yet, or to an empty one."""

    def __init__(self, model: Path, *, exists: bool) -> None:
        self.model, self.exists = model, exists

    def prepare(self, place: Path) -> None:
        """What is there before."""
        (place / "precious").mkdir()
        (place / "precious/file").write_text("mine")
        if self.exists:
            (place / "bundle").mkdir()

    def run(self, place: Path) -> None:
        """The command."""
        export_bundle(self.model, place / "bundle")

    def repeat(self, place: Path) -> None:
        """The same command again; where only the remains of the first were left to clear, it says that the bundle is there."""
        done = (place / "bundle/bundle.json").exists()
        with pytest.raises(OutputError, match="must be new or empty") if done else nullcontext():
            self.run(place)

    def check_killed(self, place: Path) -> None:
        """There is a whole bundle or none."""
        assert (place / "precious/file").read_text() == "mine"
        if (place / "bundle/bundle.json").exists():
            Bundle.open(place / "bundle").verify_hashes()
        else:
            assert self.exists or not (place / "bundle").exists()
            with pytest.raises(EdgeError):
                Bundle.open(place / "bundle")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """The commands by name."""
    folder = tmp_path_factory.mktemp("inputs")
    first, both = write_tasks(folder)
    merge(first, folder / "one")
    merge(both, folder / "two")
    return {
        "merge": Merge(first, None),
        "into": Merge(both, folder / "one"),
        "export": Export(folder / "two", exists=False),
        "export-existing": Export(folder / "two", exists=True),
    }


@pytest.fixture
def case(request, cases, tmp_path, monkeypatch):
    """One of them, with what an uninterrupted run of it does and leaves."""
    case = cases[request.param]
    place = tmp_path / "uninterrupted"
    place.mkdir()
    case.prepare(place)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill leaves what the kernel has, and no power fails here
    # What is computed to compare with PyTorch is written nowhere: that once is enough.
    compared = []
    with monkeypatch.context() as patched:
        check = parity.check_parity
        patched.setattr(parity, "check_parity", lambda *given: compared.append(check(*given)) or compared[0])
        case.operations = operations(lambda: case.run(place))
    if compared:
        monkeypatch.setattr(parity, "check_parity", lambda *_: compared[0])
    case.result = state(place)
    assert not [name for name in case.result if "/." in f"/{name}"]
    return case


def survives(case, place, number, seen, **how):
    """That all holds after a kill; a state of the disk that was seen before needs no second repetition."""
    place.mkdir()
    case.prepare(place)
    kill(lambda: case.run(place), number, **how)
    case.check_killed(place)
    left = tuple(state(place).items())
    if left not in seen:
        seen.add(left)
        case.repeat(place)
        assert state(place) == case.result, f"killed at operation {number} of {case.operations}, {how}"
    shutil.rmtree(place)


@pytest.mark.parametrize("case", ["merge", "into", "export", "export-existing"], indirect=True)
def test_killed_before_and_after_every_operation(case, tmp_path):
    names, seen = case.operations, set()
    assert {"mkdir", "fsync", "unlink", "open"} < set(names)
    assert {"rename", "replace"} & set(names)
    for number in range(len(names) + 1):
        survives(case, tmp_path / "killed", number, seen)
    assert len(seen) > len(names) / 4


@pytest.mark.parametrize("case", ["merge", "into"], indirect=True)
def test_killed_inside_every_save(case, tmp_path):
    saves, seen = case.operations.count("save_file"), set()
    for number in range(saves):
        survives(case, tmp_path / "killed", number, seen, of="save_file", inside=100)
    assert len(seen) == saves


@pytest.mark.parametrize("case", ["export", "export-existing"], indirect=True)
def test_killed_inside_writing_a_bundle(case, tmp_path):
    for size in (100, max(map(len, case.result.values())) // 2):
        survives(case, tmp_path / "killed", 0, set(), inside=size)
