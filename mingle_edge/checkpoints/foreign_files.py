"""Files that hold no weights as mingle-edge reads them: what a file is by its first bytes, and the way on."""

from __future__ import annotations

from pathlib import Path

from mingle_edge.checkpoints.conversion_commands import save_again, save_unpickled

_SAVED_ANEW = "convert it to PyTorch with the library that wrote it, and save the state dict"
_BEGINNINGS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs",),
        "is a pointer of Git LFS, not the file it stands for; run `git lfs pull` where it was cloned, or download the file",
    ),
    ((b"GGUF", b"ggml", b"lmgg"), "is a GGUF file, whose weights are quantized for llama.cpp; use the model it was made from"),
    ((b"\x89HDF\r\n",), f"is an HDF5 file, as Keras writes; {_SAVED_ANEW}"),
    ((b"\x93NUMPY",), "is a numpy array; save the weights as .safetensors under the names that their library gives them"),
    ((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"\xfd7zXZ", b"BZh", b"Rar!"), "is compressed; unpack it"),
    (
        (b"<!doctype html", b"<!DOCTYPE html", b"<html", b"<HTML"),
        "is a web page, as failed downloads leave; download it again",
    ),
    ((b"\x18\0\0\0TFL", b"\x1c\0\0\0TFL", b"\x20\0\0\0TFL"), "is a model of TensorFlow Lite; use the model it was made from"),
    ((b"{", b"["), "is JSON text; name the file with the weights"),
)
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_FLAX = (b"\xde", b"\xdf", *(bytes([0x80 + count]) for count in range(1, 16)))  # a map of msgpack
_TAR = (257, b"ustar")
_PROTOBUF = (b"\x08", b"\x12", b"\x1a")  # the first fields of an ONNX model


def foreign_file(path: Path, beginning: bytes) -> str:
    """Say what a file is that is neither safetensors nor PyTorch's, and the way on, to follow its name; empty if unknown."""
    for magics, said in _BEGINNINGS:
        if beginning.startswith(magics):
            return said
    if beginning.startswith(_PICKLES):
        return f"is a plain pickle, not a file of torch.save; if you trust it, save it as one: {save_unpickled(path)}"
    if path.suffix == ".onnx" or (beginning.startswith(_PROTOBUF) and b"pytorch" in beginning[:32]):
        return "is an ONNX model, whose weights have lost their names; name the checkpoint it was exported from"
    if path.suffix == ".msgpack" and beginning.startswith(_FLAX):
        return (
            "holds weights of Flax; convert them with transformers 4: "
            "CLIPModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(NEW_FOLDER)"
        )
    if beginning[_TAR[0] :].startswith(_TAR[1]):
        return f"is a tar archive; unpack it, or, if PyTorch of before 2017 wrote it, save it again: {save_again(path)}"
    return ""
