"""Numbers, texts and arrays of a bundle that no machine can hold, show or compute with: `BundleError`, and nothing else."""

from __future__ import annotations

import io
import os
import resource
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import member, put
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import Weights, images, rewrite, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import Bundle, BundleError, EdgeError, EdgeModel, UnknownTaskError
from mingle_edge_runtime.bundle.npy_file import NpyError, read_npy
from mingle_edge_runtime.check.golden import read_golden
from mingle_edge_runtime.check.verify import verify

HUGE = 10**4000  # has fewer digits than Python's limit, and more than any number
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (member("logit_scale", to=1e308), "logit_scale is 1e.308, must be positive and at most 1e.06"),
        (member("logit_scale", to=HUGE), "logit_scale must be a number of 64 bits, has 13288"),
        (member("top_k", to=-HUGE), "top_k must be a number of 64 bits"),
        (
            member("router", "stages", 0, "confidence_bound", to=HUGE),
            r"stages\[0\].confidence_bound must be a number of 64 bits",
        ),
        (member("files", "tower.onnx", "size", to=HUGE), "files.tower.onnx.size must be a number of 64 bits"),
        (member("scope", to=HUGE), "scope must be one of image, layer, folded, is a number of 13288 bits"),
        (member("scope", to=DEEP), "scope must be one of image, layer, folded, is a list"),
        (member("tasks", 0, "labels", 0, to=DEEP), r"tasks\[0\].labels\[0\] must be a string, is a list"),
        (member("tasks", to={"a": DEEP}), "tasks must be a list, is an object"),
        (member("preprocess", "std", 0, to=1e-45), "preprocess.std is .*, must be positive, from 0.001 to 1000"),
        (member("preprocess", "std", 2, to=1e300), "preprocess.std is .*, must be positive, from 0.001 to 1000"),
        (member("preprocess", "mean", 1, to=-1e39), "preprocess.mean is .*, must be from -1000 to 1000"),
        (member("preprocess", "mean", 1, to="0.5"), r"preprocess.mean\[1\] must be a number, is '0.5'"),
        (member("defaults", "tensors", "ln_post.bias", "shape", to=[0, 2**62]), "has a side that is negative or ends"),
        (member("defaults", "tensors", "ln_post.bias", "shape", to=[4000] * 4000), "has 4000 sides, at most 8"),
        (member("minimum_onnxruntime", to="9" * 5000), "minimum_onnxruntime must be a dotted version"),
        (member("minimum_onnxruntime", to="\N{ARABIC-INDIC DIGIT ONE}"), "minimum_onnxruntime must be a dotted version"),
        (
            member("files", "a\ud800", to={"size": 1, "sha256": "0" * 64}),
            r"files must hold no control characters, is 'a\\ud800'",
        ),
        (member("tasks", 0, "head", to="\udcff"), r"tasks\[0\].head must hold no control characters, is '\\udcff'"),
        (member("tasks", 0, "labels", 1, to="\x1b[2Jred"), r"labels\[1\] must hold no control characters, is '\\x1b\[2Jred'"),
        (member("tasks", 0, "labels", 1, to="a\nb"), r"must hold no control characters, is 'a\\nb'"),
        (member("tasks", 0, "labels", 1, to="\x9b31m"), r"must hold no control characters, is '\\x9b31m'"),
        (member("tasks", 0, "labels", 1, to="\u202egnp.exe"), r"must hold no control characters, is '\\u202egnp.exe'"),
        (member("producer", "\x07", to="1"), r"producer must hold no control characters, is '\\x07'"),
        (member("exact_layers", to=["\x00"]), r"exact_layers\[0\] must hold no control characters"),
    ],
)
def test_what_cannot_be_held_shown_or_computed_with_is_refused(bundle, apply, message: str) -> None:
    rewrite(bundle, apply)
    with pytest.raises(BundleError, match=message) as caught:
        EdgeModel.open(bundle)
    str(caught.value).encode()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["[" * 990 + "]" * 990, '{"format": ' + "9" * 5000 + "}", '"\ud800"', "1e999", '{"a": -Infinity}']
)
def test_texts_that_the_json_reader_itself_stumbles_over_are_refused(bundle, text: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(BundleError, match=r"bundle.json(: format must be| is not valid JSON)"):
        EdgeModel.open(bundle)


def test_labels_of_any_language_are_taken(bundle) -> None:
    labels = ["Übergröße", "क्\u200dष", "👩\u200d🚀", "日本語\u3000"]
    rewrite(bundle, member("tasks", 0, "labels", to=labels))
    with EdgeModel.open(bundle) as model:
        assert model.labels("red") == tuple(labels)


def described(shape: bytes, kind: bytes = b"'<f4'") -> bytes:
    """The header of an array of this shape and type."""
    return b"{'descr': " + kind + b", 'fortran_order': False, 'shape': " + shape + b", }"


def npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file with this header."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


HEADERS: dict[str, bytes] = {
    "no header": b"\x93NUMPY",
    "no magic": b"NUMPY" * 9,
    "unclosed": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 16"),
    "unclosed string": npy(b"{'descr': '''<f4"),
    "deep": npy(b"(" * 9000),
    "deep minus": npy(b"-" * 9000 + b"1"),
    "negative": npy(described(b"(-4, -16)"), bytes(256)),
    "huge": npy(described(b"(1000000000000, 16)"), bytes(256)),
    "huge beside none": npy(described(b"(0, 99999999999999999999999)")),
    "many sides": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 99 + b"), }", bytes(4)),
    "other type": npy(b"{'descr': '<q9', 'fortran_order': False, 'shape': (4, 16), }", bytes(256)),
    "no type": npy(b"{'descr': [], 'fortran_order': False, 'shape': (4, 16), }"),
    "objects": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 16), }", bytes(512)),
    "not ASCII": npy(b"{'descr': '\xff', 'fortran_order': False, 'shape': (4, 16), }"),
    "long header": npy(described(b"(4, 16)") + b" " * 200_000, version=2),
    "version 9": npy(described(b"(4, 16)"), bytes(256), version=9),
    "booleans": npy(described(b"(True, 64)"), bytes(256)),
    "no bytes": npy(b"{'descr': '|V0', 'fortran_order': False, 'shape': (4, 16), }"),
    "empty": b"",
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_head_or_a_golden_array_with_an_odd_header_is_refused(bundle, case: str) -> None:
    put(bundle, "heads/green.npy", HEADERS[case])
    with pytest.raises(
        BundleError,
        match=r"heads/green.npy (cannot be read as an array without pickle|must be a float32 array|has 200072 bytes)",
    ):
        EdgeModel.open(bundle)
    put_golden(bundle, {"embeds.npy": HEADERS[case]})
    with pytest.raises(BundleError, match=r"golden.npz (cannot be read as arrays without pickle|does not fit the bundle)"):
        read_golden(Bundle.open(bundle))


