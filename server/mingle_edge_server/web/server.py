"""The process that listens: opens a bundle, serves it, and stops in order."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from os import PathLike

import uvicorn
from starlette.applications import Starlette

from mingle_edge_runtime import EdgeModel
from mingle_edge_server.errors import AddressError
from mingle_edge_server.inference.limits import Limits
from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.web.app import create_app
from mingle_edge_server.web.connection import timed_connection

_KEEP_ALIVE = 75  # seconds between two requests on one connection: longer than a proxy keeps it (nginx: 60)
_BACKLOG = 128  # connections that the system holds until they are accepted
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def serve(
    bundle: str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    task: str | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    allowed_hosts: Iterable[str] = (),
    heads: Iterable[str | PathLike[str]] = (),
    expert_budget: int | str | None = None,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    verify: bool = False,
    check_hashes: bool = False,
    started: Callable[[str], object] = lambda url: None,
) -> int:
    """Serve a bundle over HTTP until the process is told to stop, and return the number of requests that were answered.

    host, port: where to listen; port 0: any that is free. No TLS, no authentication: beyond loopback, put a proxy before it.
    heads: files that `mingle-edge head` wrote, for requests to ask for by name; see `EdgeModel.load_head`.
    name: of the model in the protocol; the folder's, or the link's to it, when None.
    task, limits, allowed_hosts: as in `create_app`. expert_budget, providers, threads, verify, check_hashes: as in
    `EdgeModel.open`.
    started: called with the server's address once it listens.

    Ctrl-C, SIGTERM and SIGHUP, where called in the main thread, stop it: no new connection is accepted, accepted requests have
    `limits.stop_seconds` to finish. A second Ctrl-C does not wait for them.

    Raises `AddressError` where it cannot listen there; what `EdgeModel.open` and `create_app` raise; `EdgeError` where the
    model cannot run once.
    """
    limits = limits or Limits()
    with (
        closing(listen(host, port)) as listener,
        EdgeModel.open(
            bundle, expert_budget=expert_budget, providers=providers, threads=threads, verify=verify, check_hashes=check_hashes
        ) as model,
    ):
        for head in heads:
            model.load_head(head)
        if name is None:  # of a link its own, which stays where a fleet's bundle is replaced
            name = os.path.basename(os.path.abspath(bundle))
        app = create_app(model, name=name, task=task, limits=limits, allowed_hosts=allowed_hosts)
        with _address_errors(host, port):  # where somebody else was faster, meanwhile
            listener.listen(_BACKLOG)
        url = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        asyncio.run(InferenceServer(app, lambda: started(url)).serve([listener]))
    service: InferenceService = app.state.service
    if service.failure is not None:
        raise service.failure
    return service.statistics.durations["success"].count


class InferenceServer(uvicorn.Server):
    """Serves an application of `create_app`; stops by signals without ending the process, and when the model cannot run."""

    def __init__(self, app: Starlette, started: Callable[[], object]) -> None:
        """Serve with the limits of `app`, and call `started` once requests are received."""
        self._service: InferenceService = app.state.service
        self._service.tell_failure = lambda error: None  # the server ends, and `serve` raises it
        self._started = started
        limits = self._service.limits
        super().__init__(
            uvicorn.Config(
                app,
                http=timed_connection(limits),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=limits.connections + 1,  # at which it refuses
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and tell so."""
        await super().startup(sockets)
        self._started()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop."""
        return await super().on_tick(counter) or self._service.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and finish what was accepted."""
        self._service.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal within the block, and leave the process as it was; uvicorn's own would send it again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] != signal.SIG_IGN:  # as of SIGHUP by nohup
                signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, and not listening yet: the address is known to be free before a bundle is opened.

    Raises `AddressError`.
    """
    with _address_errors(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    return listener


@contextmanager
def _address_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise AddressError(f"cannot listen on {_shown(host)}:{port} ({reason}): {_way_on(error)}") from error


def _way_on(error: Exception) -> str:
    """Return what to do about an address that cannot be had."""
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return "give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if isinstance(error, PermissionError):
        return "choose a port from 1024 on, or 0 for any that is free"
    return "choose another port, or 0 for any that is free"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
