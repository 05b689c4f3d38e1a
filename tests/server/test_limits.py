"""What a server does under pressure: it refuses at once and says why, waits for nobody forever, and stops in order."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from running_server import INFER, LENGTH, PATIENCE, image_input, png, running, until
from tiny_bundle import images

from mingle_edge_runtime import BundleError, EdgeModel
from mingle_edge_server import Limits, LimitsError, create_app
from mingle_edge_server.web import server as server_module

RECORD, CONTENT = image_input(png(images(0)[0]))
TEXT = json.dumps(RECORD).encode()
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{LENGTH}: {len(TEXT)}\r\n"


@contextmanager
def held(model, monkeypatch):
    """A model whose runs wait; yields what lets them go, and the number of those that began."""
    go, began, run = threading.Event(), [], model.classify_pixels

    def wait(*arguments, **options):
        began.append(1)
        assert go.wait(PATIENCE)
        return run(*arguments, **options)

    monkeypatch.setattr(model, "classify_pixels", wait)
    try:
        yield go, began
    finally:
        go.set()


def test_a_full_queue_refuses_at_once_and_says_how_long_it_is(model, monkeypatch) -> None:
    with (
        held(model, monkeypatch) as (go, began),
        running(model, Limits(queue=3)) as server,
        ThreadPoolExecutor(3) as clients,
    ):
        accepted = [clients.submit(server.infer, RECORD, CONTENT) for _ in range(3)]
        until(lambda: server.service.metrics.registry.get_sample_value("mingle_edge_queue_length") == 3)
        refused = server.infer(RECORD, CONTENT)
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json == {
            "error": "the queue is full: 3 requests are under way, and at most 3 are accepted; try again in a second",
            "queue_length": 3,
            "queue_limit": 3,
        }
        assert server.ask("GET", "/v2/health/ready").status == 200  # busy is not broken
        assert len(began) == 1
        go.set()
        assert {future.result().status for future in accepted} == {200}
        assert server.infer(RECORD, CONTENT).status == 200


def test_whoever_goes_away_frees_its_place_and_is_not_run(model, monkeypatch) -> None:
    with held(model, monkeypatch) as (go, began), running(model, Limits(queue=2)) as server:
        length = f"Content-Length: {len(TEXT + CONTENT)}\r\n\r\n"
        first, second = server.connect(), server.connect()
        for connection in (first, second):
            connection.sendall((HEAD + length).encode() + TEXT + CONTENT)
        until(lambda: server.infer(RECORD, CONTENT).status == 503 and len(began) == 1)
        first.close()
        second.close()
        until(lambda: server.service.metrics.registry.get_sample_value("mingle_edge_queue_length") == 0)
        go.set()
        assert server.infer(RECORD, CONTENT).status == 200
        assert len(began) == 2  # the one that had begun, and the last
        assert 'mingle_edge_requests_total{status="499"} 2.0' in server.ask("GET", "/metrics").body.decode()


def test_it_is_not_ready_before_it_is_warm_nor_while_it_stops(image_bundle, monkeypatch) -> None:
    go = threading.Event()
    with EdgeModel.open(image_bundle, threads=1) as model:
        warm_up = model.warm_up
        monkeypatch.setattr(model, "warm_up", lambda *tasks: go.wait(PATIENCE) and warm_up(*tasks))
        with running(model, ready=False) as server:
            assert server.ask("GET", "/v2/health/live").json == {"live": True}
            assert (server.ask("GET", "/v2/health/ready").status, server.ask("GET", "/v2/models/tiny/ready").status) == (
                503,
                503,
            )
            reply = server.infer(RECORD, CONTENT)
            assert (reply.status, reply.json["error"]) == (503, "the server is warming up: try again later, or another one")
            go.set()
            until(lambda: server.ask("GET", "/v2/health/ready").status == 200)
            assert server.infer(RECORD, CONTENT).status == 200
            server.service.stop()
            assert server.ask("GET", "/v2/health/ready").json == {"ready": False}
            assert server.infer(RECORD, CONTENT).json["error"] == "the server is stopping: try again later, or another one"


def test_a_model_that_cannot_run_ends_the_server(image_bundle, monkeypatch) -> None:
    def fail(tasks):
        raise BundleError("tower.onnx does not run")

    with EdgeModel.open(image_bundle, threads=1) as model:
        monkeypatch.setattr(model, "warm_up", fail)
        with running(model, ready=False) as server:
            server.thread.join(PATIENCE)
            assert not server.thread.is_alive()
        assert str(server.service.failure) == "tower.onnx does not run"


def test_a_server_of_ones_own_is_told_by_the_log_that_the_model_cannot_run(image_bundle, monkeypatch, caplog) -> None:
    def fail(tasks):
        raise BundleError("tower.onnx does not run")

    with EdgeModel.open(image_bundle, threads=1) as model:
        monkeypatch.setattr(model, "warm_up", fail)
        app = create_app(model)

        async def live() -> None:
            async with app.router.lifespan_context(app):
                while app.state.service.failure is None:
                    await asyncio.sleep(0.001)

        asyncio.run(live())
    assert [record.getMessage() for record in caplog.records] == ["the model cannot run: tower.onnx does not run"]


def test_what_the_model_raises_is_told_to_the_log_and_not_to_the_client(model, monkeypatch, caplog) -> None:
    def fail(*arguments, **options):
        raise BundleError("/srv/secret/experts/red was overwritten")

    monkeypatch.setattr(model, "classify_pixels", fail)
    with running(model) as server:
        reply = server.infer(RECORD, CONTENT)
    assert (reply.status, reply.json) == (500, {"error": "the model failed to run; the server's log says why"})
    assert "/srv/secret/experts/red was overwritten" in caplog.text


def test_a_mistake_of_ours_is_logged_with_its_traceback_and_counted(model, monkeypatch, caplog) -> None:
    monkeypatch.setattr(model, "classify_pixels", lambda *arguments, **options: 1 // 0)
    with running(model) as server:
        reply = server.infer(RECORD, CONTENT)
        assert (reply.status, reply.json) == (500, {"error": "the server failed; its log says why"})
        assert 'mingle_edge_requests_total{status="500"} 1.0' in server.ask("GET", "/metrics").body.decode()
        monkeypatch.undo()
        assert server.infer(RECORD, CONTENT).status == 200
    assert "ZeroDivisionError" in caplog.text


def test_stopping_answers_what_was_accepted(model, monkeypatch) -> None:
    with (
        held(model, monkeypatch) as (go, _),
        running(model, Limits(stop_seconds=PATIENCE)) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        accepted = [clients.submit(server.infer, RECORD, CONTENT) for _ in range(4)]
        until(lambda: server.service.metrics.registry.get_sample_value("mingle_edge_queue_length") == 4)
        server.stop()
        until(lambda: not server.service.ready)
        with pytest.raises(ConnectionError):
            server.ask("GET", "/v2/health/live")
        assert server.thread.is_alive()
        go.set()
        assert {future.result().status for future in accepted} == {200}
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_stopping_does_not_wait_for_who_never_finishes(model) -> None:
    with running(model, Limits(stop_seconds=1, body_seconds=900)) as server, server.connect() as slow, server.connect():
        slow.sendall((HEAD + "Content-Length: 100\r\n\r\n").encode())
        until(lambda: server.service.metrics.registry.get_sample_value("mingle_edge_queue_length") == 1)
        server.stop()
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_a_body_that_does_not_come_in_time_is_given_up(model) -> None:
    with running(model, Limits(body_seconds=0.2)) as server, server.connect() as slow:
        slow.sendall((HEAD + f"Content-Length: {len(TEXT + CONTENT)}\r\n\r\n").encode() + TEXT[:10])
        reply = _all(slow)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 0.2 seconds" in reply
        until(lambda: server.infer(RECORD, CONTENT).status == 200)


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT"])
def test_a_head_that_does_not_come_in_time_closes_the_connection(model, answered: int, sent: bytes, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "_KEEP_ALIVE", 1)
    with running(model, Limits(header_seconds=0.2)) as server, _connected(server, answered) as slow:
        slow.sendall(sent)
        assert not _all(slow).startswith(b"HTTP")


def test_a_client_that_never_reads_is_cut_off(model) -> None:
    """Its answers would fill the memory, one request behind the other."""
    with running(model, Limits(body_seconds=0.3)) as server, server.connect() as deaf:
        deaf.settimeout(PATIENCE)
        request = b"GET /v2/models/tiny/config HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012 - whichever call notices
            while True:
                deaf.sendall(request * 100)
        until(lambda: not server.server.server_state.connections)


def test_too_large_a_body_is_refused_before_it_is_sent_where_the_client_asks(model) -> None:
    with running(model, Limits(request_bytes=1000)) as server, server.connect() as polite:
        polite.sendall((HEAD + "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n").encode())
        reply = _all(polite)
    assert reply.startswith(b"HTTP/1.1 413 ")


def test_a_body_in_chunks_is_read_and_limited_too(model) -> None:
    body = TEXT + CONTENT
    with running(model, Limits(request_bytes=len(body))) as server:
        for more, status in ((b"", b"200"), (b"1\r\nx\r\n", b"413")):
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + more + b"0\r\n\r\n"
            with server.connect() as connection:
                connection.sendall((HEAD + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n").encode() + chunks)
                assert _all(connection).startswith(b"HTTP/1.1 " + status)


def test_connections_beyond_the_limit_are_refused(model) -> None:
    with running(model, Limits(connections=3, header_seconds=900)) as server:
        kept = [server.connect() for _ in range(3)]
        until(lambda: len(server.server.server_state.connections) == 3)
        assert server.ask("GET", "/v2").status == 503
        for connection in kept:
            connection.close()
        until(lambda: server.ask("GET", "/v2").status == 200)


@pytest.mark.parametrize("limit", [{"queue": 0}, {"images": -1}, {"pixels": 1.5}, {"body_seconds": 0}, {"request_bytes": True}])
def test_limits_that_cannot_be_are_named(limit) -> None:
    with pytest.raises(LimitsError, match=f"the limit {next(iter(limit))} is .* must be"):
        Limits(**limit)


@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_a_name_that_fits_no_path_is_refused(model, name: str) -> None:
    with pytest.raises(LimitsError, match="is no name of a model"):
        create_app(model, name=name)


def _connected(server, answered: int) -> socket.socket:
    """A connection on which so many requests were answered; another one where the machine was too busy to send in time."""
    while True:
        connection = server.connect()
        with suppress(ConnectionError):
            for _ in range(answered):
                connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if not connection.recv(65536).startswith(b"HTTP/1.1 200 OK"):
                    raise ConnectionError
            return connection
        connection.close()


def _all(connection) -> bytes:
    """Everything that comes until the other side closes."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)
