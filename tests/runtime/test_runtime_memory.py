"""What the account of memory says, against memory that the test itself takes."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mingle_edge_runtime.ort.memory import mapped_bytes

SIZE = 64 << 20  # bytes, large against what else comes and goes

PEAK = """
import json
from mingle_edge_runtime.ort.memory import process_memory
before = process_memory()
block = b"x" * (64 << 20)
held = process_memory()
del block
after = process_memory()
print(json.dumps([[m.resident, m.peak] for m in (before, held, after)]))
"""


def test_the_peak_outlives_what_reached_it() -> None:
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, held, after = json.loads(run.stdout)
    assert held[1] >= before[0] + SIZE * 0.9
    assert after[1] == pytest.approx(held[1], rel=0.01)
    for resident, peak in (before, held, after):
        assert peak >= resident


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the files a process has mapped")
def test_mapped_files_are_listed_with_what_was_touched(tmp_path) -> None:
    folder = tmp_path / "a folder"
    (folder / "sub").mkdir(parents=True)
    maps = []
    for name in ("sub/whole", "untouched", "../outside"):
        (folder / name).write_bytes(bytes(SIZE // 16))
        with (folder / name).open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    assert mapped_bytes(folder) == {"sub/whole": 0, "untouched": 0}
    for touched in (maps[0], maps[2]):
        np.frombuffer(touched, np.uint8).sum()
    assert mapped_bytes(folder) == {"sub/whole": SIZE // 16, "untouched": 0}
    maps[0].close()
    assert mapped_bytes(folder) == {"untouched": 0}


def test_systems_without_proc_do_not_tell(monkeypatch, tmp_path) -> None:
    def absent(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert mapped_bytes(tmp_path) is None