@given(st.binary(max_size=150))
def test_any_bytes_are_an_array_or_refused(content: bytes) -> None:
    for start in (b"", b"\x93NUMPY\x01\x00", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': ")[:-60]):
        try:
            array = read_npy(start + content)
        except NpyError:
            continue
        assert array.nbytes <= len(start + content)


@given(st.sampled_from(["<f4", ">f8", "<f2", "|u1", "|b1", "<U3"]), st.lists(st.integers(0, 4), max_size=4), st.booleans())
def test_arrays_are_those_that_numpy_wrote(kind: str, shape: list[int], by_columns: bool) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    array = np.asfortranarray(array) if by_columns else array
    file = io.BytesIO()
    np.save(file, array)
    np.testing.assert_array_equal(read_npy(file.getvalue()), array, strict=True)


def put_golden(bundle: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write golden.npz anew with other entries."""
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | changes
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    put(bundle, "golden.npz", file.getvalue())


@contextmanager
def memory_limit(extra: int):
    """At most `extra` more bytes of address space."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("bomb", ["deflated", "claimed by a header", "claimed by the archive"])
def test_golden_arrays_larger_than_their_file_are_refused_before_they_are_expanded(bundle, bomb: str) -> None:
    zeros = 1 << 30
    if bomb == "deflated":
        piece = npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (67108864,), }", bytes(64 << 20))
        put_golden(bundle, {f"bomb{i}.npy": piece for i in range(2)}, zipfile.ZIP_DEFLATED)
    elif bomb == "claimed by a header":
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({zeros}, 1, 1, 3), }}".encode()
        put_golden(bundle, {"images.npy": npy(header, bytes(48))})
    else:
        content = bytearray((bundle / "golden.npz").read_bytes())
        at = content.rindex(b"PK\x01\x02")
        content[at + 24 : at + 28] = zeros.to_bytes(4, "little")
        put(bundle, "golden.npz", content)
    with memory_limit(96 << 20), pytest.raises(BundleError, match=r"golden.npz (cannot be read|does not fit the bundle)"):
        read_golden(Bundle.open(bundle))


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), npy(described(b"()"), bytes(4))])
def test_a_golden_file_that_is_no_archive_is_refused(bundle, content: bytes) -> None:
    put(bundle, "golden.npz", content)
    with pytest.raises(BundleError, match=r"golden.npz (cannot be read|does not fit)"):
        verify(bundle)


