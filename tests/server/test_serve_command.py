"""`mingle-edge serve` as a process: what it prints, and how it ends."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection

import pytest
from click.testing import CliRunner
from running_server import PATIENCE, until

from mingle_edge.cli import main
from mingle_edge.cli.serve import is_loopback, shown_failures
from mingle_edge_runtime import BundleError, EdgeModel
from mingle_edge_server import AddressError
from mingle_edge_server.web.server import listen

COMMAND = [sys.executable, "-c", "from mingle_edge.cli import main; main()", "serve"]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    code = connection.getresponse().status
    connection.close()
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_serves_until_it_is_told_to_stop(image_bundle, number: int) -> None:
    options = ["--port", 0, "--threads", 1, "--expert-budget", "100kB", "--queue", 4, "--max-request", "1MB", "--task", "red"]
    with start(image_bundle, *options, "--name", "colors", "--verify", "--check-hashes") as process:
        line = process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), process.stderr.read()
        port = int(line.split()[2].rpartition(":")[2])
        until(lambda: status(port, "/v2/health/ready") == 200)
        assert status(port, "/v2/models/colors") == 200
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, rest, errors) == (0, "stopped; requests answered: 0\n", "")


def test_the_model_is_called_as_the_link_to_it(image_bundle, tmp_path) -> None:
    """As of a fleet that is updated: clients go on asking for the same name."""
    (tmp_path / "current").symlink_to(image_bundle)
    with start(tmp_path / "current", "--port", 0) as process:
        port = int(process.stdout.readline().split()[2].rpartition(":")[2])
        assert [status(port, f"/v2/models/{name}") for name in ("current", image_bundle.name)] == [200, 404]
        process.terminate()


def test_beyond_this_machine_it_says_what_is_not_protected(image_bundle) -> None:
    with start(image_bundle, "--host", "0.0.0.0", "--port", 0) as process:
        assert "serving on http://0.0.0.0:" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert errors.startswith("warning: whoever reaches this port can use the model")
        assert "no TLS and no authentication" in errors


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.3.4.5")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.7", "models.example", "")] == [False] * 5


def test_a_port_in_use_is_told_before_the_bundle_is_opened(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", str(tmp_path / "no bundle"), "--port", str(port)])
    expected = f"error: cannot listen on 127.0.0.1:{port} (Address already in use): choose another port"
    assert (result.exit_code, result.stderr) == (7, f"{expected}, or 0 for any that is free\n")


def test_a_port_without_the_right_to_it_is_told(monkeypatch) -> None:
    def refuse(listener, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(AddressError, match=r"127\.0\.0\.1:80 \(Permission denied\): choose a port from 1024 on, or 0 for any"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "no.such.host.invalid"], 7, "cannot listen on no.such.host.invalid:0 ("),
        (["--host", "300.1.1.1"], 7, "): give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"),
        (["--host", "192.0.2.1"], 7, "(Cannot assign requested address): give an address of this machine"),
        (["--task", "mauve"], 3, "task 'mauve' is not in the bundle; it has red, green, blue"),
        (["--allow-host", "http://x"], 3, "'http://x' is no name of a host"),
        (["--name", "a/b"], 3, "'a/b' is no name of a model"),
        (["--expert-budget", "1kB"], 3, "an expert budget of 1000 bytes is too small"),
        (["--provider", "abacus"], 7, "abacus"),
        (["--max-request", "0"], 2, "0 bytes hold no request; give a size such as 16MiB"),
        (["--queue", "0"], 2, "Invalid value for '--queue'"),
        (["--port", "65536"], 2, "Invalid value for '--port'"),
        (["--load-head", "missing.head"], 3, "missing.head"),
    ],
)
def test_mistakes_are_one_line(image_bundle, arguments, code: int, message: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(image_bundle), "--port", "0", *arguments])
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert result.stdout == ""


def test_a_model_that_cannot_run_is_told_once(image_bundle, monkeypatch) -> None:
    def fail(model, tasks):
        raise BundleError("tower.onnx does not run")

    monkeypatch.setattr(EdgeModel, "warm_up", fail)
    result = CliRunner().invoke(main, ["serve", str(image_bundle), "--port", "0"])
    assert (result.exit_code, result.stderr) == (4, "error: tower.onnx does not run\n")


def test_what_the_server_logs_is_shown_in_a_line(capsys) -> None:
    with shown_failures():
        logging.getLogger("mingle_edge_server.x").error("a request failed: %s", "why")
        logging.getLogger("mingle_edge_runtime.x").info("expert read")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("mingle_edge_server.x").error("later")
    assert capsys.readouterr().err == "error: a request failed: why\n"


def test_what_is_no_bundle_is_told(image_model, tmp_path) -> None:
    result = CliRunner().invoke(main, ["serve", str(image_model.path), "--port", "0"])
    assert (result.exit_code, "export it first: mingle-edge export" in result.stderr) == (3, True)
    result = CliRunner().invoke(main, ["serve", str(tmp_path / "missing"), "--port", "0"])
    assert (result.exit_code, "missing" in result.stderr) == (3, True)
