"""What Prometheus reads, by its own parser."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from running_server import image_input, png, running
from tiny_bundle import TASKS, images

from mingle_edge_runtime import EdgeModel


def samples(server) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    reply = server.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(reply.body.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_counters_are_what_was_asked_and_answered(image_bundle) -> None:
    with EdgeModel.open(image_bundle, threads=1, expert_budget="100kB") as model, running(model) as server:
        before = samples(server)
        assert [before["mingle_edge_routed_images_total", task] for task in TASKS] == [0, 0, 0]
        assert (before["mingle_edge_ready",], before["mingle_edge_queue_length",]) == (1, 0)
        record, content = image_input(*[png(image) for image in images(0, 0, 1, 3)])
        assert server.infer(record, content).status == 200
        strict = record | {"parameters": {"reject_below": 1}}
        assert server.infer(strict, content).status == 200
        assert server.infer({}).status == 400
        assert server.ask("POST", "/v2/models/another/infer", b"{}").status == 404
        after, stats = samples(server), model.stats()
    assert after["mingle_edge_requests_total", "200"] == 2
    assert after["mingle_edge_requests_total", "400"] == 1
    assert after["mingle_edge_requests_total", "404"] == 1
    assert after["mingle_edge_images_total",] == 8
    assert [after["mingle_edge_routed_images_total", task] for task in TASKS] == [4, 2, 0]
    assert after["mingle_edge_unclaimed_images_total",] == 2
    assert after["mingle_edge_rejected_images_total",] == 4
    assert after["mingle_edge_request_seconds_count",] == 2
    for phase in ("decode", "queue", "run"):
        assert after["mingle_edge_phase_seconds_count", phase] == 2
    parts = sum(after["mingle_edge_phase_seconds_sum", phase] for phase in ("decode", "queue", "run"))
    assert after["mingle_edge_request_seconds_sum",] == pytest.approx(parts)
    assert after["mingle_edge_expert_hits_total",] == stats.hits
    assert after["mingle_edge_expert_misses_total",] == stats.misses > 0
    assert after["mingle_edge_expert_resident_bytes",] == stats.resident_bytes > 0
    assert after["mingle_edge_expert_loaded_bytes_total",] == stats.bytes_loaded
    assert after["mingle_edge_expert_evictions_total",] == stats.evictions
    assert after["mingle_edge_expert_budget_bytes",] == 100_000
    assert after["process_resident_memory_bytes",] > 1e6


def test_what_clients_send_makes_no_new_series(model) -> None:
    with running(model) as server:
        record, content = image_input(png(images(0)[0]))
        server.infer(record, content)
        server.infer({})
        server.ask("POST", "/v2/models/x/infer", b"{}")
        before = samples(server).keys()
        for i in range(20):
            server.infer(record | {"parameters": {"task": f"task {i}"}, "id": str(i)}, content)
            server.ask("POST", f"/v2/models/model{i}/infer", b"{}")
            server.ask("GET", f"/path{i}")
        assert samples(server).keys() == before


def test_openmetrics_is_there_for_who_asks(server) -> None:
    reply = server.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert "mingle_edge_images" in {family.name for family in openmetrics(reply.body.decode())}


def test_nothing_is_lost_where_many_ask_at_once(model) -> None:
    pixels = images(0, 1, 2, 3)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    record = {"inputs": [tensor | {"parameters": {"binary_data_size": pixels.nbytes}}]}
    with running(model) as server:
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(lambda _: server.infer(record, pixels.tobytes()), range(40)))
        counted = samples(server)
    assert {reply.status for reply in replies} == {200}
    assert counted["mingle_edge_images_total",] == 160
    assert np.isclose(sum(counted["mingle_edge_routed_images_total", task] for task in TASKS), 120)
    assert counted["mingle_edge_queue_length",] == 0
