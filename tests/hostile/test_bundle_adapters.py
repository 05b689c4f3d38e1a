"""Adapter files that lie: about shapes, types, offsets and names, on the newest ONNX Runtime and on 1.20.1, which trusts them.

Processes of their own, as a signal would end them.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from damage import put
from hypothesis import given
from hypothesis import strategies as st
from interpreters import every_interpreter, output_of
from tiny_bundle import DIM, INPUTS, RANK, Weights, images, write_adapter, write_image_bundle

from mingle_edge_runtime import EdgeModel, ExpertError
from mingle_edge_runtime.experts.adapter import adapter_values
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors
from mingle_edge_runtime.ort.session import OptionalInput

GREEN = "experts/green.onnx_adapter"
# Every line of output is the outcome of one bundle; what a signal ends prints fewer.
SCRIPT = """
import sys
import numpy as np
from mingle_edge_runtime import EdgeModel, ExpertError

for bundle in sys.argv[2:]:
    with EdgeModel.open(bundle, threads=1) as model:
        try:
            print("finite" if np.isfinite(model.embed(np.load(sys.argv[1]), task="green")).all() else "not finite", flush=True)
        except ExpertError as error:
            print("ExpertError", str(error), flush=True)
"""


def lies(content: bytes) -> dict[str, bytes]:
    """Adapters with one lie each, by what the error must say of it."""
    dims_A = content.index(struct.pack("<IQQ", 2, RANK, INPUTS)) + 4
    dims_bias = content.index(struct.pack("<IQ", 1, DIM)) + 4
    name = content.index(b"ln_post.bias")
    size = RANK * INPUTS * 4
    return {
        said: content[:at] + change + content[at + len(change) :]
        for said, at, change in (
            (f"'projection.A' has {size} bytes, [100, {INPUTS}] of float32", dims_A, struct.pack("<q", 100)),
            (f"'projection.A' has {size} bytes, [-2, {INPUTS}]", dims_A, struct.pack("<q", -RANK)),
            (f"'projection.A' has {size} bytes, [{2**62}, {INPUTS}]", dims_A, struct.pack("<q", 2**62)),
            (f"'projection.A' float32 [{INPUTS}, {RANK}]", dims_A, struct.pack("<qq", INPUTS, RANK)),
            ("'projection.A' float32 [4, 96]", dims_A, struct.pack("<qq", 4, 96)),
            (f"'ln_post.bias' has {4 * DIM} bytes, [1000000]", dims_bias, struct.pack("<q", 10**6)),
            ("cannot be read as an adapter", 4, b"TROT"),
            ("cannot be read as an adapter: copy", 0, struct.pack("<I", 2**31)),
            ("'ln_post.biaz', which is no input", name, b"ln_post.biaz"),
        )
    }


@every_interpreter
def test_every_lie_is_named_and_nothing_ends_the_process(tmp_path, interpreter: str) -> None:
    np.save(tmp_path / "images.npy", images(1))
    sound = write_image_bundle(tmp_path / "sound", Weights())
    named = lies((sound / GREEN).read_bytes())
    bundles = [write_image_bundle(tmp_path / str(number), Weights()) for number in range(len(named))]
    for bundle, content in zip(bundles, named.values(), strict=True):
        put(bundle, GREEN, content)
    first, *others = output_of(interpreter, "-c", SCRIPT, tmp_path / "images.npy", sound, *bundles).splitlines()
    assert first == "finite"
    for said, bundle, outcome in zip(named, bundles, others, strict=True):
        assert outcome.startswith(f"ExpertError expert 'green' in {bundle / GREEN} ")
        assert said in outcome


@given(st.data())
def test_tensors_are_those_that_onnxruntime_reads(tmp_path_factory, data) -> None:
    shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3)
    names = st.text("abc.é", min_size=1, max_size=9)
    kinds = st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int64])
    wanted = data.draw(st.dictionaries(names, st.tuples(kinds, shapes), max_size=4))
    arrays = {name: np.arange(1, 1 + np.prod(shape)).astype(kind).reshape(shape) for name, (kind, shape) in wanted.items()}
    path = tmp_path_factory.getbasetemp() / "any.onnx_adapter"
    write_adapter(path, arrays)
    ours = adapter_tensors(np.fromfile(path, np.uint8), "it")
    theirs = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    assert ours.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name].numpy(), array)
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_adapter_or_an_expert_error(content: bytes) -> None:
    for start in (b"", b"\x18\0\0\0TORT"):
        with pytest.raises(ExpertError):
            adapter_values(np.frombuffer(start + content, np.uint8), {"a": OptionalInput((1,), np.dtype("<f4"))}, {}, "it")


def parameters(rank_A: int = RANK, rank_B: int = RANK, fill: float = 0) -> dict[str, np.ndarray]:
    """What the tower of tiny_bundle takes."""
    shapes = {"projection.A": (rank_A, INPUTS), "projection.B": (rank_B, DIM), "ln_post.bias": (DIM,)}
    return {name: np.full(shape, fill, np.float32) for name, shape in shapes.items()}


@pytest.fixture(params=[1, 2])
def with_green(request, tmp_path):
    """What writes a bundle of one or two experts a route, whose adapter for the task green holds these arrays."""

    def write(arrays: dict[str, np.ndarray]) -> Path:
        bundle = write_image_bundle(tmp_path / "bundle", Weights(), request.param)
        write_adapter(bundle / GREEN, arrays)
        put(bundle, GREEN, (bundle / GREEN).read_bytes())
        return bundle

    return write


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
            "(holds 'projection.A_nib|projection: what is in few bits)",
        ),
    ],
)
def test_an_adapter_of_another_tower_is_refused_before_it_runs(with_green, arrays, message: str) -> None:
    with EdgeModel.open(with_green(arrays)) as model:
        with pytest.raises(ExpertError, match=rf"expert 'green' in .*{GREEN}[, ]+{message}"):
            model.embed(images(1), task="green")
        assert np.isfinite(model.embed(images(0), task="red")).all()


IN_FEW_BITS = {
    "q.A_nibbles": np.full((2, 16), 0x9A, np.uint8),
    "q.A_block_scales": np.ones((2, 1), np.float16),
    "q.B_nibbles": np.full((2, 16), 0x9A, np.uint8),
    "q.B_block_scales": np.ones((2, 1), np.float16),
    "ln.change_codes": np.ones((3, 4), np.int8),
    "ln.change_scale": np.ones(3, np.float32),
}
TOWER = {
    "q.A_codes": OptionalInput((8, "q.rank"), np.dtype(np.int8)),
    "q.B_codes": OptionalInput(("q.rank", 6), np.dtype(np.int8)),
    "q.scale": OptionalInput(("q.rank",), np.dtype(np.float32)),
    "ln": OptionalInput((3, 4), np.dtype(np.float32)),
}


def expanded(tmp_path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a file with these arrays is expanded to."""
    write_adapter(tmp_path / "adapter", arrays)
    return adapter_values(np.fromfile(tmp_path / "adapter", np.uint8), TOWER, {"ln": np.ones((3, 4), np.float32)}, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln.change_scale": None}, "it, ln: what is in few bits does not fit the tower ('change_scale'): export it again"),
        ({"ln.change_codes": None}, "it, ln: what is in few bits does not fit the tower ('change_codes')"),
        ({"ln.change_scale": np.ones(2, np.float32)}, "(float32 [2] instead of float32 [3])"),
        ({"ln.change_scale": np.ones((3, 1), np.float32)}, "(float32 [3, 1] instead of float32 [3])"),
        ({"ln.change_scale": np.ones(3, np.float16)}, "(float16 [3] instead of float32 [3])"),
        ({"ln.change_scale": np.float32([1, np.nan, 1])}, "(a scale is not finite)"),
        ({"ln.change_scale": np.float32([1, np.inf, 1])}, "(a scale is not finite)"),
        (
            {"ln.change_scale": np.float32([1, 3e38, 1]), "ln.change_codes": np.full((3, 4), 127, np.int8)},
            "(a value is not finite)",
        ),
        ({"ln.change_codes": np.ones((4, 3), np.int8)}, "(int8 [4, 3] instead of int8 [3, 4])"),
        ({"ln.change_codes": np.ones((3, 4), np.uint8)}, "(uint8 [3, 4] instead of int8 [3, 4])"),
        (
            {"q.bias.change_codes": np.ones(4, np.int8), "q.bias.change_scale": np.ones(1, np.float32)},
            "it, q.bias: what is in few bits does not fit the tower ('q.bias')",
        ),
        ({"ln": np.ones((3, 4), np.float32)}, "it holds ln twice, in two forms: export it again"),
        ({"q.scale": np.ones(2, np.float32)}, "it holds q.scale twice, in two forms"),
        ({"q.A_nibbles": None}, "it, q: what is in few bits does not fit the tower ('A_nibbles')"),
        ({"q.B_nibbles": None}, "('B_nibbles')"),
        ({"q.A_block_scales": None}, "('A_block_scales')"),
        ({"q.B_block_scales": np.float16([[1], [np.inf]])}, "(a scale is not finite)"),
        ({"q.B_block_scales": np.ones((2, 2), np.float16)}, "(float16 [2, 2] instead of float16 [2, 1])"),
        ({"q.A_nibbles": np.zeros((2, 15), np.uint8)}, "(uint8 [2, 15] instead of uint8 [2, 16])"),
        (
            {"k.A_nibbles": np.zeros((2, 16), np.uint8), "k.A_block_scales": np.ones((2, 1), np.float16)},
            "it, k: what is in few bits does not fit the tower ('k.A_codes')",
        ),
    ],
)
def test_what_is_in_few_bits_and_does_not_fit_is_named(tmp_path, change, message: str) -> None:
    assert set(expanded(tmp_path, IN_FEW_BITS)) == set(TOWER)
    arrays = {name: array for name, array in (IN_FEW_BITS | change).items() if array is not None}
    with pytest.raises(ExpertError, match=re.escape(message)):
        expanded(tmp_path, arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_expert_that_computes_no_numbers_is_never_served(with_green, value: float) -> None:
    calls = {
        "embed": lambda model: model.embed(images(1), task="green"),
        "routed": lambda model: model.classify(images(1)),
        "named": lambda model: model.classify(images(1), task="green"),
        "stream": lambda model: model.stream(reuse=True).classify(images(1)[0]),
        "submit": lambda model: model.submit(images(1)).result(),
    }
    with EdgeModel.open(with_green(parameters(fill=value))) as model:
        for name, call in calls.items():
            with pytest.raises(ExpertError, match=r"with expert .*green.* computes an embedding that is not finite"):
                pytest.fail(f"{name} answers {call(model)}")
        assert len(model.classify(images(3), head="red")) == 1  # the plain backbone
