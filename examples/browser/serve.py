"""The page and a bundle over HTTP, for this machine's own browser.

    python examples/browser/serve.py BUNDLE [--port 8000] [--host 127.0.0.1]

Needs `make javascript` (or `npm ci --ignore-scripts --prefix examples`) once, and Python alone. It hands out files and nothing
else: any static web server does as well, given the headers below (docs/browser.md).
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

EXAMPLES = Path(__file__).resolve().parents[1]
RUNTIME = "node_modules/onnxruntime-web/dist"
FOLDERS = ("browser", "javascript", RUNTIME)
"""of the examples, whose files are handed out"""
NOTHING = EXAMPLES / "nothing"  # a file that does not exist
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}  # which older Pythons do not know
HEADERS = {
    # These two let a page use several threads (https://web.dev/articles/coop-coep).
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Nothing is asked of another host: the browser itself would refuse it.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",  # kept, and asked about each time: a bundle may be replaced by another
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="whoever reaches this address can read the bundle")
    arguments = parser.parse_args()
    try:
        files = bundle_files(arguments.bundle)
        server = Server((arguments.host, arguments.port), partial(Handler, bundle=arguments.bundle, files=files))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(f"error: cannot listen on {arguments.host}:{arguments.port} ({reason}): choose others by --host and --port")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.server_address[:2]
    print(
        f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/ serves {arguments.bundle}; Ctrl-C stops it", flush=True
    )
    with server:
        server.serve_forever()


def bundle_files(bundle: Path) -> frozenset[str]:
    """Return the files of a bundle by name, relative to its folder. Raises `ValueError` where a page cannot run it."""
    if not (EXAMPLES / RUNTIME).is_dir():
        raise ValueError(
            "onnxruntime-web is not installed: run `make javascript`, or `npm ci --ignore-scripts --prefix examples`"
        )
    try:
        index = json.loads((bundle / "bundle.json").read_bytes())
        scope, files = index["scope"], frozenset(index["files"])
    except FileNotFoundError as error:
        raise ValueError(f"{bundle}/bundle.json does not exist: name a folder that `mingle-edge export` wrote") from error
    except OSError as error:
        raise ValueError(f"{bundle}/bundle.json cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{bundle}/bundle.json is no index of a bundle: export it again") from error
    if scope == "image" and "tower_required_inputs" not in index:
        raise ValueError(f"{bundle} has no tower for JavaScript (tower_required_inputs): export it again")
    return files | {"bundle.json"}


class Server(ThreadingHTTPServer):
    """Answers each browser in a thread of its own."""

    def handle_error(self, *arguments: object) -> None:
        """Say nothing of a browser that went away, as every page does that is closed while it loads."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)  # type: ignore[arg-type]


class Handler(SimpleHTTPRequestHandler):
    """Hands out the page, the runtime and the files of one bundle, and nothing else."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: object, bundle: Path, files: frozenset[str]) -> None:
        self._bundle, self._files = bundle, files
        self.extensions_map = {**self.extensions_map, **TYPES}
        super().__init__(*arguments)  # type: ignore[arg-type]

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Send the page's address from the root, headers of a file, or that there is none."""
        if urlsplit(self.path).path == "/":
            self.send_response(302)
            self.send_header("Location", "/browser/index.html")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Return the file of an address; one that does not exist where nothing is to be had."""
        name = PurePosixPath(unquote(urlsplit(path).path).lstrip("/"))
        if name.parts[:1] == ("bundle",) and str(name.relative_to("bundle")) in self._files:
            file = self._bundle / name.relative_to("bundle")
            # A bundle comes from elsewhere: neither its list of files nor a link in it leads out of its folder.
            allowed = file.resolve().is_relative_to(self._bundle.resolve())
        else:
            file, allowed = EXAMPLES / name, str(name.parent) in FOLDERS
        return str(file if allowed and file.is_file() else NOTHING)

    def end_headers(self) -> None:
        """Add those that every answer has."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of answers: a page asks for many files."""


if __name__ == "__main__":
    main()
