"""Adapter files that lie: about shapes, types, offsets and names, on the newest ONNX Runtime and on 1.20.1, which trusts them.

Processes of their own, as a signal would end them. `MINGLE_ORT_1_20` names the interpreter of the old one (`make test`).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import DIM, INPUTS, RANK, Weights, images, node, relist, rewrite, write_adapter, write_image_bundle

import mingle_edge_runtime
from mingle_edge_runtime import BundleError, EdgeModel, ExpertError
from mingle_edge_runtime.experts.adapter import adapter_values
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors
from mingle_edge_runtime.ort.session import OptionalInput

INTERPRETERS = [sys.executable, *filter(None, [os.environ.get("MINGLE_ORT_1_20")])]
GREEN = "experts/green.onnx_adapter"
CASES = 100
# Every line of output is the outcome of one adapter; what a signal ends prints fewer.
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from mingle_edge_runtime import EdgeModel, ExpertError

bundle, adapters, images = sys.argv[1:]
images = np.load(images)
index = json.loads((Path(bundle) / "bundle.json").read_text())
for path in sorted(Path(adapters).iterdir()):
    content = path.read_bytes()
    name = index["tasks"][1]["expert"]
    (Path(bundle) / name).write_bytes(content)
    index["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    index["tasks"][1]["expert_bytes"] = len(content)
    (Path(bundle) / "bundle.json").write_text(json.dumps(index))
    with EdgeModel.open(bundle, threads=1) as model:
        try:
            print("finite" if np.isfinite(model.embed(images, task="green")).all() else "not finite", flush=True)
        except ExpertError as error:
            print("ExpertError", str(error), flush=True)
"""


