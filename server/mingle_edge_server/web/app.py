"""The ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from mingle_edge_runtime import EdgeModel
from mingle_edge_server.errors import LimitsError, RequestError
from mingle_edge_server.inference.limits import Limits
from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.web import describe, errors
from mingle_edge_server.web.guard import Guard, check_host_names
from mingle_edge_server.web.infer import infer
from mingle_edge_server.web.pages import page_routes

_COMPRESSED_FROM = 1024  # bytes of a response, where its client asks for gzip


def create_app(
    model: EdgeModel,
    *,
    name: str | None = None,
    task: str | None = None,
    limits: Limits | None = None,
    allowed_hosts: Iterable[str] = (),
) -> Starlette:
    """Return an ASGI application that answers for `model` by the Open Inference Protocol v2; see `docs/serve.md`.

    model: stays the caller's to close, once the application has ended. It is warmed up when the application's lifespan begins.
    name: of the model in the protocol's paths; the bundle folder's name when None.
    task: of requests that name none; None: the router finds the expert.
    limits: how much clients may take; `Limits()` when None.
    allowed_hosts: names, without a port, that clients may reach the server by, beside `localhost`, this machine's own name and
    any address.

    Raises `LimitsError` where a name cannot be one, `UnknownTaskError`.
    """
    name = model.bundle.root.name if name is None else name
    if not name or "/" in name or name in (".", ".."):
        raise LimitsError(f"{name!r} is no name of a model: it must fit between two / of a path")
    host_names = check_host_names(allowed_hosts)
    service = InferenceService(model, limits or Limits(), task)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.warm_up())
        try:
            yield
        finally:
            service.stop()
            warming.cancel()
            await asyncio.to_thread(service.close)

    app = Starlette(
        routes=[*page_routes(), Route("/metrics", describe.metrics), *_protocol_routes()],
        middleware=[
            Middleware(Guard, host_names=host_names),
            Middleware(GZipMiddleware, minimum_size=_COMPRESSED_FROM, compresslevel=5),
        ],
        exception_handlers={
            RequestError: errors.request_failed,
            HTTPException: errors.http_failed,
            Exception: errors.crashed,
        },
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.model_name = name
    return app


def _protocol_routes() -> list[Route]:
    """Return the protocol's paths; those of a model with and without a version."""
    routes = [
        Route("/v2", describe.server),
        Route("/v2/health/live", describe.live),
        Route("/v2/health/ready", describe.ready),
        Route("/v2/repository/index", describe.index, methods=["GET", "POST"]),
        Route("/v2/models/stats", describe.statistics),
    ]
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(base, describe.metadata),
            Route(f"{base}/ready", describe.model_ready),
            Route(f"{base}/config", describe.configuration),
            Route(f"{base}/stats", describe.statistics),
            Route(f"{base}/infer", infer, methods=["POST"]),
        ]
    return routes
