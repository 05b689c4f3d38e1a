"""What is counted, for Prometheus. No label has more values than there are tasks, phases or HTTP statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mingle_edge_runtime import EdgeError, EdgeModel, Prediction

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""seconds"""


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, model: EdgeModel, accepted: Callable[[], int], ready: Callable[[], bool], queue: int) -> None:
        """Count for `model`.

        accepted: the number of requests under way. queue: how many there may be.
        """
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mingle_edge_requests", "Inference requests that were answered, by HTTP status.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "mingle_edge_request_seconds",
            "Seconds from a request's last byte to its answer.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.phases = Histogram(
            "mingle_edge_phase_seconds",
            "Seconds of an answered request by phase: decode, queue (waiting for a thread), run.",
            ["phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.images = Counter("mingle_edge_images", "Images that were answered.", registry=registry)
        self.routes = Counter(
            "mingle_edge_routed_images", "Images by the task whose expert had the largest weight.", ["task"], registry=registry
        )
        self.unclaimed = Counter(
            "mingle_edge_unclaimed_images", "Images that no task claimed: the plain backbone ran.", registry=registry
        )
        self.rejected = Counter(
            "mingle_edge_rejected_images", "Images whose best probability was below reject_below.", registry=registry
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "queue_length": ("Requests under way: accepted and not answered.", accepted),
            "queue_limit": ("Requests that may be under way.", lambda: queue),
            "ready": ("1 where requests are answered; 0 while warming up or stopping.", lambda: float(ready())),
        }
        for name, (text, value) in gauges.items():
            Gauge(f"mingle_edge_{name}", text, registry=registry).set_function(value)
        for task in model.tasks:
            self.routes.labels(task)  # so that each is there from the beginning, with 0
        registry.register(_Experts(model))
        ProcessCollector(registry=registry)

    def count_answer(self, predictions: Iterable[Prediction], seconds: Mapping[str, float]) -> None:
        """Count the images of a request that was answered, and the seconds of each phase."""
        for prediction in predictions:
            self.images.inc()
            if prediction.route.tasks:
                self.routes.labels(prediction.route.tasks[0]).inc()
            else:
                self.unclaimed.inc()
            self.rejected.inc(prediction.rejected)
        self.seconds.observe(sum(seconds.values()))
        for phase, spent in seconds.items():
            self.phases.labels(phase).observe(spent)


class _Experts(Collector):
    """The counters that the model keeps of its experts."""

    def __init__(self, model: EdgeModel) -> None:
        self._model = model

    def collect(self) -> Iterable[Metric]:
        """Yield the model's counters as they are now; none once it is closed."""
        try:
            stats = self._model.stats()
        except EdgeError:
            return
        yield GaugeMetricFamily("mingle_edge_expert_resident_bytes", "Bytes of experts in memory.", stats.resident_bytes)
        if stats.budget is not None:
            yield GaugeMetricFamily("mingle_edge_expert_budget_bytes", "Bytes of experts that may be in memory.", stats.budget)
        counters = {
            "hits": ("Runs that found their expert in memory.", stats.hits),
            "misses": ("Runs that waited for an expert to be opened.", stats.misses),
            "evictions": ("Experts, or parts of one, that were given up.", stats.evictions),
            "loaded_bytes": ("Bytes of experts that were made resident.", stats.bytes_loaded),
            "stall_seconds": ("Seconds that runs waited for experts.", stats.stall_seconds),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"mingle_edge_expert_{name}", text, value)
