"""Parts of the demonstration in processes of their own: the same results as one after another."""

import operator
import os
import subprocess
import sys
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


def test_processes_that_have_grown_are_replaced_even_where_warnings_are_errors(tmp_path):
    """Joblib warns of it in the thread that hands out results, and would hang where that ended."""
    (tmp_path / "growing.py").write_text(
        "import time\nKEPT = []\n\ndef grow(part):\n    KEPT.append(bytearray(400_000_000))\n"
        "    time.sleep(1.2)\n    return part\n"
    )
    (tmp_path / "main.py").write_text(
        "import warnings\nfrom functools import partial\nwarnings.simplefilter('error')\nimport growing\n"
        "from mingle_edge.core.progress import silent\nfrom mingle_edge.demo.parallel import run_parts\n"
        "if __name__ == '__main__':\n"
        "    print(run_parts('stage', {str(i): partial(growing.grow, i) for i in range(6)}, silent, 2))\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command, environment = [sys.executable, "main.py"], os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == str({str(i): i for i in range(6)})
