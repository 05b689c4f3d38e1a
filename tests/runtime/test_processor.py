"""What the system says of the processor, in the words that Linux and macOS use on machines of several kinds."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from mingle_edge_runtime.ort.processor import Processor, parse_cpuinfo, parse_sysctl, read_processor

# Excerpts: the lines that name the machine, and of the flags those between which the ones that matter stand.
XEON_AMX = """model		: 143
model name	: Intel(R) Xeon(R) Platinum 8488C
flags		: fpu avx f16c avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx_vnni avx512_bf16 avx512_vnni amx_bf16 \
amx_tile amx_int8 flush_l1d

model name	: another one
flags		: fpu
"""
XEON_VNNI = """model name	: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
flags		: fpu avx f16c avx2 avx512f avx512dq avx512cd avx512bw avx512vl xsaveopt pku ospke avx512_vnni
"""
XEON_PHI = """model name	: Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz
flags		: fpu avx f16c avx2 avx512f avx512pf avx512er avx512cd
"""
ALDER_LAKE = """model name	: 12th Gen Intel(R) Core(TM) i7-12700
flags		: fpu sse4_2 avx f16c avx2 bmi2 avx_vnni umip waitpkg gfni vaes vpclmulqdq
"""
NEHALEM = """model name	: Intel(R) Xeon(R) CPU           X5570  @ 2.93GHz
flags		: fpu vme ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm
"""
PI_4_OLD_KERNEL = """model name	: ARMv7 Processor rev 3 (v7l)
Features	: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32
Hardware	: BCM2711
Model		: Raspberry Pi 4 Model B Rev 1.1
"""
PI_5 = """Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
Revision	: c04170
Model		: Raspberry Pi 5 Model B Rev 1.0
"""
GRAVITON_3 = """Features	: fp asimd evtstrm aes asimdhp cpuid asimdrdm lrcpc dcpop asimddp sha512 sve asimdfhm dit svei8mm \
svebf16 i8mm bf16 dgh rng
"""
RISC_V = """isa		: rv64imafdc
mmu		: sv39
"""

APPLE_M1 = """hw.optional.arm.FEAT_BF16: 0
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
hw.optional.arm.FEAT_SME: 0
machdep.cpu.brand_string: Apple M1
"""
APPLE_M4 = """hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 1
hw.optional.arm.FEAT_SME2: 1
machdep.cpu.brand_string: Apple M4
"""
INTEL_MAC = """hw.optional.avx2_0: 1
machdep.cpu.brand_string: Intel(R) Core(TM) i5-1038NG7 CPU @ 2.00GHz
machdep.cpu.features: FPU SSE4.2 AES AVX1.0 RDRAND F16C
machdep.cpu.leaf7_features: BMI1 AVX2 AVX512F AVX512DQ AVX512IFMA AVX512CD AVX512BW AVX512VL AVX512VBMI GFNI AVX512VNNI RDPID
"""
CASES = {
    "Xeon with AMX": (XEON_AMX, "Intel(R) Xeon(R) Platinum 8488C", ("AVX2", "AVX-512", "AVX-VNNI", "AVX-512 VNNI", "AMX-INT8")),
    "Xeon with VNNI": (XEON_VNNI, "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", ("AVX2", "AVX-512", "AVX-512 VNNI")),
    "Xeon Phi, without BW and VL": (XEON_PHI, "Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz", ("AVX2",)),
    "Alder Lake": (ALDER_LAKE, "12th Gen Intel(R) Core(TM) i7-12700", ("AVX2", "AVX-VNNI")),
    "Nehalem": (NEHALEM, "Intel(R) Xeon(R) CPU           X5570  @ 2.93GHz", ()),
    "Raspberry Pi 4": (PI_4_OLD_KERNEL, "Raspberry Pi 4 Model B Rev 1.1", ()),
    "Raspberry Pi 5": (PI_5, "Raspberry Pi 5 Model B Rev 1.0", ("dotprod",)),
    "Graviton 3": (GRAVITON_3, None, ("dotprod", "i8mm", "SVE")),
    "RISC-V": (RISC_V, None, None),
    "nothing": ("", None, None),
}


@pytest.mark.parametrize("machine", CASES)
def test_linux(machine: str) -> None:
    text, name, sets = CASES[machine]
    assert parse_cpuinfo(text) == Processor(name, sets)


@pytest.mark.parametrize(
    ("text", "architecture", "name", "sets"),
    [
        (APPLE_M1, "arm64", "Apple M1", ("dotprod",)),
        (APPLE_M4, "arm64", "Apple M4", ("dotprod", "i8mm", "SME", "SME2")),
        (INTEL_MAC, "x86_64", "Intel(R) Core(TM) i5-1038NG7 CPU @ 2.00GHz", ("AVX2", "AVX-512", "AVX-512 VNNI")),
        (APPLE_M1, "x86_64", "Apple M1", None),  # translated
        ("", "arm64", None, None),
    ],
)
def test_macos(text: str, architecture: str, name: str | None, sets: tuple[str, ...] | None) -> None:
    assert parse_sysctl(text, architecture) == Processor(name, sets)


def fail(*_: object, **options: object) -> None:
    """What the system does that lacks a program or a file."""
    raise FileNotFoundError


def test_sysctl_is_asked_on_macos_and_a_mac_without_it_is_unknown(monkeypatch) -> None:
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, APPLE_M4, "")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(subprocess, "run", run)
    assert read_processor().name == "Apple M4"
    assert asked == [["/usr/sbin/sysctl", "hw.optional", "machdep.cpu"]]

    monkeypatch.setattr(subprocess, "run", fail)
    assert read_processor() == Processor(None, None)


def test_nothing_is_guessed_where_the_system_is_silent(monkeypatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6")
    monkeypatch.setattr(Path, "read_text", fail)
    assert read_processor() == Processor("Intel64 Family 6", None)


def test_this_machine_is_read_from_its_own_cpuinfo() -> None:
    text = Path("/proc/cpuinfo").read_text()
    flags = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    this = read_processor()
    assert this.instruction_sets is not None
    for name, flag in {"AVX2": "avx2", "AVX-512 VNNI": "avx512_vnni", "dotprod": "asimddp", "i8mm": "i8mm"}.items():
        assert (name in this.instruction_sets) == (flag in flags)


@pytest.mark.parametrize(
    ("described", "text"),
    [
        (Processor("AMD EPYC", ("AVX2",)), "AMD EPYC (AVX2)"),
        (Processor("Raspberry Pi 4", ()), "Raspberry Pi 4 (none of the instruction sets that matter)"),
        (Processor("M", None), "M (unknown instruction sets)"),
    ],
)
def test_a_processor_in_words(described: Processor, text: str) -> None:
    assert str(described) == text
