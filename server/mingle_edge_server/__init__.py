"""Serve a bundle over HTTP by the Open Inference Protocol v2.

    from mingle_edge_server import serve

    serve("bundle", port=8000)

`create_app` gives the same as an ASGI application, for a server of one's own. Nothing is printed: the logger
`mingle_edge_server` is told of failures.
"""

from __future__ import annotations

import logging

from mingle_edge_server.errors import AddressError, LimitsError, RequestError, ServerError
from mingle_edge_server.inference.limits import Limits
from mingle_edge_server.web.app import create_app
from mingle_edge_server.web.server import serve

logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = ["AddressError", "Limits", "LimitsError", "RequestError", "ServerError", "create_app", "serve"]
