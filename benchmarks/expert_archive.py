"""Would compressing the files of experts pay? Their bytes as they are and compressed, and the time until a run can begin.

    python -m benchmarks.expert_archive [--models ViT-B-32 ...] [--ranks 16 32] [--rounds 30]

Experts are random with singular values that decay as measured ones do (`task_vector_spectra.py`): B has orthonormal columns, A
orthonormal rows times singular values, vectors differ from the backbone's a little. Each is written as the exporter writes it,
in int8 and int4, and compressed whole by zlib (level 9), by LZMA and, where the package zstandard is installed, by zstd (level
19). `open` is what the runtime does with a file in the system's cache until a run can begin: int8 is mapped and checked, int4
is read and expanded; with a compressor's name it is decompressed first. Medians in milliseconds by the thread's own clock.
"""

from __future__ import annotations

import importlib
import importlib.util
import lzma
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.architectures import MODELS, normal, random_backbone
from benchmarks.command import make_parser, write_report
from benchmarks.full_size import DECAY, SHIFT, decaying
from benchmarks.interleaved import compare_in_turn
from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.bundle.adapters import write_adapter
from mingle_edge_export.tower.expert_inputs import expert_values
from mingle_edge_runtime.bundle.index import Precision
from mingle_edge_runtime.experts.adapter import adapter_values
from mingle_edge_runtime.experts.adapter_tensors import adapter_tensors, check_fit
from mingle_edge_runtime.ort.machine import machine_record
from mingle_edge_runtime.ort.session import OptionalInput

Arrays = dict[str, NDArray[np.float32]]
Bytes = Callable[[bytes], bytes]
PRECISIONS: tuple[Precision, ...] = ("int8", "int4")


def main(options: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=30)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32"], choices=list(MODELS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[16, 32])
    arguments = parser.parse_args(options)
    print(f"{machine_record()['cpu']}, onnxruntime {onnxruntime.__version__}\n")
    columns = ("model", "rank", "precision", "compressed by", "MB", "of the file", "open, ms")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows = []
    for model in arguments.models:
        backbone = random_backbone(MODELS[model])
        for rank in arguments.ranks:
            expert = random_expert(MODELS[model], backbone, rank)
            for precision in PRECISIONS:
                for name, figures in measured(MODELS[model], backbone, expert, precision, arguments.rounds).items():
                    rows.append({"model": model, "rank": rank, "precision": precision, "by": name, **figures})
                    size, share = figures["bytes"] / 1e6, f"{100 * figures['share']:.1f}%"
                    print(f"| {model} | {rank} | {precision} | {name} | {size:.2f} | {share} | {figures['open_ms']:.1f} |")
    write_report(arguments.json, {"experts": rows})


def random_expert(a: VisionArchitecture, backbone: Mapping[str, NDArray[np.float32]], rank: int) -> Arrays:
    """Draw an expert whose singular values decay, as a merged model holds it."""
    random, expert = np.random.default_rng(1), Arrays()
    for layer in a.linear_layers():
        d_out, d_in = a.linear_shape(layer)
        left, right = (np.linalg.qr(random.standard_normal((d, rank)))[0] for d in (d_out, d_in))
        values = decaying(min(d_out, d_in), *DECAY)
        size = SHIFT * np.linalg.norm(backbone[f"{layer}.weight"]) / np.linalg.norm(values)
        expert[f"{layer}.B"] = left.astype(np.float32)  # [d_out, rank]
        expert[f"{layer}.A"] = (size * values[:rank, None] * right.T).astype(np.float32)  # [rank, d_in]
    for name, shape in a.vector_shapes().items():
        expert[name] = backbone[name] + np.float32(SHIFT) * normal(random, *shape)
    return expert


def measured(
    a: VisionArchitecture, backbone: Mapping[str, NDArray[np.float32]], expert: Arrays, precision: Precision, rounds: int
) -> dict[str, dict[str, float]]:
    """Return bytes, share of the file and milliseconds to open it, by what it is compressed with."""
    inputs = integer_inputs(a)
    vectors = {name: backbone[name] for name in a.vector_shapes()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "expert"
        write_adapter(path, expert_values(a, expert, backbone, a.linear_layers(), precision))
        content = path.read_bytes()
        packed = {name: compress(content) for name, (compress, _) in compressors().items()}

        def mapped() -> Any:
            check_fit(adapter_tensors(np.memmap(path, np.uint8, "r"), "it"), inputs, "it")
            adapter = onnxruntime.LoraAdapter()
            adapter.Load(str(path))
            return adapter

        def read(content: bytes | None = None) -> Any:
            stored = np.fromfile(path, np.uint8) if content is None else np.frombuffer(content, np.uint8)
            return adapter_values(stored, inputs, vectors, "it")

        ways: dict[str, Callable[[], Any]] = {"nothing": mapped if precision == "int8" else read}
        for name, (_, decompress) in compressors().items():
            ways[name] = lambda name=name, decompress=decompress: read(decompress(packed[name]))  # type: ignore[misc]
        times = compare_in_turn(ways, rounds, clock=time.thread_time)
    sizes = {"nothing": len(content)} | {name: len(value) for name, value in packed.items()}
    return {
        name: {"bytes": size, "share": size / len(content), "open_ms": times[name]["median_ms"]} for name, size in sizes.items()
    }


def compressors() -> dict[str, tuple[Bytes, Bytes]]:
    """Return how to compress and decompress, by name."""
    found: dict[str, tuple[Bytes, Bytes]] = {
        "zlib": (lambda content: zlib.compress(content, 9), zlib.decompress),
        "LZMA": (lambda content: lzma.compress(content, preset=9), lzma.decompress),
    }
    if importlib.util.find_spec("zstandard"):
        zstandard = importlib.import_module("zstandard")
        found["zstd"] = (zstandard.ZstdCompressor(level=19).compress, zstandard.ZstdDecompressor().decompress)
    return found


def integer_inputs(a: VisionArchitecture) -> dict[str, OptionalInput]:
    """Return the optional inputs of a tower that multiplies 8-bit codes of experts."""
    inputs = {name: OptionalInput(shape, np.dtype(np.float32)) for name, shape in a.vector_shapes().items()}
    for layer in a.linear_layers():
        rank, (d_out, d_in) = f"{layer}.rank", a.linear_shape(layer)
        inputs[f"{layer}.A_codes"] = OptionalInput((d_in, rank), np.dtype(np.int8))
        inputs[f"{layer}.B_codes"] = OptionalInput((rank, d_out), np.dtype(np.int8))
        inputs[f"{layer}.scale"] = OptionalInput((rank,), np.dtype(np.float32))
    return inputs


if __name__ == "__main__":
    main()
