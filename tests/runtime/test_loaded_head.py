"""Files of heads: what was written is read, and what is damaged or made to deceive is an error that names it."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import images

from mingle_edge_runtime import EdgeError, EdgeModel, HeadError
from mingle_edge_runtime.bundle.head import Head
from mingle_edge_runtime.bundle.head_file import FORMAT, FORMAT_VERSION, HeadFile, HeadIndex

INDEX = HeadIndex(FORMAT, FORMAT_VERSION, "letters", ("a", "b", "ç"), 20.0, "0" * 64, "a test", templates=("{}",))
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def written(head=None, index=INDEX) -> bytes:
    stream = io.BytesIO()
    HeadFile(index, head or Head(WEIGHT, np.ones(3, np.float32), index.logit_scale)).write(stream)
    return stream.getvalue()


def archive(members, compression=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def entries(content=None) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content or written())) as file:
        return {name: file.read(name) for name in file.namelist()}


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("bias", [None, np.array([1, -2, 3], np.float32)])
def test_what_was_written_is_read_and_numpy_reads_it_too(tmp_path, bias) -> None:
    path = tmp_path / "head"
    path.write_bytes(written(Head(WEIGHT, bias, 20.0)))
    file = HeadFile.read(path)
    assert file.index == INDEX
    np.testing.assert_array_equal(file.head.weight, WEIGHT)
    assert (file.head.bias is None) == (bias is None)
    with np.load(path) as other:
        np.testing.assert_array_equal(other["weight"], WEIGHT)
        if bias is not None:
            np.testing.assert_array_equal(other["bias"], bias)


def test_the_same_head_is_the_same_bytes() -> None:
    assert written() == written()


def changed(**members) -> bytes:
    index = json.loads(entries()["head.json"]) | members
    return archive(entries() | {"head.json": json.dumps(index)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no head that can be read"),
        (b"PK\x03\x04 no archive", "cannot be read as a zip archive"),
        (archive(entries(), zipfile.ZIP_DEFLATED), "it is compressed"),
        (archive({"weight.npy": npy(WEIGHT)}), "is no head that can be read"),
        (archive({"head.json": entries()["head.json"]}), "it holds no weight.npy"),
        (archive(entries() | {"head.json": "[" * 100_000}), "is no head that can be read"),
        (changed(format="other"), 'must be "mingle-edge head"'),
        (changed(format_version=2), "format_version is 2, this runtime reads up to 1: upgrade"),
        (changed(name="../x"), "name is '../x', must match"),
        (changed(labels=["a", "b"]), r"the weight is [3, 4], must be [2 labels, dim]"),
        (changed(labels=["a", "b", " a"]), "labels holds 'a' twice"),
        (changed(labels=[]), "labels is empty"),
        (changed(labels=["a", "b", "\x1b[2J"]), "must hold no control characters"),
        (changed(logit_scale=-1), "logit_scale is -1.0, must be positive"),
        (archive(entries() | {"weight.npy": npy(WEIGHT.astype(np.float64))}), "weight.npy is float64, must be float32"),
        (archive(entries() | {"weight.npy": npy(np.full((3, 4), np.nan, np.float32))}), "is not finite"),
        (archive(entries() | {"weight.npy": npy(np.array([None] * 3))}), "it holds pickled objects"),
        (archive(entries() | {"bias.npy": npy(np.ones(2, np.float32))}), "the bias is [2], must be [3 labels]"),
    ],
)
def test_a_file_that_is_no_sound_head_is_refused_by_name(tmp_path, content, message) -> None:
    path = tmp_path / "head"
    path.write_bytes(content)
    with pytest.raises(HeadError) as caught:
        HeadFile.read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "is no plain file"), (".", "is no plain file"), ("gone", "cannot be read: No such file")):
        with pytest.raises(HeadError, match=message):
            HeadFile.read(tmp_path / name)


@given(st.data())
def test_any_damage_is_an_error_of_ours_or_does_no_harm(tmp_path_factory, data) -> None:
    content = bytearray(written())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "head"
    path.write_bytes(content)
    try:
        file = HeadFile.read(path)
    except HeadError:
        return
    assert file.head.weight.shape == (len(file.index.labels), 4)
    assert np.isfinite(file.head.weight).all()


def test_names_that_differ_in_case_alone_and_closed_models_are_refused(image_bundle, tmp_path) -> None:
    path = tmp_path / "head"
    with EdgeModel.open(image_bundle) as model:
        bundle = model.bundle.index
        dim = bundle.architecture.output_dim
        weight = np.eye(3, dim, dtype=np.float32)
        index = HeadIndex(FORMAT, 1, "RED", ("a", "b", "c"), 20.0, bundle.source.backbone_sha256, "a test")
        path.write_bytes(written(Head(weight, None, 20.0), index))
        with pytest.raises(HeadError, match=r"is called 'RED', and there is a head 'red'"):
            model.load_head(path)
        path.write_bytes(written(Head(np.eye(3, dim + 1, dtype=np.float32), None, 20.0), index))
        with pytest.raises(HeadError, match=rf"reads embeddings of {dim + 1} numbers, and the bundle's have {dim}"):
            model.load_head(path)
    with pytest.raises(EdgeError, match="is closed"):
        model.load_head(path)


def test_a_head_that_is_loaded_while_a_call_begins_is_used_or_not_there(image_bundle, tmp_path, monkeypatch) -> None:
    path = tmp_path / "head"
    with EdgeModel.open(image_bundle) as model:
        bundle = model.bundle.index
        index = HeadIndex(FORMAT, 1, "letters", ("a", "b", "c"), 20.0, bundle.source.backbone_sha256, "a test")
        path.write_bytes(written(Head(np.eye(3, bundle.architecture.output_dim, dtype=np.float32), None, 20.0), index))
        check = model._check_head

        def load_meanwhile(head):
            model.load_head(path)
            return check(head)

        monkeypatch.setattr(model, "_check_head", load_meanwhile)
        (prediction,) = model.classify(images(0), head="letters", top=3)
    assert set(prediction.labels) == {"a", "b", "c"}
