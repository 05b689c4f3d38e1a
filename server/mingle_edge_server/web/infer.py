"""The endpoint that answers: from the bytes of a request to the bytes of a response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mingle_edge_server.errors import RequestError
from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.protocol.request import InferenceRequest, read_request
from mingle_edge_server.protocol.response import write_response
from mingle_edge_server.web.body import RequestBody, uncompressed
from mingle_edge_server.web.errors import error_response
from mingle_edge_server.web.model_path import check_model

HEADER_LENGTH = "Inference-Header-Content-Length"
_GONE = 499
"""status that metrics show for a client that closed its connection before it was answered (nginx has the same)"""
R = TypeVar("R")


async def infer(request: Request) -> Response:
    """Answer an inference request; see `docs/serve.md`."""
    service: InferenceService = request.app.state.service
    body = RequestBody(request, service.limits.body_seconds)
    try:
        response = await _answer(request, service, body)
    except RequestError as error:
        await body.discard()
        response = error_response(error)
    except ClientDisconnect:
        response = Response(status_code=_GONE)  # which nobody reads
    except Exception:
        service.metrics.requests.labels("500").inc()
        raise
    service.metrics.requests.labels(str(response.status_code)).inc()
    return response


async def _answer(request: Request, service: InferenceService, body: RequestBody) -> Response:
    check_model(request)
    length = _header_length(request)
    with service.accepted():
        content = await body.read(service.limits.request_bytes)
        read = partial(_read, content, request.headers.get("content-encoding"), length, service)
        asked, answer = await _unless_gone(request, service.answer(read))
    started = time.perf_counter()
    response, json_length = write_response(request.app.state.model_name, asked, answer)
    service.statistics.wrote(time.perf_counter() - started)
    if json_length is None:
        return Response(response, media_type="application/json")
    return Response(response, headers={HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")


def _read(content: bytearray, encoding: str | None, length: int | None, service: InferenceService) -> InferenceRequest:
    limits = service.limits
    return read_request(uncompressed(content, encoding, limits.request_bytes), length, limits.images)


def _header_length(request: Request) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise RequestError(f"{HEADER_LENGTH} is {text[:40]!r}, must be the number of bytes of the JSON")
    return int(text)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Return the result of `work`, which is given up as soon as the client has gone. Raises `ClientDisconnect` then."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # everything was received, so the next message is the end
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
