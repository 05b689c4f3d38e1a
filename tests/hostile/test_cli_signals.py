"""Signals that ask a command to end: cleaned up as by Ctrl-C, one line, and the exit code that shells report."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner, Result

from mingle_edge.cli import main
from mingle_edge.cli.progress_bar import ProgressBar

ENDING = "; nothing was written\n"


@pytest.fixture(autouse=True)
def _defaults():
    """As in a fresh process."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_being_written_is_cleaned_up(command_that, tmp_path, number: int) -> None:
    def work() -> None:
        (tmp_path / "partial").mkdir()
        try:
            signal.raise_signal(number)
            (tmp_path / "more").mkdir()
        finally:
            signal.raise_signal(number)  # a second one cuts nothing short
            (tmp_path / "partial").rmdir()

    result = command_that(work)
    assert (result.exit_code, result.stdout, result.stderr) == (128 + number, "", f"terminated{ENDING}")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ctrl_c_is_what_it_was(command_that) -> None:
    result = command_that(mock.Mock(side_effect=KeyboardInterrupt))
    assert (result.exit_code, result.stderr) == (130, f"\ninterrupted{ENDING}")


def test_a_signal_that_is_ignored_or_handled_stays_so(command_that) -> None:
    got = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    result = command_that(lambda: (signal.raise_signal(signal.SIGHUP), signal.raise_signal(signal.SIGTERM)))
    assert (result.exit_code, got) == (0, [signal.SIGTERM])


def test_commands_run_in_threads_that_get_no_signals(command_that) -> None:
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(command_that(lambda: click.echo("done"))))
    worker.start()
    worker.join()
    assert [(result.exit_code, result.stdout) for result in results] == [(0, "done\n")]


def test_a_profile_shows_what_it_has(monkeypatch, image_bundle) -> None:
    def terminate(self: object, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "batch 4":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ProgressBar, "__call__", terminate)
    result = CliRunner().invoke(main, ["profile", str(image_bundle), "--runs", "2"])
    assert result.exit_code == 143
    assert "INTERRUPTED" in result.output


def test_what_waits_in_a_lock_or_sleeps_ends_too(tmp_path) -> None:
    """A process of its own, as a service manager ends it: without a handler Python would die without a word."""
    code = f"""
import sys, threading, click
from pathlib import Path
from mingle_edge.cli import LazyGroup, main
def work():
    try:
        print("ready", flush=True)
        threading.Event().wait()
    finally:
        Path({str(tmp_path / "cleaned")!r}).touch()
LazyGroup.get_command = lambda *given: click.Command("merge", callback=work)
main(["merge"])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("", f"terminated{ENDING}")
    assert process.returncode == 143
    assert Path(tmp_path / "cleaned").exists()
