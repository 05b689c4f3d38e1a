"""The endpoints that tell of the server: health, readiness, metadata, configuration, statistics, metrics."""

from __future__ import annotations

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.protocol.description import (
    model_configuration,
    model_metadata,
    repository_index,
    server_metadata,
)
from mingle_edge_server.web.model_path import check_model


async def server(request: Request) -> Response:
    """Return the server's metadata."""
    return JSONResponse(server_metadata())


async def live(request: Request) -> Response:
    """Return that the process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Return whether inference requests are answered; status 503 where not."""
    is_ready = _service(request).ready
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


async def model_ready(request: Request) -> Response:
    """Return whether the model's requests are answered; status 503 where not."""
    check_model(request)
    is_ready = _service(request).ready
    return JSONResponse({"name": request.app.state.model_name, "ready": is_ready}, 200 if is_ready else 503)


async def metadata(request: Request) -> Response:
    """Return the model's inputs and outputs."""
    check_model(request)
    return JSONResponse(model_metadata(_service(request).model, request.app.state.model_name))


async def configuration(request: Request) -> Response:
    """Return the model's configuration as Triton's clients know it."""
    check_model(request)
    return JSONResponse(model_configuration(_service(request).model, request.app.state.model_name))


async def statistics(request: Request) -> Response:
    """Return counters in the form of the protocol's statistics extension."""
    check_model(request)
    service = _service(request)
    return JSONResponse(service.statistics.to_json(service.model, request.app.state.model_name))


async def index(request: Request) -> Response:
    """Return the list of models."""
    return JSONResponse(repository_index(request.app.state.model_name, _service(request).ready))


async def metrics(request: Request) -> Response:
    """Return Prometheus's text, or OpenMetrics where it is asked for."""
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_service(request).metrics.registry), media_type=kind)


def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    return service
