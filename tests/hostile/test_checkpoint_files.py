"""Files of weights that lie about sizes, expand, are none, or raise whatever Python can: one error that names the file."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import tiny_model, write_config
from torch import Tensor

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture, safetensors_file, torch_archive
from mingle_edge.checkpoints.safetensors_file import MOST_HEADER
from mingle_edge.checkpoints.stored_tensors import open_tensors
from mingle_edge.checkpoints.torch_archive import MOST_NAME, MOST_PICKLE
from mingle_edge.core.errors import CheckpointError


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip file as PyTorch lays it out."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return path


def entries_of(content: object) -> dict[str, bytes]:
    """What `torch.save` writes of something."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}


class TestSafetensors:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A file of tensors of every type."""
        generator = torch.Generator().manual_seed(0)
        kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        state = {f"t{i}": torch.randn(3 * i + 3, 2, 5, generator=generator).to(kinds[i % 4]) for i in range(40)}
        state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "one": torch.ones(1, dtype=torch.float16)}
        save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
        return tmp_path / "a.safetensors"

    def test_every_value_is_what_the_library_reads(self, path: Path) -> None:
        tensors, expected = open_tensors(path), load_file(path)
        assert tensors.names() == sorted(expected)
        for name, value in expected.items():
            assert (tensors.read(name).dtype, tensors.shape(name)) == (value.dtype, tuple(value.shape))
            assert torch.equal(tensors.read(name), value)
        third = len(expected["t9"]) // 3
        assert torch.equal(tensors.read("t9", slice(third, 2 * third)), expected["t9"][third : 2 * third])

    def test_the_header_is_read_once_however_many_tensors_are(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        library = mock.Mock(wraps=safetensors_file.safe_open)
        monkeypatch.setattr(safetensors_file, "safe_open", library)
        tensors = open_tensors(path)
        for name in tensors.names():
            tensors.read(name)
        assert library.call_count == 1

    def test_a_header_of_any_size_is_refused_by_its_length(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", MOST_HEADER + 1))
        os.truncate(path, 2 * MOST_HEADER)
        with pytest.raises(CheckpointError, match=rf"a\.safetensors has a header of {MOST_HEADER + 1} bytes, and at most"):
            open_tensors(path)

    @pytest.mark.parametrize(
        "header",
        [
            {"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 63, (1 << 63) + 4]}},
            {"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1]}},
            {"a": None},
            {"__metadata__": {"a": 1}},
            [],
            3,
        ],
    )
    def test_headers_that_are_none(self, tmp_path: Path, header: Any) -> None:
        text = json.dumps(header).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or not a safetensors file"):
            open_tensors(path)

    def test_a_file_cut_short_after_it_was_opened(self, path: Path) -> None:
        tensors = open_tensors(path)
        os.truncate(path, path.stat().st_size - 2)
        header = json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])
        name = max(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"][1])
        with pytest.raises(CheckpointError, match=rf"a\.safetensors: ends within '{name}'"):
            tensors.read(name)
        path.unlink()
        with pytest.raises(CheckpointError, match=r"a\.safetensors does not exist"):
            tensors.read(name)

    def test_a_tensor_in_two_shards(self, tmp_path: Path) -> None:
        for number in range(2):
            save_file({"a": torch.zeros(2), f"b{number}": torch.zeros(2)}, tmp_path / f"model-{number}.safetensors")
        index = {"weight_map": {"a": "model-0.safetensors", "b1": "model-1.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=r"model-1\.safetensors holds 'a', and so does .*model-0\.safetensors"):
            open_tensors(tmp_path)


def containers(count: int) -> bytes:
    """A pickle of lists that hold the one before twice: of few bytes, and 2 to the power of `count` lists."""
    return b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(count)) + b"."


LONG_NAME = b"X" + struct.pack("<I", MOST_NAME) + b"a" * MOST_NAME
SIZE = struct.pack("<Q", 1 << 62)  # bytes that no memory has room for


class TestTorch:
    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ({"data.pkl": bytes(MOST_PICKLE + 1)}, rf": 'archive/data\.pkl' has {MOST_PICKLE + 1} bytes, and at most"),
            ({"byteorder": bytes(MOST_PICKLE + 1)}, rf": 'archive/byteorder' has {MOST_PICKLE + 1} bytes, and at most"),
            ({"data.pkl": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."}, ""),
            ({"data.pkl": b"\x80\x04\x8d" + SIZE}, " is damaged"),  # a text
            ({"data.pkl": containers(40)}, r" holds more than \d+ objects"),
            ({"data.pkl": b"\x80\x02}" + LONG_NAME + b"q\0}h\0]ss."}, r" is damaged .*a name of more than \d+ characters"),
        ],
        ids=["large pickle", "large entry", "deep", "long text", "containers", "long name"],
    )
    def test_entries_that_are_refused(self, tmp_path: Path, entries: dict[str, bytes], message: str) -> None:
        path = archive(tmp_path / "a.pt", entries_of({"a": torch.zeros(3)}) | entries)
        with pytest.raises(CheckpointError, match=rf"a\.pt{message}"):
            open_tensors(path)

    def test_what_is_compressed_is_refused_before_it_expands(self, tmp_path: Path) -> None:
        entries = entries_of({"a": torch.zeros(3)}) | {"data.pkl": bytes(1 << 26)}
        path = archive(tmp_path / "bomb.pt", entries, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 1 << 17
        with pytest.raises(CheckpointError, match=r"bomb\.pt holds 'archive/.*' compressed, which PyTorch's archives are not"):
            open_tensors(path)

    def test_values_may_be_large(self, tmp_path: Path) -> None:
        torch.save({"a": torch.zeros(MOST_PICKLE // 4 + 1)}, tmp_path / "values.pt")
        assert open_tensors(tmp_path / "values.pt").shape("a") == (MOST_PICKLE // 4 + 1,)

    def test_a_size_that_is_no_size_of_the_entry(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "lie.pt", entries_of({"a": torch.zeros(3)}))
        content = path.read_bytes()
        place = content.index(b"archive/data.pkl", content.index(b"PK\1\2")) - 22  # its true size in the directory
        path.write_bytes(content[:place] + struct.pack("<I", 1 << 31) + content[place + 4 :])
        with pytest.raises(CheckpointError, match=r"lie\.pt"):
            open_tensors(path)

    @pytest.mark.parametrize(
        "error",
        [
            RecursionError("deep"),
            MemoryError(),
            OverflowError("large"),
            TypeError("type"),
            AttributeError("attribute"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "byte"),
            zipfile.BadZipFile("zip"),
            struct.error("struct"),
            KeyError("key"),
            EOFError(),
            AssertionError(),
            pickle.UnpicklingError("pickle"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_whatever_reading_raises_names_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def failing(*arguments: Any, **options: Any) -> Any:
            raise error

        torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
        for module, name in ((torch_archive, "read_pickle"), (zipfile, "ZipFile")):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, failing)
                with pytest.raises(CheckpointError, match=r"a\.pt"):
                    open_tensors(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02}X\x01\0\0\0ac__builtin__\nbytearray\n\x8a\x08" + SIZE + b"\x85RKar\xff\xff\xff\xff0s.",
            b"\x80\x02]q\0h\0a.",
        ],
        ids=["bytearray and memo", "cycle"],
    )
    def test_a_few_bytes_that_ask_for_all_memory(self, tmp_path: Path, content: bytes) -> None:
        """PyTorch itself makes a `bytearray` of any size where it runs no code, and Python a list for the largest number of a
        memo; a list that holds itself stands for any number of them."""
        assert open_tensors(archive(tmp_path / "a.pt", entries_of({}) | {"data.pkl": content})).names() == []

    def test_one_tensor_that_stands_for_many(self, tmp_path: Path) -> None:
        torch.save([torch.zeros(3)] * (1 << 18), tmp_path / "many.pt")
        with pytest.raises(CheckpointError, match=r"many\.pt holds more than \d+ objects"):
            open_tensors(tmp_path / "many.pt")

    @pytest.mark.parametrize("sizes", [(-1,), (1 << 62, 0), (1 << 40, 0, 1 << 40), (True,), (1.5,), ("3",)])
    def test_sizes_that_are_none(self, tmp_path: Path, sizes: tuple[Any, ...]) -> None:
        class Odd:
            def __reduce__(self) -> tuple[Any, ...]:
                storage = torch.zeros(3).untyped_storage()
                typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
                return torch._utils._rebuild_tensor_v2, (typed, 0, sizes, (1,) * len(sizes), False, {})

        torch.save({"a": Odd()}, tmp_path / "sizes.pt")
        with pytest.raises(CheckpointError, match=r"sizes\.pt is damaged"):
            open_tensors(tmp_path / "sizes.pt")

    def test_more_values_than_are_stored(self, tmp_path: Path) -> None:
        """A few bytes can stand for a tensor of any shape, which a float32 copy would give its memory."""
        torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "wide.pt")
        with pytest.raises(CheckpointError, match=r"wide\.pt: 'a' is \[1048576, 1048576\], and fewer values are stored"):
            open_tensors(tmp_path / "wide.pt").read("a")

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: torch.zeros(3, device="meta"), "a tensor without values"),
            (lambda: torch.nested.nested_tensor([torch.zeros(2)]), "a nested tensor"),
        ],
    )
    def test_tensors_without_values_of_their_own(self, tmp_path: Path, make: Callable[[], Tensor], said: str) -> None:
        torch.save({"a": make()}, tmp_path / "odd.pt")
        tensors = open_tensors(tmp_path / "odd.pt")
        assert (tensors.names(), tensors.others) == ([], {"a": said})


@pytest.mark.parametrize("value", [1e7, -3e38, math.nan])
def test_weights_that_nothing_can_be_computed_with(tmp_path: Path, value: float) -> None:
    write_config(tmp_path / "model.json")
    architecture = read_architecture("model.json", tmp_path)
    state = {name: tensor.clone() for name, tensor in tiny_model().visual.state_dict().items()}
    state["ln_post.weight"][5] = value
    save_file(state, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint("a.safetensors", base=tmp_path, architecture=architecture)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*ln_post\.weight .*(no weight is larger than 1e\+06|are NaN)"):
        check_checkpoint(checkpoint, architecture, backbone=True)
