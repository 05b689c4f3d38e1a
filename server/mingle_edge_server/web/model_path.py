"""The model that a path names: there is one, of one version."""

from __future__ import annotations

from starlette.requests import Request

from mingle_edge_server.errors import RequestError
from mingle_edge_server.protocol.description import VERSION


def check_model(request: Request) -> None:
    """Raise `RequestError` of status 404 where the path names another model, or another version."""
    name, version = request.path_params.get("model"), request.path_params.get("version", VERSION)
    served = request.app.state.model_name
    if name is not None and name != served:
        raise RequestError(f"there is no model {name[:100]!r}; this server has {served!r}", 404)
    if version != VERSION:
        raise RequestError(f"model {served!r} has no version {version[:100]!r}; it has {VERSION}", 404)
