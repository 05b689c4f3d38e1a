"""Parts of the demonstration in processes of their own: the same results as one after another."""

import operator
import os
from functools import partial

import pytest
import torch

from mingle_edge.core.progress import silent
from mingle_edge.demo import parallel
from mingle_edge.demo.parallel import run_parts


@pytest.mark.parametrize("cores", [1, 2])
def test_results_have_the_order_of_the_parts_and_the_threads_of_the_caller(cores, monkeypatch):
    monkeypatch.setattr(parallel, "cpu_count", lambda: cores)
    seen = []

    def progress(stage, done, total, detail=""):
        seen.append((stage, done, total))

    parts = {"sum": partial(operator.add, 2, 3), "threads": torch.get_num_threads, "process": os.getpid}
    results = run_parts("stage", parts, progress)
    assert list(results) == ["sum", "threads", "process"]
    assert results["sum"] == 5
    assert results["threads"] == torch.get_num_threads()
    assert (results["process"] == os.getpid()) == (cores == 1)
    assert seen == [("stage", done, 3) for done in range(4)]


def test_a_part_that_fails_stops_the_demonstration_with_its_own_error():
    with pytest.raises(ZeroDivisionError):
        run_parts("stage", {"fine": os.getpid, "wrong": partial(operator.truediv, 1, 0)}, silent)
