"""What the service measures, over HTTP as text that Prometheus reads.

The format is https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RECENT = 1000  # frames that percentiles are of
WINDOW = 10.0  # seconds that frames per second are counted in
QUANTILES = (0.5, 0.9, 0.99)


class Metrics:
    """Counts frames and remembers how long the latest took. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._ends: deque[float] = deque()
        self._started = time.monotonic()
        self._total = 0.0
        self.answered = 0
        self.broken = 0
        self.routes: Counter[str] = Counter()

    def add(self, seconds: float, routes: tuple[str, ...]) -> None:
        """Count a frame that was answered `seconds` after it was captured. routes: the tasks whose experts ran."""
        with self._lock:
            self.answered += 1
            self._total += seconds
            self._seconds.append(seconds)
            self._ends.append(time.monotonic())
            self.routes.update(routes or ("none",))

    def add_broken(self) -> None:
        """Count a frame that could not be decoded."""
        with self._lock:
            self.broken += 1

    def fps(self) -> float:
        """Return frames answered per second, of the last seconds."""
        with self._lock:
            now = time.monotonic()
            while self._ends and self._ends[0] < now - WINDOW:
                self._ends.popleft()
            return len(self._ends) / max(min(WINDOW, now - self._started), 1e-9)

    def quantiles(self) -> dict[float, float]:
        """Return the seconds within which these shares of the latest frames were answered; NaN before the first."""
        with self._lock:
            ordered = sorted(self._seconds)
        return {q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan") for q in QUANTILES}

    def text(self, captured: int, dropped: int, resident_bytes: int, hits: int, misses: int) -> str:
        """Return all figures. captured, dropped: frames; resident_bytes, hits, misses: of the model's experts."""
        lines = [*_metric("camera_frames_total", "counter", "Frames captured.", captured)]
        lines += _metric("camera_frames_answered_total", "counter", "Frames classified.", self.answered)
        lines += _metric("camera_frames_dropped_total", "counter", "Frames that a newer one replaced.", dropped)
        lines += _metric("camera_frames_broken_total", "counter", "Frames that could not be decoded.", self.broken)
        lines += _metric("camera_fps", "gauge", f"Frames classified per second, over {WINDOW:.0f} s.", self.fps())
        name = "camera_frame_seconds"
        lines += [f"# HELP {name} Seconds from a frame's capture to its answer.", f"# TYPE {name} summary"]
        lines += [f'{name}{{quantile="{q}"}} {seconds}' for q, seconds in self.quantiles().items()]
        with self._lock:
            lines += [f"{name}_sum {self._total}", f"{name}_count {self.answered}"]
            routes = sorted(self.routes.items())
        lines += ["# HELP camera_routes_total Frames by the task whose expert ran.", "# TYPE camera_routes_total counter"]
        lines += [f'camera_routes_total{{task="{task}"}} {count}' for task, count in routes]  # names need no escapes
        lines += _metric("expert_resident_bytes", "gauge", "Bytes of experts in memory.", resident_bytes)
        lines += _metric("expert_hits_total", "counter", "Experts asked for that were in memory.", hits)
        lines += _metric("expert_misses_total", "counter", "Experts asked for that had to be read.", misses)
        return "\n".join(lines) + "\n"


def serve(text: Callable[[], str], host: str, port: int) -> ThreadingHTTPServer:
    """Answer GET /metrics with `text()` and GET /healthz with 200, in a thread. Raises `OSError` where it cannot."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages = {"/metrics": text, "/healthz": lambda: "ok\n"}
            page = pages.get(self.path)
            content = (page() if page else "there are /metrics and /healthz\n").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing: whoever reads metrics asks every few seconds."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port} ({reason}): choose another port by --metrics") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _metric(name: str, kind: str, help_text: str, value: float) -> Iterator[str]:
    yield from (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value}")
