"""A model that was opened before a fork, as `gunicorn --preload` does it: an error at once, and a child that ends."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from interpreters import output_of
from tiny_bundle import images

SCRIPT = """
import asyncio, os, sys
import numpy as np
from mingle_edge_runtime import EdgeError, EdgeModel

bundle, images = sys.argv[1:]
images = np.load(images)
model = EdgeModel.open(bundle, threads=2)  # with threads of ONNX Runtime
expected = model.submit(images).result()
stream = model.stream()
stream.classify(images[0])
calls = {
    "classify": lambda: model.classify(images), "embed": lambda: model.embed(images, task="red"),
    "submit": lambda: model.submit(images), "route": lambda: model.route(images),
    "prefetch": lambda: model.prefetch("blue"), "pin": lambda: model.pin("blue"), "prepare_routing": model.prepare_routing,
    "set_expert_budget": lambda: model.set_expert_budget(None), "stream": model.stream,
    "warm_up": model.warm_up, "aclassify": lambda: asyncio.run(model.aclassify(images)),
    "frame": lambda: stream.classify(images[0]), "stats": model.stats, "placement": model.placement,
}
sys.stdout.flush()
child = os.fork()
if not child:
    for name, call in calls.items():
        try:
            call()
        except EdgeError as error:
            print(name, error)
    assert "opened before a fork" in repr(model)
    model.close()
    with EdgeModel.open(bundle, threads=1) as own:
        print("own", own.submit(images).result() == expected)
    sys.exit(7)  # as a worker ends, freeing what it has
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status))
print("parent", model.submit(images).result() == expected)
"""


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_every_call_in_a_forked_child_raises_at_once_and_nothing_hangs(bundles, tmp_path, scope: str) -> None:
    np.save(tmp_path / "images.npy", images(0, 1, 3))
    bundle = bundles[scope, 1]
    *refused, own, child, parent = output_of(
        sys.executable, "-W", "ignore", "-c", SCRIPT, bundle, tmp_path / "images.npy"
    ).splitlines()
    assert len(refused) == 14
    for line in refused:
        assert f"{bundle} was opened before this process was forked" in line
        assert line.endswith("open the model in each process, after the fork")
    assert (own, child, parent) == ("own True", "child 7", "parent True")
