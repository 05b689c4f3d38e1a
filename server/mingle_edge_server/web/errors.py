"""Errors as the protocol writes them."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from mingle_edge_server.errors import RequestError

_LOG = logging.getLogger(__name__)
_WRONG_PATH = "the protocol's paths begin with /v2; the page is at /, metrics are at /metrics"


def error_response(error: RequestError) -> JSONResponse:
    """Return `{"error": message}` with the error's own members, status and headers."""
    return JSONResponse({"error": str(error), **error.members}, error.status, error.headers)


async def request_failed(request: Request, error: Exception) -> JSONResponse:
    """Answer a `RequestError`."""
    assert isinstance(error, RequestError)
    return error_response(error)


async def http_failed(request: Request, error: Exception) -> JSONResponse:
    """Answer what Starlette finds: no such path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    paths = {404: f"there is nothing at this path: {_WRONG_PATH}", 405: f"this path does not take {request.method}"}
    return JSONResponse({"error": paths.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def crashed(request: Request, error: Exception) -> JSONResponse:
    """Answer a mistake of ours; the log has the traceback, by whoever runs the application."""
    return JSONResponse({"error": "the server failed; its log says why"}, 500)
