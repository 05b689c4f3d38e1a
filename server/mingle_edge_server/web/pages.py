"""The page at `/` and its two files: everything it needs, so that a browser asks nobody else."""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def page_routes() -> list[Route]:
    """Return a route for each file of the page, read once."""
    return [_route(path, *file) for path, file in _FILES.items()]


def _route(path: str, name: str, kind: str) -> Route:
    content = files(__package__).joinpath("page", name).read_bytes()

    async def file(request: object) -> Response:
        return Response(content, media_type=kind)

    return Route(path, file)