def test_golden_entries_that_are_no_arrays_or_are_many_are_refused(bundle) -> None:
    put_golden(bundle, {"images": b"text", "images.npy": b"text"})
    with pytest.raises(BundleError, match=r"golden.npz cannot be read as arrays without pickle"):
        verify(bundle)
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        (entry, *_) = archive.infolist()
    content = bytearray((bundle / "golden.npz").read_bytes())
    content[entry.header_offset + 6] |= 1  # encrypted
    put(bundle, "golden.npz", content)
    with pytest.raises(BundleError, match=r"golden.npz cannot be read"):
        verify(bundle)


def test_a_head_or_a_task_that_is_no_name_is_an_edge_error(bundle) -> None:
    with EdgeModel.open(bundle) as model:
        for head in (["red", "green"], ("red",), {"red"}, 3):
            for call in (model.classify, model.stream().classify, model.submit):
                with pytest.raises(EdgeError, match=r"head .* is not in the bundle; it has red, green, blue"):
                    call(images(0)[0], head=head)
        for task in (["red"], {"red"}, 3):
            for call in (model.classify, model.embed):
                with pytest.raises(UnknownTaskError, match=r"task .* is not in the bundle; it has red, green, blue"):
                    call(images(0), task=task)
        with pytest.raises(UnknownTaskError):
            model.pin([["red"]])


@pytest.mark.parametrize("name", ["page", "pages_per_task"])
def test_the_page_bank_of_other_numbers_is_refused(tmp_path, name: str) -> None:
    bundle = write_layer_bundle(tmp_path / "layer", Weights())
    rewrite(bundle, member("page_bank", name, to=2**62))
    with pytest.raises(BundleError, match="page_bank describes"):
        EdgeModel.open(bundle)


@pytest.mark.parametrize(
    ("name", "top_k", "message"),
    [
        ("heads/red.npy", 1, r"heads/red.npy has 1099511627776 bytes, must have at most 65792: export the bundle again"),
        ("tower.onnx", 1, r"tower.onnx has 1099511627776 bytes, must have at most 2147483647"),
        ("experts/red.onnx_adapter", 2, r"red.onnx_adapter cannot be read: there is no memory for its 1099511627776 bytes"),
        ("golden.npz", 1, r"golden.npz has 1099511627776 bytes, must have at most"),
    ],
)
def test_files_of_a_terabyte_that_take_no_room_on_the_disk_are_refused(tmp_path, name: str, top_k: int, message: str) -> None:
    bundle = write_image_bundle(tmp_path / "image", Weights(), top_k)
    os.truncate(bundle / name, 1 << 40)
    rewrite(bundle, member("files", name, "size", to=1 << 40))
    rewrite(bundle, member("tasks", 0, "expert_bytes", to=(bundle / "experts/red.onnx_adapter").stat().st_size))

    def use() -> None:
        with EdgeModel.open(bundle, threads=1) as model:
            model.embed(images(0), task="red")
            read_golden(model.bundle)

    with memory_limit(1 << 30), pytest.raises(BundleError, match=message):
        use()
