"""Bundles under the oldest ONNX Runtime they promise and the present one: alone, and through the runtime.

`MINGLE_ORT_1_20` names the interpreter that has the old one, and of this project nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measured_forms import with_forms
from tiny_merged import write_merged

import mingle_edge_runtime
from mingle_edge.experts.expert_form import ExpertForm
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images

OLD = Path(os.environ.get("MINGLE_ORT_1_20", Path(__file__).parents[2] / ".venv-ort-1.20/bin/python"))
PLAIN = """
import json, sys
import numpy as np
import onnxruntime as ort

bundle, output = sys.argv[1:]
index = json.load(open(f"{bundle}/bundle.json"))
images = np.load(f"{bundle}/golden.npz")["images"].astype(np.float32) / 255
spec = index["preprocess"]
pixels = ((images - np.float32(spec["mean"])) / np.float32(spec["std"])).transpose(0, 3, 1, 2)
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3

def run(name, adapter=None, **inputs):
    session = ort.InferenceSession(f"{bundle}/{name}", options, providers=["CPUExecutionProvider"])
    call = ort.RunOptions()
    if adapter:
        loaded = ort.LoraAdapter()
        loaded.Load(f"{bundle}/{adapter}")
        call.add_active_adapter(loaded)
    # One image at a time, as bundles in int8 ask for.
    each = [session.run(None, {"pixel_values": image[None], **inputs}, call) for image in pixels]
    return [np.concatenate(parts) for parts in zip(*each)]

def route():
    # Outputs of every stage, each fed what the one before and the plain tower give.
    stages, features = [], {}
    for stage in index["router"]["stages"]:
        session = ort.InferenceSession(f"{bundle}/{stage['file']}", options, providers=["CPUExecutionProvider"])
        given = {"pixel_values": pixels, "image_embeds": run(index["tower"])[0], **features}
        needed = {item.name: given[item.name] for item in session.get_inputs()}
        each = [session.run(None, {name: value[i : i + 1] for name, value in needed.items()}) for i in range(len(pixels))]
        named = dict(zip([item.name for item in session.get_outputs()], [np.concatenate(parts) for parts in zip(*each)]))
        stages.append([named[name] for name in ("posterior", "losses", "confidence")])
        features = {"previous_features": named.get("features")}
    return [np.stack(values) for values in zip(*stages)]

results = {"version": np.array(ort.__version__), "dense": run(index["dense"])[0]}
if index["scope"] == "image":
    results["posterior"], results["losses"], results["confidence"] = route()
    results["plain"] = run(index["tower"])[0]
    results["embeds"] = np.stack([run(index["tower"], task["expert"])[0] for task in index["tasks"]])
else:
    tasks = len(index["tasks"])
    outputs = [run(index["tower"], top_k=np.array([k])) for k in (index["top_k"], tasks)]
    results["embeds"] = np.stack([embeds for embeds, _, _ in outputs])
    results["default"], results["route_tasks"], results["route_weights"] = run(index["tower"])
    mask = (np.arange(tasks) == 1).astype(np.float32)
    results["masked"], results["masked_tasks"], _ = run(index["tower"], task_mask=mask)
np.savez(output, **results)
"""


SERVED = """
import sys
import numpy as np
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.check.verify import verify

bundle, images, output = sys.argv[1:]
verify(bundle).check()
with EdgeModel.open(bundle, threads=1) as model:
    images = np.load(images)
    named = {task: model.embed(images, task=task) for task in model.tasks}
    np.savez(output, routed=model.embed(images), **named)
"""


def outputs(interpreter: Path | str, script: str, *arguments: Path) -> dict[str, np.ndarray]:
    """What a script, run by an interpreter, leaves in the file that is its last argument."""
    if not Path(interpreter).exists():
        pytest.fail(f"{interpreter} does not exist: run `make .venv-ort-1.20`, or name another in MINGLE_ORT_1_20")
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    command = [str(interpreter), "-c", script, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return dict(np.load(arguments[-1]))


@pytest.mark.parametrize("scope", ["image", "layer"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_oldest_and_the_present_release_compute_the_same(tmp_path, scope, precision):
    merged = write_merged(tmp_path / "merged", scope=scope)
    export_bundle(merged.path, tmp_path / "bundle", ExportOptions(precision=precision, min_cosine=0, min_route_agreement=0))
    old = outputs(OLD, PLAIN, tmp_path / "bundle", tmp_path / "old.npz")
    new = outputs(sys.executable, PLAIN, tmp_path / "bundle", tmp_path / "new.npz")
    assert str(old.pop("version")).startswith("1.20.")
    assert not str(new.pop("version")).startswith("1.20.")
    golden = np.load(tmp_path / "bundle/golden.npz")
    assert set(old) == set(new) >= set(golden) - {"images", "probabilities"}
    # A code that rounding decides for, or its neighbor: releases round the same values, but for float rounding before.
    between, to_golden = (2e-2, 2e-2) if precision == "int8" else (2e-5, 1e-4)
    for name, value in new.items():
        np.testing.assert_allclose(old[name], value, atol=between, err_msg=name)
        if name in golden:
            np.testing.assert_allclose(value, golden[name], atol=to_golden, err_msg=name)
    if scope == "layer":
        np.testing.assert_array_equal(new["default"], new["embeds"][0])  # top_k 1 unless a run says otherwise
        assert (new["masked_tasks"] == 1).all()
        assert new["route_tasks"].shape == (2, 18, 1)


@pytest.mark.parametrize(("scope", "top_k"), [("image", 1), ("image", 2), ("layer", 2)])
def test_the_runtime_computes_the_same_on_both(tmp_path, scope, top_k):
    """One expert by adapter, two joined, and the page bank."""
    export_bundle(write_merged(tmp_path / "merged", scope=scope).path, tmp_path / "bundle", ExportOptions(top_k))
    np.save(tmp_path / "images.npy", smooth_images(6, 40))
    old, new = (
        outputs(interpreter, SERVED, tmp_path / "bundle", tmp_path / "images.npy", tmp_path / "embeds.npz")
        for interpreter in (OLD, sys.executable)
    )
    for name, embeds in new.items():
        np.testing.assert_allclose(old[name], embeds, atol=1e-5, err_msg=name)


def test_a_bundle_of_experts_in_8_and_in_4_bits_runs_on_both(tmp_path):
    forms = {"task0": [ExpertForm(5, "int8", 0.0, 1.0)], "task1": [ExpertForm(5, "int4", 0.0, 1.0)]}
    merged = with_forms(write_merged(tmp_path / "merged", tasks=2), tmp_path / "measured", forms)
    loose = {"min_cosine": 0, "min_route_agreement": 0}
    np.save(tmp_path / "images.npy", smooth_images(6, 40))
    for top_k in (1, 2):
        bundle = tmp_path / f"bundle{top_k}"
        export_bundle(merged.path, bundle, ExportOptions(top_k, keep=0.0, **loose))
        old, new = (
            outputs(interpreter, SERVED, bundle, tmp_path / "images.npy", tmp_path / "embeds.npz")
            for interpreter in (OLD, sys.executable)
        )
        for name, embeds in new.items():  # but for codes that rounding decides for
            np.testing.assert_allclose(old[name], embeds, atol=2e-2, err_msg=name)


def test_a_missing_interpreter_fails_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(pytest.fail.Exception, match=r"run `make .venv-ort-1.20`"):
        outputs(tmp_path / "python", PLAIN, tmp_path)
