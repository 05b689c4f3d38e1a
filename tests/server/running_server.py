"""A server in a thread, and a client that sends whatever a test wants, byte by byte."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import numpy as np
from PIL import Image

from mingle_edge_runtime import EdgeModel
from mingle_edge_server import Limits, create_app
from mingle_edge_server.inference.service import InferenceService
from mingle_edge_server.web.server import InferenceServer, listen

NAME = "tiny"
INFER = f"/v2/models/{NAME}/infer"
LENGTH = "Inference-Header-Content-Length"
PATIENCE = 120
"""seconds that nothing takes on a working server, on a machine that does other things meanwhile"""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A server that listens on this machine."""

    port: int
    model: EdgeModel
    service: InferenceService
    server: InferenceServer
    thread: threading.Thread

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        """Send one request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def infer(self, record: Any, content: bytes | None = None, **headers: str) -> Reply:
        """Ask for an inference; `content` follows the JSON."""
        text = record if isinstance(record, bytes) else json.dumps(record).encode()
        binary = {} if content is None else {LENGTH: str(len(text))}
        return self.ask("POST", INFER, text + (content or b""), binary | headers)

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self) -> None:
        """Tell it to stop, as a signal does."""
        self.server.should_exit = True


@contextmanager
def running(model: EdgeModel, limits: Limits | None = None, *, ready: bool = True, **options: Any) -> Iterator[Running]:
    """Serve `model` within the block.

    ready: whether to wait until it is warm.
    """
    app = create_app(model, limits=limits, **{"name": NAME} | options)
    started = threading.Event()
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = InferenceServer(app, started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    until(lambda: started.is_set() or not thread.is_alive())
    try:
        if ready:
            until(lambda: app.state.service.ready)
        yield Running(port, model, app.state.service, server, thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


def until(is_so: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def png(pixels: np.ndarray) -> bytes:
    """Write an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def elements(*files: bytes) -> bytes:
    """Write a BYTES tensor."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def image_input(*files: bytes, **changes: Any) -> tuple[dict[str, Any], bytes]:
    """A request for image files, and the bytes behind it; `changes` are of its input."""
    content = elements(*files)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(files)], "parameters": {"binary_data_size": len(content)}}
    return {"inputs": [tensor | changes]}, content
