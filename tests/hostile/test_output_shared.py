"""Output folders that two processes write in, or that hold what is a user's: nothing is lost, and nothing of others touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from special_files import bound_by_modes
from tiny_merged import write_merged

from mingle_edge.core.errors import MergedModelError
from mingle_edge.demo.demo import MARK, DemoFolderError, run_demo
from mingle_edge.files.atomic_files import RefusedFolderError, replacing, write_text
from mingle_edge.files.folder_lock import LOCK, locked
from mingle_edge.files.partial_folder import abandoned, is_partial, partial_folder, partial_folders
from mingle_edge.merging import merge as merging
from mingle_edge.merging.merge import merge
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import OutputError, export_bundle
from mingle_edge_runtime.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A merged model to export."""
    return write_merged(tmp_path_factory.mktemp("model") / "merged", tasks=2).path


def one_task(task_file, number):
    """A task file of a single one of the tasks."""
    parts = task_file.read_text().split("[[task]]")
    path = task_file.with_name(f"only-{number}.toml")
    path.write_text(f"{parts[0]}[[task]]{parts[number + 1]}")
    return path


def fill(folder):
    """What may be a user's: a folder and a file in it."""
    folder.mkdir(parents=True)
    (folder / "precious").write_text("mine")


def test_a_second_merge_is_refused_and_told_who_the_first_is(task_file, tmp_path):
    refused = []

    def second(stage, *_):
        if stage == "merge" and not refused:
            for into in (False, True):
                with pytest.raises(MergedModelError) as caught:
                    merge(one_task(task_file, 1), tmp_path / "m", into=into)
                refused.append(str(caught.value))

    merge(one_task(task_file, 0), tmp_path / "m", progress=second)
    assert len(refused) == 2
    for message in refused:
        assert message.startswith(f"{tmp_path / 'm'}: another merge is writing here (process {os.getpid()} on ")
        assert message.endswith("); wait for it or name another folder")
    assert MergedModel.open(tmp_path / "m").task_names == ["task0"]
    assert not (tmp_path / "m" / LOCK).exists()


def test_a_task_committed_while_a_merge_waits_for_its_turn_is_kept(task_file, tmp_path, monkeypatch):
    merge(one_task(task_file, 0), tmp_path / "m")

    @contextmanager
    def late(path, work):
        monkeypatch.setattr(merging, "locked", locked)
        merge(one_task(task_file, 1), tmp_path / "m", into=True)  # another process, between this one's start and its lock
        with locked(path, work):
            yield

    monkeypatch.setattr(merging, "locked", late)
    merge(one_task(task_file, 2), tmp_path / "m", into=True)
    assert MergedModel.open(tmp_path / "m").task_names == ["task0", "task1", "task2"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_second_export_is_refused(merged, tmp_path, exists):
    if exists:
        (tmp_path / "bundle").mkdir()
    refused = []

    def second(*_):
        if not refused:
            with pytest.raises(OutputError, match=rf"another export is writing here \(process {os.getpid()} on .+, since 2"):
                export_bundle(merged, tmp_path / "bundle")
            refused.append(True)

    export_bundle(merged, tmp_path / "bundle", progress=second)
    assert refused
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_lock_that_no_process_holds_stops_nobody(tmp_path):
    for left in (b"", b'{"form', bytes(90), json.dumps({"format": "mingle-edge lock", "process": 1}).encode()):
        (tmp_path / LOCK).write_bytes(left)
        with locked(tmp_path / LOCK, "merge"):
            pass
        assert not list(tmp_path.iterdir())


def test_a_lock_that_is_not_ours_is_left_alone(tmp_path):
    path = tmp_path / LOCK
    target = tmp_path / "precious"
    target.write_text("mine")
    for make in (lambda: path.write_text("mine"), lambda: path.symlink_to(target), lambda: os.mkfifo(path), path.mkdir):
        make()
        with pytest.raises(OSError, match=r"lock"), locked(path, "merge"):
            pass
        assert os.path.lexists(path)
        path.rmdir() if path.is_dir() else path.unlink()
    assert target.read_text() == "mine"


def test_a_lock_removed_meanwhile_is_not_taken_from_its_next_holder(tmp_path):
    with locked(tmp_path / LOCK, "first"):
        (tmp_path / LOCK).unlink()
        with locked(tmp_path / LOCK, "second"):
            held = (tmp_path / LOCK).stat().st_ino
            with pytest.raises(RefusedFolderError, match="another second"), locked(tmp_path / LOCK, "third"):
                pass
            assert (tmp_path / LOCK).stat().st_ino == held


def test_names_that_once_were_temporary_are_a_users(merged, task_file, tmp_path):
    names = ".bundle.partial", ".bundle.0123456789abcdef0123.partial"
    for name in names[:1]:
        fill(tmp_path / "elsewhere" / name)
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    fill(tmp_path / names[1])
    export_bundle(merged, tmp_path / "bundle")
    merge(one_task(task_file, 0), tmp_path / "m")
    for name in (".mingle.json.tmp", ".router.safetensors.tmp"):
        (tmp_path / "m" / name).symlink_to(tmp_path / names[1] / "precious")
    merge(one_task(task_file, 1), tmp_path / "m", into=True)
    assert (tmp_path / "elsewhere" / names[0] / "precious").read_text() == "mine"
    assert (tmp_path / names[1] / "precious").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {*names, "elsewhere", "bundle", "m"}


def test_temporary_names_are_ours_by_a_check_and_never_the_same(tmp_path):
    with partial_folder(tmp_path, "b") as first, partial_folder(tmp_path, "b") as second, partial_folder(tmp_path, "ü" * 120):
        assert first != second
        assert all(is_partial(path.name) for path in tmp_path.iterdir())
        random = first.name.split(".")[2]
        flipped = f"{int(random[0], 16) ^ 1:x}{random[1:]}"
        for name in (first.name.replace(random, flipped), first.name.replace(".b.", ".c."), f"x{first.name}", f"{first.name}x"):
            assert not is_partial(name)
        assert list(abandoned(tmp_path)) == []  # all three are in use
        assert len(partial_folders(tmp_path)) == 3
    assert list(tmp_path.iterdir()) == []


def test_remains_are_removed_and_links_in_them_are_not_followed(tmp_path):
    fill(tmp_path / "mine")
    with partial_folder(tmp_path, "b") as folder:
        name = folder.name
    for place in ("", "other"):
        (tmp_path / place / name).mkdir(parents=True)
        (tmp_path / place / name / "link").symlink_to(tmp_path / "mine")
    with partial_folder(tmp_path, "another name"):
        assert (tmp_path / name).exists()
    with partial_folder(tmp_path, "b"):
        assert not (tmp_path / name).exists()
    (tmp_path / name).symlink_to(tmp_path / "mine")  # the name is ours, and the thing is not
    with partial_folder(tmp_path, "b"):
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "mine/precious").read_text() == "mine"
    assert (tmp_path / "other" / name).exists()


