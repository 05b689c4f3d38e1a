"""The process that listens: opens a bundle, serves it, and stops in order."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from os import PathLike

import uvicorn

from mingle_edge_runtime import EdgeModel
from mingle_edge_server.errors import AddressError
from mingle_edge_server.inference.limits import Limits
from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.web.app import create_app
from mingle_edge_server.web.connection import timed_connection

_KEEP_ALIVE = 30  # seconds between two requests on one connection
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
    expert_budget: int | str | None = None,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    verify: bool = False,
    check_hashes: bool = False,
    started: Callable[[str], object] = lambda url: None,
) -> int:
    """Serve a bundle over HTTP until the process is told to stop, and return the number of requests that were answered.

    host, port: where to listen; port 0: any that is free. No TLS, no authentication: beyond loopback, put a proxy before it.
    task, name, limits, allowed_hosts: as in `create_app`. expert_budget, providers, threads, verify, check_hashes: as in
    `EdgeModel.open`.
    started: called with the server's address once it listens.

    Ctrl-C, SIGTERM and SIGHUP, where called in the main thread, stop it: no new connection is accepted, accepted requests have
    `limits.stop_seconds` to finish. A second Ctrl-C does not wait for them.

    Raises `AddressError` where it cannot listen there; what `EdgeModel.open` and `create_app` raise; `EdgeError` where the
    model cannot run once.
    """
    limits = limits or Limits()
    with (
        closing(_listen(host, port)) as listener,
        EdgeModel.open(
            bundle, expert_budget=expert_budget, providers=providers, threads=threads, verify=verify, check_hashes=check_hashes
        ) as model,
    ):
        app = create_app(model, name=name, task=task, limits=limits, allowed_hosts=allowed_hosts)
        service: InferenceService = app.state.service
        config = uvicorn.Config(
            app,
            http=timed_connection(limits),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        )
        url = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        asyncio.run(_Server(config, service, lambda: started(url)).serve([listener]))
    if service.failure is not None:
        raise service.failure
    return service.statistics.durations["success"].count


class _Server(uvicorn.Server):
    """Stops by signals without ending the process, and when the model cannot run."""

    def __init__(self, config: uvicorn.Config, service: InferenceService, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._service = service
        self._started = started

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


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, and not listening yet: the address is known to be free before the bundle is opened."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise AddressError(f"{host}:{port} is no address to listen on: {_reason(error)}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressError(
            f"cannot listen on {host}:{port}: {_reason(error)}; choose another port, or 0 for any that is free"
        ) from error
    return listener


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
