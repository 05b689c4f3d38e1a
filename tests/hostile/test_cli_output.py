"""What commands print: names that a terminal cannot show or would obey, readers that went away, images that are broken."""

from __future__ import annotations

import io
import json
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_bundle import Weights, images, rewrite, write_image_bundle

from mingle_edge.cli import main
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.terminal import LossyTerminal, Terminal, one_line
from mingle_edge.files.output_path import write_output
from mingle_edge_runtime import EdgeError, EdgeModel

EVIL = "\x1b]0;owned\x07\x1b[2J\x08\x9b31m\x7f\u202egnp.exe\u2028end"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x08\x9b31m\x7f\u202egnp.exe\u2028end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A bundle, two pictures and a broken one."""
    root = tmp_path_factory.mktemp("output")
    write_image_bundle(root / "bundle", Weights())
    for name, picture in zip(("red", "black"), images(0, 3), strict=True):
        Image.fromarray(picture).save(root / f"{name}.png")
    (root / "broken.png").write_bytes((root / "red.png").read_bytes()[:60])
    return root


def call(*arguments: object, charset: str = "utf-8", color: bool = True) -> Result:
    """Run the command line; with color as on a terminal, where click takes out no escapes."""
    return CliRunner(charset=charset).invoke(main, [os.fsdecode(str(argument)) for argument in arguments], color=color)


def ended(*arguments: object) -> int | str | None:
    """The exit code of the command line on the streams of this process."""
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    return caught.value.code


def labelled(bundle: Path, label: str) -> Path:
    """The bundle, whose first label is now another one."""
    rewrite(bundle, lambda record: record["tasks"][0]["labels"].__setitem__(0, label))
    return bundle


class TestNames:
    def test_one_that_is_no_utf_8_is_shown_with_escapes(self, folder, tmp_path) -> None:
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
        Path(odd).write_bytes((folder / "red.png").read_bytes())
        result = call("run", folder / "bundle", odd)
        assert result.exit_code == 0, result.output
        assert r"caf\udce9.png  (experts: red 1.00)" in result.stdout
        record = json.loads(call("run", folder / "bundle", odd, "--json").stdout)
        assert record["image"] == odd  # as Python names it: json escapes what is no Unicode
        assert r"caf\udcff.png cannot be read" in call("run", folder / "bundle", "caf\udcff.png").stderr

    @pytest.mark.parametrize("charset", ["latin-1", "ascii", "cp1252"])
    def test_labels_that_the_terminal_lacks_are_shown_with_escapes(self, folder, bundle, charset: str) -> None:
        arguments = ("run", labelled(bundle, "\u732b"), folder / "red.png", "--task", "red", "--top", 4)
        result = call(*arguments, charset=charset)
        assert result.exit_code == 0, result.exception
        assert r"\u732b" in result.stdout_bytes.decode("ascii")
        assert "\u732b" in call(*arguments).stdout

    @pytest.mark.parametrize("color", [True, False])
    def test_no_escape_reaches_the_terminal(self, folder, bundle, tmp_path, color: bool) -> None:
        bundle, evil = folder / "bundle", labelled(bundle, EVIL)
        odd = tmp_path / f"{EVIL}.png"
        odd.write_bytes((folder / "red.png").read_bytes())
        for arguments in (
            ("run", bundle, odd, "--top", 12),
            ("run", bundle, odd, "--json"),
            ("run", bundle, f"{EVIL}.gone"),
            ("run", evil, folder / "red.png", "--top", 12),
            ("inspect", evil),
            ("verify", evil),
            ("inspect", tmp_path / EVIL),
            ("compare", tmp_path / EVIL, "-o", tmp_path),
            ("run", bundle, odd, "--task", EVIL),
            (EVIL,),
        ):
            output = call(*arguments, color=color).output
            assert not [character for character in "\x1b\x07\x08\x9b\x7f\u202e\u2028" if character in output], arguments
        if color:
            assert SHOWN in call("run", bundle, odd, "--top", 12).output

    def test_a_name_stays_on_its_line(self, folder, tmp_path) -> None:
        odd = tmp_path / "a\nerror: forged\rb.png"
        odd.write_bytes((folder / "red.png").read_bytes())
        result = call("run", folder / "bundle", odd, tmp_path / "gone\nerror: forged")
        assert not any(line.startswith("error: forged") for line in result.output.splitlines())
        assert r"a\nerror: forged\rb.png" in result.stdout

    def test_a_progress_bar_draws_over_itself_and_obeys_no_name(self, monkeypatch) -> None:
        class Drawn(io.StringIO):
            def isatty(self) -> bool:
                return True

        drawn = Drawn()
        monkeypatch.setattr(sys, "stderr", LossyTerminal(drawn))
        with ProgressBar() as progress:
            progress("merge", 1, 2, "\x1b[2J\r\n")
        assert drawn.getvalue().startswith("\rmerge")
        assert r"\x1b[2J\r\n" in drawn.getvalue()


def test_text_without_commands_is_written_as_it_is() -> None:
    text = "\ttab\nline \u732b caf\u00e9 \U0001f600 \u200d \u00a0"
    stream = io.StringIO()
    Terminal(stream).write(text)
    assert stream.getvalue() == text
    assert one_line("a\n\tb") == r"a\n\tb"


class TestReaders:
    """Pipes in this process: what happens to sys.stdout is what happens to a command's."""

    @pytest.fixture
    def pipe(self):
        """A stream whose reader has gone."""
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            yield stream

    def test_a_closed_pipe_is_quiet(self, folder, pipe, capfd, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert ended("run", folder / "bundle", folder / "red.png") == 141
        pipe.write("what the interpreter still has to write")
        pipe.flush()
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("unbuffered", [False, True])
    def test_a_full_disk_is_named(self, folder, monkeypatch, capfd, unbuffered: bool) -> None:
        """Also with PYTHONUNBUFFERED=1, as in most containers, where each write goes to the file at once."""
        with open("/dev/full", "wb", buffering=0 if unbuffered else -1) as file:
            stream = io.TextIOWrapper(file, write_through=unbuffered)
            monkeypatch.setattr(sys, "stdout", stream)
            assert ended("inspect", folder / "bundle") == 7
        assert capfd.readouterr().err == "error: standard output: No space left on device\n"

    def test_work_goes_on_where_nobody_reads_its_progress(self, folder, pipe, capfd, monkeypatch) -> None:
        monkeypatch.setattr(sys, "stderr", pipe)
        assert ended("verify", folder / "bundle") == 0
        assert "outputs: all as recorded" in capfd.readouterr().out

    @pytest.mark.parametrize("name", ["stdout", "stderr"])
    def test_a_process_without_the_stream_works(self, folder, monkeypatch, name: str) -> None:
        monkeypatch.setattr(sys, name, None)
        assert ended("run", folder / "bundle", folder / "red.png") == 0


class TestBrokenImages:
    def test_the_others_are_answered(self, folder) -> None:
        good = [folder / "red.png", folder / "black.png"]
        asked = ["run", folder / "bundle", folder / "broken.png", good[0], folder / "gone.png", good[1]]
        result, alone = call(*asked), call("run", folder / "bundle", *good)
        assert result.exit_code == 1
        assert result.stdout == alone.stdout
        assert [line[: line.index(" cannot")] for line in result.stderr.splitlines()] == [
            f"error: {folder / 'broken.png'}",
            f"error: {folder / 'gone.png'}",
        ]
        lines = call(*asked, "--json").stdout.splitlines()
        assert [line for line in lines if "error" not in json.loads(line)] == (
            call("run", folder / "bundle", *good, "--json").stdout.splitlines()
        )
        assert [json.loads(line)["image"] for line in lines] == [str(path) for path in asked[2:]]

    def test_none_readable_is_an_error(self, folder) -> None:
        result = call("run", folder / "bundle", folder / "broken.png", "--json")
        assert result.exit_code == 3
        assert json.loads(result.stdout) == {"image": str(folder / "broken.png"), "error": result.stderr[7:-1]}

    @pytest.mark.parametrize("as_json", [True, False])
    def test_what_was_computed_is_shown_whatever_comes_then(self, folder, monkeypatch, as_json: bool) -> None:
        submit, asked = EdgeModel.submit, []

        def failing(model: EdgeModel, images: list[Path], *arguments: object, **options: object) -> object:
            if len(asked) >= 40:
                failed: Future[object] = Future()
                failed.set_exception(EdgeError("the disk has gone"))
                return failed
            asked.extend(images)
            return submit(model, images, *arguments, **options)

        monkeypatch.setattr(EdgeModel, "submit", failing)
        result = call("run", folder / "bundle", *[folder / "red.png"] * 100, *["--json"] * as_json)
        assert (result.exit_code, result.stderr) == (3, "error: the disk has gone\n")
        assert result.stdout.count('"label"' if as_json else "(experts: red") == len(asked)
        assert 40 <= len(asked) < 100


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (MemoryError(), 7, "error: there is not enough memory\n"),
            (MemoryError("Unable to allocate 7 TiB"), 7, "error: there is not enough memory (Unable to allocate 7 TiB)\n"),
            (RecursionError("maximum depth"), 3, "error: something in the input is too deep or too large (maximum depth)\n"),
            (OverflowError("too large"), 3, "error: something in the input is too deep or too large (too large)\n"),
            (PermissionError(13, "Permission denied", "a\x1b\nb"), 3, "error: a\\x1b\\nb: Permission denied\n"),
        ],
    )
    def test_what_hostile_input_causes_is_one_line(self, command_that, error: Exception, code: int, message: str) -> None:
        result = command_that(mock.Mock(side_effect=error))
        assert (result.exit_code, result.stderr) == (code, message)

    @pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), KeyError("x"), AssertionError(), ImportError("x")])
    def test_mistakes_of_ours_keep_their_traceback(self, command_that, error: Exception) -> None:
        assert command_that(mock.Mock(side_effect=error)).exception is error

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("raise ImportError('libx.so.12: cannot open shared object file')", "fails to import (libx.so.12: cannot open"),
            ("import module_that_is_not_there", "fails to import (No module named 'module_that_is_not_there')"),
            ("import sklearn.gone", "fails to import (No module named 'sklearn.gone'"),
            ("from sklearn import Gone", "fails to import (cannot import name 'Gone' from"),
        ],
    )
    def test_a_package_that_fails_to_import_says_why(
        self, command_that, monkeypatch, tmp_path, content: str, message: str
    ) -> None:
        (tmp_path / "sklearn").mkdir()
        (tmp_path / "sklearn/__init__.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
            monkeypatch.delitem(sys.modules, name)
        result = command_that(lambda: __import__("sklearn"))
        assert result.exit_code == 7
        assert result.stderr.startswith("error: this command needs the package sklearn; it is installed and ")
        assert message in result.stderr

    def test_one_that_is_missing_is_installed(self, command_that, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "joblib", None)
        assert command_that(lambda: __import__("joblib")).stderr == (
            "error: this command needs the package joblib; install it in a clone of mingle-edge with: pip install '.[demo]'\n"
        )


@pytest.mark.parametrize("number", ["9" * 25, "3000000000", "40000"])
@pytest.mark.parametrize("command", ["run", "verify"])
def test_more_threads_than_can_be_are_refused(folder, command: str, number: str) -> None:
    result = call(command, folder / "bundle", *[folder / "red.png"] * (command == "run"), "--threads", number)
    assert result.exit_code == 3
    assert result.stderr.endswith(f"error: threads is {number}, must be at least 1 and at most 1024\n")


def test_a_size_that_no_memory_has_is_refused(folder) -> None:
    result = call("run", folder / "bundle", folder / "red.png", "--expert-budget", "9" * 400)
    assert result.exit_code == 2
    assert "is more than any memory has" in result.stderr


def test_files_hold_names_that_are_no_unicode(tmp_path) -> None:
    write_output(tmp_path / "page.html", "caf\udce9 \u732b\n")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 \u732b\n"
