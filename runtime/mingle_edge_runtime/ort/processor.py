"""The processor: its name, and the instruction sets that decide how fast, and how, it multiplies."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_NAMES = ("Model", "model name", "Hardware")  # a board's name says more than that of its ARM core's architecture
_X86 = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},  # what ONNX Runtime's kernels ask for
    "AVX-VNNI": {"avx_vnni"},
    "AVX-512 VNNI": {"avx512_vnni"},
    "AMX-INT8": {"amx_int8"},
}
_ARM = {"dotprod": {"asimddp"}, "i8mm": {"i8mm"}, "SVE": {"sve"}, "SME": {"sme"}, "SME2": {"sme2"}}
_APPLE = {"dotprod": "FEAT_DotProd", "i8mm": "FEAT_I8MM", "SME": "FEAT_SME", "SME2": "FEAT_SME2"}
_INTEL_MAC = {"AVX2": {"AVX2"}, "AVX-512": {"AVX512F", "AVX512BW", "AVX512DQ", "AVX512VL"}, "AVX-512 VNNI": {"AVX512VNNI"}}


@dataclass(frozen=True)
class Processor:
    """What the system says of the processor; None for what it does not say."""

    name: str | None
    """of the processor, or of the board where that is all there is"""
    instruction_sets: tuple[str, ...] | None
    """those that matter, as in `AVX2`, `AVX-512 VNNI`, `dotprod`; empty where the processor has none of them"""

    def __str__(self) -> str:
        sets = self.instruction_sets
        known = "unknown instruction sets" if sets is None else ", ".join(sets) or "none of the instruction sets that matter"
        return f"{self.name or platform.machine() or 'unknown processor'} ({known})"


def read_processor() -> Processor:
    """Ask the system: `/proc/cpuinfo` on Linux, `sysctl` on macOS; nothing is guessed elsewhere."""
    if platform.system() == "Darwin":
        return parse_sysctl(_sysctl(), platform.machine())
    try:
        processor = parse_cpuinfo(_CPUINFO.read_text(errors="replace"))
    except OSError:
        processor = Processor(None, None)
    return Processor(processor.name or platform.processor() or None, processor.instruction_sets)


def parse_cpuinfo(text: str) -> Processor:
    """Read the text of `/proc/cpuinfo` of x86 (`flags`) or ARM (`Features`); all cores have what the first one has."""
    values: dict[str, str] = {}
    for name, value in _pairs(text):
        values.setdefault(name, value)
    title = next((values[key] for key in _NAMES if values.get(key)), None)
    for line, sets in (("flags", _X86), ("Features", _ARM)):
        if line in values:
            return Processor(title, _complete(sets, values[line]))
    return Processor(title, None)


def parse_sysctl(text: str, architecture: str) -> Processor:
    """Read the lines of `sysctl hw.optional machdep.cpu` of a Mac.

    architecture: of this process, `arm64` or `x86_64`. Where it is translated for the other kind of processor, the instruction
    sets are unknown.
    """
    values = dict(_pairs(text))
    name = values.get("machdep.cpu.brand_string")
    if architecture == "arm64" and "hw.optional.arm.FEAT_DotProd" in values:
        return Processor(name, tuple(title for title, key in _APPLE.items() if values.get(f"hw.optional.arm.{key}") == "1"))
    if architecture == "x86_64" and "machdep.cpu.leaf7_features" in values:
        return Processor(name, _complete(_INTEL_MAC, values["machdep.cpu.leaf7_features"]))
    return Processor(name, None)


def _complete(sets: dict[str, set[str]], flags: str) -> tuple[str, ...]:
    """Return the titles of the sets whose flags are all there."""
    return tuple(title for title, needed in sets.items() if needed <= set(flags.split()))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def _sysctl() -> str:
    try:
        asked = ["/usr/sbin/sysctl", "hw.optional", "machdep.cpu"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
