"""The runtime under the oldest ONNX Runtime it promises, in an interpreter of its own that has nothing else.

`MINGLE_ORT_1_20` names that interpreter (`make test` sets it up); the present one is always checked the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_merged import write_merged

import mingle_edge_runtime
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_runtime import EdgeModel

INTERPRETERS = [sys.executable, *filter(None, [os.environ.get("MINGLE_ORT_1_20")])]
SCRIPT = """
import sys
import numpy as np
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.check.verify import verify

bundle, images, output = sys.argv[1:]
verify(bundle).check()
with EdgeModel.open(bundle, threads=1) as model:
    images = np.load(images)
    np.save(output, np.stack([model.embed(images), *(model.embed(images, task=task) for task in model.tasks)]))
"""


@pytest.fixture(scope="module", params=[("image", 1), ("image", 2), ("layer", 2)], ids=lambda param: f"{param[0]}-{param[1]}")
def bundle(request, tmp_path_factory) -> Path:
    """An exported bundle: one expert by adapter, two joined, and the page bank."""
    scope, top_k = request.param
    folder = tmp_path_factory.mktemp(scope)
    export_bundle(write_merged(folder / "merged", scope=scope).path, folder / "bundle", ExportOptions(top_k))
    return folder / "bundle"


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_old_and_new_onnxruntime_agree(bundle, tmp_path, interpreter: str) -> None:
    pictures = smooth_images(6, 40)
    np.save(tmp_path / "images.npy", pictures)
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    paths = [str(path) for path in (bundle, tmp_path / "images.npy", tmp_path / "embeds.npy")]
    result = subprocess.run(
        [interpreter, "-c", SCRIPT, *paths], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    with EdgeModel.open(bundle, threads=1) as model:
        expected = np.stack([model.embed(pictures), *(model.embed(pictures, task=task) for task in model.tasks)])
    np.testing.assert_allclose(np.load(tmp_path / "embeds.npy"), expected, atol=1e-5)
