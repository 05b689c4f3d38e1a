"""Who may ask: no web page but the server's own, whatever the user's browser is made to send.

A page from elsewhere can reach a server on loopback in two ways. It can send requests across origins, which a browser marks
with `Origin`: they are refused unless that is this server, and nothing is ever allowed by CORS. Or its own host name can be
made to point at this machine (DNS rebinding): then `Host` has that name, and names that the server was not told are refused. An
address in numbers is no such name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mingle_edge_server.errors import LimitsError, RequestError
from mingle_edge_server.web.errors import error_response

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def check_host_names(names: Iterable[str]) -> frozenset[str]:
    """Return names in lower case, with `localhost` and this machine's own. Raises `LimitsError` for what is no host's name."""
    lowered = {name.lower() for name in names}
    if wrong := next((name for name in lowered if not _NAME.fullmatch(name)), None):
        raise LimitsError(f"{wrong!r} is no name of a host: give it without http:// and port, as in models.example.org")
    return frozenset({*lowered, "localhost", socket.gethostname().lower()})


class Guard:
    """Middleware that refuses requests of other origins, and tells browsers what the page may do."""

    def __init__(self, app: ASGIApp, host_names: frozenset[str]) -> None:
        """Answer requests to these names, and to addresses."""
        self._app = app
        self._host_names = host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with status 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except RequestError as error:
            await error_response(error)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if name is None or not (_is_address(name) or name.removesuffix(".") in self._host_names):
            raise RequestError(
                f"this server does not answer to the host {host[:100]!r}: ask for it by its address, or start it with "
                "--allow-host NAME",
                403,
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise RequestError(
                f"a page of another origin ({origin[:100]!r}) asks, and only the server's own page may: ask from a program, or "
                "put a proxy in front that passes Host on",
                403,
            )


def _host_name(host: str) -> str | None:
    """Return the name of a `Host` header without its port, in lower case; None where it is none."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@?#\s]+)(:\d{1,5})?", host)
    return match[1].lower() if match else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str | None:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None