def test_a_backbone_that_lies_in_the_folder_is_a_users(task_file, tmp_path):
    (tmp_path / "backbone.safetensors").write_text("mine")
    with pytest.raises(MergedModelError, match=r"must be new or empty, and holds backbone\.safetensors"):
        merge(task_file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_and_folders_have_the_mode_of_the_umask(merged, task_file, tmp_path, mask):
    before = os.umask(mask)
    try:
        merge(one_task(task_file, 0), tmp_path / "m")
        export_bundle(merged, tmp_path / "bundle")
        write_text(tmp_path / "report.json", "{}")
        with replacing(tmp_path / "private") as path:
            path.unlink()
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors and tempfile do
    finally:
        os.umask(before)
    wrong = {
        path.name: oct(mode)
        for path in tmp_path.rglob("*")
        if (mode := stat.S_IMODE(path.stat().st_mode)) != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert not wrong


def test_an_existing_folder_keeps_its_place(merged, tmp_path, monkeypatch):
    """As a mount point must, and as the shell that stands in it expects."""
    (tmp_path / "here").mkdir()
    before = (tmp_path / "here").stat()
    (tmp_path / "here/lost+found").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def rename(source, target, original=os.rename):
        if Path(target) == tmp_path / "here":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    export_bundle(merged, ".")
    assert os.path.samestat(before, (tmp_path / "here").stat())
    Bundle.open(".").verify_hashes()
    assert not [name for name in os.listdir(".") if name.startswith(".")]
    assert os.listdir(tmp_path) == ["here"]


def test_a_folder_of_ones_own_in_one_that_is_not(merged, task_file, open_folder):
    shutil.copytree(merged, open_folder / "merged")
    tasks = Path(shutil.copytree(one_task(task_file, 0).parent, open_folder / "tasks"))
    tasks.chmod(0o755)
    (open_folder / "bundle").mkdir()
    (open_folder / "bundle").chmod(0o777)
    with bound_by_modes():
        if os.geteuid() != 0 and os.stat(open_folder).st_uid == os.geteuid():
            open_folder.chmod(0o555)
        export_bundle(open_folder / "merged", open_folder / "bundle")
        denied = r"cannot be written \(Permission denied\); check who may write there"
        with pytest.raises(OutputError, match=f"other: {denied}"):
            export_bundle(open_folder / "merged", open_folder / "other", progress=lambda *_: pytest.fail("this is work"))
        with pytest.raises(MergedModelError, match=denied):
            merge(tasks / "only-0.toml", open_folder / "other")
    Bundle.open(open_folder / "bundle").verify_hashes()


def test_a_report_goes_through_a_users_link_and_into_what_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").write_text("old")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_a_report_that_is_not_finished_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "report.json", "old")

    def stop(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "report.json", "new")
    assert (tmp_path / "report.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_demonstration_replaces_an_earlier_one_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("mingle_edge.demo.demo.run_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    fill(tmp_path / "mine")
    with pytest.raises(DemoFolderError, match="must be new, empty or an earlier demo, and holds precious"):
        run_demo(tmp_path / "mine")
    for _ in range(2):  # the second finds what an interrupted one left
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "demo")
        assert os.listdir(tmp_path / "demo") == [MARK]
        (tmp_path / "demo/link").symlink_to(tmp_path / "mine")
    with locked(tmp_path / "demo" / LOCK, "demo"), pytest.raises(DemoFolderError, match="another demo is writing here"):
        run_demo(tmp_path / "demo")
    assert (tmp_path / "mine/precious").read_text() == "mine"


def test_the_space_a_merge_needs_is_what_it_takes(task_file, layer_task_file, tmp_path, monkeypatch):
    """At its last save the files with rows of every task are there twice."""
    needed = []
    monkeypatch.setattr(merging, "bytes_to_write", lambda *given, real=merging.bytes_to_write: needed.append(real(*given)) or 0)
    for number, file in enumerate((task_file, layer_task_file)):
        place, before = tmp_path / str(number), 0
        for into in (False, True):
            model = merge(one_task(file, 1) if into else one_task(file, 0), place, into=into)
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            rows = sum(path.stat().st_size for path in place.glob("*.safetensors") if path.name != "backbone.safetensors")
            peak = size + (rows // 2 if into else 0)  # the rows of one task, when those of both are written
            taken, wanted = peak - before, needed.pop() - (1 << 20)
            assert taken - 20_000 < wanted < 1.5 * taken, (model.scope, into, taken, wanted)
            before = size
    assert np.all(needed == [])
