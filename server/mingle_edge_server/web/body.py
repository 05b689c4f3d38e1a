"""The body of a request, received within a size and a time, and uncompressed."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request

from mingle_edge_server.errors import RequestError

_CLOSE = {"Connection": "close"}
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""content encoding -> window bits by which zlib knows the format; deflate is zlib's own (RFC 9110, 8.4.1.2)"""


class RequestBody:
    """What a client sends behind the head of its request."""

    def __init__(self, request: Request, seconds: float) -> None:
        """Give the client `seconds` for all of it."""
        self._request = request
        self._seconds = seconds
        self._more = True

    async def read(self, most: int) -> bytearray:
        """Return all of it. Raises `RequestError` beyond `most` bytes or the time, `ClientDisconnect` where nobody waits."""
        said = self._request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                while self._more:
                    body += await self._receive()
                    if len(body) > most:
                        raise _too_large(most)
        except TimeoutError:
            raise RequestError(
                f"the body of the request did not arrive within {self._seconds:g} seconds: send less at once", 408, _CLOSE
            ) from None
        return body

    async def discard(self) -> None:
        """Receive and drop what is left, as long as the client may take: most clients read an answer only when all is sent.

        A client that asked whether to send it (`Expect: 100-continue`) is told by the answer.
        """
        if self._request.headers.get("expect", "").lower() == "100-continue":
            return
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(self._seconds):
                while self._more:
                    await self._receive()

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._more = False
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content


def uncompressed(body: bytes | bytearray, encoding: str | None, most: int) -> bytes | bytearray:
    """Return a body without its `Content-Encoding`. Raises `RequestError` where that is unknown or broken, or it is larger."""
    encoding = (encoding or "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOWS:
        raise RequestError(f"Content-Encoding {encoding[:40]!r} is not read; there are {', '.join(_WINDOWS)}", 415)
    decompressor = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = decompressor.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {encoding}: {error}") from None
    if len(content) > most:
        raise _too_large(most)
    if not decompressor.eof or decompressor.unused_data:
        raise RequestError(f"the body is not one whole {encoding} stream")
    return content


def _too_large(most: int) -> RequestError:
    return RequestError(f"the request is too large: at most {most} bytes are read; send fewer images at once", 413, _CLOSE)