def outcomes(interpreter: str, bundle: Path, adapters: Path) -> list[str]:
    """What becomes of each adapter, in the order of their names."""
    np.save(bundle.parent / "images.npy", images(1))
    environment = os.environ | {"PYTHONPATH": str(Path(mingle_edge_runtime.__file__).parents[1])}
    command = [interpreter, "-c", SCRIPT, str(bundle), str(adapters), str(bundle.parent / "images.npy")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def lies(content: bytes) -> dict[str, bytes]:
    """Adapters with one lie each, by what the error must say of it."""
    dims_A = content.index(struct.pack("<IQQ", 2, RANK, INPUTS)) + 4
    dims_bias = content.index(struct.pack("<IQ", 1, DIM)) + 4
    found = {}

    def lie(said: str, at: int, form: str, *values: int) -> None:
        found[said] = content[:at] + struct.pack(form, *values) + content[at + struct.calcsize(form) :]

    size = RANK * INPUTS * 4
    lie(f"'projection.A' has {size} bytes, [100, {INPUTS}] of float32", dims_A, "<q", 100)
    lie(f"'projection.A' has {size} bytes, [-2, {INPUTS}]", dims_A, "<q", -RANK)
    lie(f"'projection.A' has {size} bytes, [{2**62}, {INPUTS}]", dims_A, "<q", 2**62)
    lie(f"'projection.A' float32 [{INPUTS}, {RANK}]", dims_A, "<qq", INPUTS, RANK)
    lie("'projection.A' float32 [4, 96]", dims_A, "<qq", 4, 96)
    lie(f"'ln_post.bias' has {4 * DIM} bytes, [1000000]", dims_bias, "<q", 10**6)
    lie("cannot be read as an adapter", 4, "4B", *b"TROT")
    lie("cannot be read as an adapter: copy", 0, "<I", 2**31)
    first = content.index(b"ln_post.bias")
    lie("'ln_post.biaz', which is no input", first, "12B", *b"ln_post.biaz")
    return found


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_every_lie_is_named_and_nothing_ends_the_process(tmp_path, interpreter: str) -> None:
    bundle = write_image_bundle(tmp_path / "image", Weights())
    content = (bundle / GREEN).read_bytes()
    named = lies(content)
    (tmp_path / "adapters").mkdir()
    for number, adapter in enumerate([content, *named.values()]):
        (tmp_path / f"adapters/{number:04}").write_bytes(adapter)
    random = Random(12)
    for number in range(len(named) + 1, CASES):
        changed = bytearray(content)
        for _ in range(random.choice([1, 1, 2, 8])):
            at = random.randrange(len(changed))
            if random.random() < 0.5:  # where offsets, lengths and types are, not the values
                at = min(at, 64) if random.random() < 0.5 else max(at, len(changed) - 300)
            changed[at] = random.choice([0, 1, 4, 127, 128, 255, random.randrange(256)])
        (tmp_path / f"adapters/{number:04}").write_bytes(changed[: random.choice([len(changed)] * 9 + [at])])
    first, *others = outcomes(interpreter, bundle, tmp_path / "adapters")
    assert first == "finite"
    assert len(others) == CASES - 1
    for said, outcome in zip(named, others, strict=False):
        assert outcome.startswith(f"ExpertError expert 'green' in {bundle / GREEN} ")
        assert said in outcome
    assert {outcome.split()[0] for outcome in others} == {"finite", "ExpertError"}  # a value may be another and still finite


@given(st.data())
def test_tensors_are_those_that_onnxruntime_reads(tmp_path_factory, data) -> None:
    shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3)
    names = st.text("abc.é", min_size=1, max_size=9)
    kinds = st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int64])
    wanted = data.draw(st.dictionaries(names, st.tuples(kinds, shapes), max_size=4))
    arrays = {name: np.arange(1, 1 + np.prod(shape)).astype(kind).reshape(shape) for name, (kind, shape) in wanted.items()}
    path = tmp_path_factory.getbasetemp() / "any.onnx_adapter"
    write_adapter(path, arrays)
    found = adapter_tensors(np.fromfile(path, np.uint8), "it")
    theirs = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    assert found.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(theirs[name].numpy(), array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_adapter_or_an_expert_error(content: bytes) -> None:
    for start in (b"", b"\x18\0\0\0TORT"):
        with pytest.raises(ExpertError):
            adapter_values(np.frombuffer(start + content, np.uint8), {"a": OptionalInput((1,), np.dtype("<f4"))}, "it")


def replace_adapter(bundle: Path, arrays: dict[str, np.ndarray]) -> None:
    """Another adapter for the task green, its size and hash corrected."""
    write_adapter(bundle / GREEN, arrays)
    rewrite(bundle, lambda record: record["tasks"][1].update(expert_bytes=(bundle / GREEN).stat().st_size))
    relist(bundle, GREEN)


def parameters(rank_A: int = RANK, rank_B: int = RANK, fill: float = 0) -> dict[str, np.ndarray]:
    """What the tower of tiny_bundle takes."""
    shapes = {"projection.A": (rank_A, INPUTS), "projection.B": (rank_B, DIM), "ln_post.bias": (DIM,)}
    return {name: np.full(shape, fill, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (parameters(2, 3), r"holds 'projection.B' float32 \[3, 16\], the tower takes float32 \['rank', 16\], where rank is 2"),
        (parameters() | {"more": np.zeros(1, np.float32)}, "holds 'more', which is no input of the tower"),
        ({name: array for name, array in parameters().items() if "B" not in name}, "lacks projection.B, without which"),
        (
            parameters() | {"ln_post.bias": np.zeros(DIM, np.int64)},
            r"holds 'ln_post.bias' int64 \[16\], the tower takes float32",
        ),
        (
            parameters() | {"projection.A_nibbles": np.zeros((2, 8), np.uint8)},
            "(holds 'projection.A_nib|projection: 4-bit codes)",
        ),
    ],
)
def test_an_adapter_of_another_tower_is_refused_before_it_runs(tmp_path, arrays, message: str, top_k: int) -> None:
    bundle = write_image_bundle(tmp_path / "image", Weights(), top_k)
    replace_adapter(bundle, arrays)
    with EdgeModel.open(bundle) as model:
        with pytest.raises(ExpertError, match=rf"expert 'green' in .*{GREEN}[, ]+{message}"):
            model.embed(images(1), task="green")
        assert np.isfinite(model.embed(images(0), task="red")).all()


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_expert_that_computes_no_numbers_is_never_served(tmp_path, value: float, top_k: int) -> None:
    bundle = write_image_bundle(tmp_path / "image", Weights(), top_k)
    replace_adapter(bundle, parameters(fill=value))
    calls = {
        "embed": lambda model: model.embed(images(1), task="green"),
        "routed": lambda model: model.classify(images(1)),
        "named": lambda model: model.classify(images(1), task="green"),
        "stream": lambda model: model.stream(reuse=True).classify(images(1)[0]),
        "submit": lambda model: model.submit(images(1)).result(),
    }
    with EdgeModel.open(bundle) as model:
        for name, call in calls.items():
            with pytest.raises(ExpertError, match=r"with expert .*green.* computes an embedding that is not finite"):
                pytest.fail(f"{name} answers {call(model)}")
        assert len(model.classify(images(3), head="red")) == 1  # the plain backbone


def test_a_router_that_computes_no_numbers_is_never_served(tmp_path) -> None:

    bundle = write_image_bundle(tmp_path / "image", Weights())
    graph = onnx.load(bundle / "router.onnx")
    (softmax,) = [step for step in graph.graph.node if step.op_type == "Softmax"]
    softmax.output[0] = "sound"
    graph.graph.node.extend([node("Sub", "sound sound", "zero"), node("Div", "zero zero", "posterior")])
    (bundle / "router.onnx").write_bytes(graph.SerializeToString())
    relist(bundle, "router.onnx")
    with EdgeModel.open(bundle) as model, pytest.raises(BundleError):
        model.classify(images(0))
