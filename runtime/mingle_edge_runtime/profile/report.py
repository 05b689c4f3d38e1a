"""The report of a profile as dataclasses: what `docs/profile-report.md` specifies, written and read through the same code.

Times are in seconds, memory in bytes. Nothing here measures.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mingle_edge_runtime.bundle.json_record import RecordError, read_record, write_record
from mingle_edge_runtime.errors import EdgeError

FORMAT = "mingle-edge profile"
FORMAT_VERSION = 1
BUSY = 0.1
"""Share of the cores' time that goes to others, above which a profile says that the machine was busy."""
_LARGEST = 256 << 20  # bytes; far above any real report


@dataclass(frozen=True)
class ProfiledBundle:
    """What was measured."""

    name: str
    """of its folder"""
    scope: str
    precision: str
    expert_precision: str
    tasks: tuple[str, ...]
    top_k: int
    expert_bytes: dict[str, int]
    """bytes by task"""
    index_sha256: str
    """of bundle.json, which holds the hash of every other file"""


@dataclass(frozen=True)
class ProfileSettings:
    """What was asked for."""

    runs: int
    """timed runs of each kind at batch 1"""
    threads: int | None
    """of one operator; None: ONNX Runtime decided"""
    providers: tuple[str, ...]
    images: int
    """different images, taken in turn"""
    batch_sizes: tuple[int, ...]
    against: tuple[str, ...]
    """the baselines"""
    switch_every: int
    """requests after which the named task changes"""
    expert_budget: int | None
    """bytes; None: no limit"""
    low_memory: bool
    """whether the bundle's weights stay mapped from its files; those of the baselines do not"""
    cool_down: float
    """seconds of rest between the phases"""


@dataclass(frozen=True)
class Machine:
    """`machine_record`; None for what the machine does not tell."""

    cpu: str | None
    instruction_sets: tuple[str, ...] | None
    """of the processor, those that matter; empty where it has none of them"""
    architecture: str
    logical_cores: int | None
    usable_cores: int | None
    memory_bytes: int
    load_average: tuple[float, ...]
    """of the last 1, 5, 15 minutes when the profile began"""
    governor: str | None
    """of the processor's frequency"""
    os: str
    python: str
    onnxruntime: str


@dataclass(frozen=True)
class OnceSeconds:
    """What was timed once; None where the profile was interrupted before."""

    import_onnxruntime: float | None = None
    start_onnxruntime: float | None = None
    """its first session and run, of a product of a few numbers: what it takes before any model is there"""
    open: float | None = None
    first_run: float | None = None
    preprocess_per_image: float | None = None


@dataclass(frozen=True)
class Latency:
    """Times of the runs of one kind."""

    p50: float
    p90: float
    p95: float
    p99: float
    interval: tuple[float, float] | None
    """95% confidence interval of the median; None with too few runs"""
    drift: float | None
    """median of the last quarter of the runs over that of the first; None with too few runs"""
    seconds: tuple[float, ...]
    """every run in order, rounded to 0.1 microseconds"""


@dataclass(frozen=True)
class Ratio:
    """One kind against another one that ran interleaved with it."""

    ratio: float
    """of the medians"""
    quartiles: tuple[float, float]
    """of the ratios of neighboring runs"""
    interval: tuple[float, float] | None
    """95% confidence interval of `ratio`; None with too few runs"""


@dataclass(frozen=True)
class Switch:
    """Runs whose request names another task than the one before, beside those that do not."""

    switching: float
    """median seconds at a change of task"""
    staying: float | None
    """median seconds without a change; None where every request changed it"""
    slowest: float
    """seconds of the slowest run"""


@dataclass(frozen=True)
class Batch:
    """Runs of one batch size other than 1."""

    batch: int
    latency: dict[str, Latency]
    """by kind, of a whole batch"""
    ratios: dict[str, dict[str, Ratio]]
    """by baseline, then by kind"""


@dataclass(frozen=True)
class Memory:
    """Of this process, at a moment or as a difference of two; None where the system does not tell."""

    resident: int
    anonymous: int | None
    """not backed by a file"""
    file: int | None
    """mapped files, which the system takes back when it needs memory"""

    def since(self, before: Memory) -> Memory:
        """Return the growth from `before` to this moment."""
        return Memory(
            self.resident - before.resident,
            None if self.anonymous is None or before.anonymous is None else self.anonymous - before.anonymous,
            None if self.file is None or before.file is None else self.file - before.file,
        )


@dataclass(frozen=True)
class Residence:
    """What it takes to have something ready to run."""

    open: float
    """seconds to open it"""
    memory: Memory
    """growth of the process from before it was opened until it had run each task"""


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator in a run."""

    operator: str
    nodes: int
    seconds: float
    """median over the runs"""


@dataclass(frozen=True)
class LayerTime:
    """All nodes of one layer in a run, in the order of the graph."""

    layer: str
    """the node name's part before "/", "other" where it has none"""
    seconds: float
    """median over the runs"""


@dataclass(frozen=True)
class Trace:
    """Where the time of one graph's run goes, by ONNX Runtime's trace, which slows the run itself a little."""

    runs: int
    run_seconds: float
    """median of the whole run inside ONNX Runtime"""
    kernel_seconds: float
    """median of the sum of its operators"""
    operators: tuple[OperatorTime, ...]
    """longest first"""
    layers: tuple[LayerTime, ...]


@dataclass(frozen=True)
class TrafficRun:
    """Experts in one routed run of one image, from the first run after opening on."""

    seconds: float
    tasks: tuple[str, ...]
    """whose experts it used"""
    hits: int
    misses: int
    evictions: int
    bytes_loaded: int
    resident_bytes: int
    """after the run"""
    stall_seconds: float
    stage: str | None
    """what settled its route, as in `Route.stage`"""


@dataclass(frozen=True)
class RouterStage:
    """One stage of the router."""

    stage: str
    seconds: float
    """median at batch 1; of the stage that reads embeddings, with the plain backbone's run"""
    reached: float
    """share of the routed runs of one image that needed it"""
    settled: float
    """share of them that it settled; what no stage settled was judged between two experts"""


@dataclass(frozen=True)
class ExpertTotals:
    """The counters of the experts from opening to the end of the latency runs."""

    budget: int | None
    resident_bytes: int
    peak_bytes: int
    hits: int
    misses: int
    evictions: int
    bytes_loaded: int
    stall_seconds: float
    overshoot_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SweepRow:
    """One value of one axis."""

    axis: str
    value: str
    latency: dict[str, Latency]
    """by kind, per image"""
    ratios: dict[str, Ratio]
    """by kind, against the axis' first value, interleaved with it; empty for the first value itself"""
    memory: Memory
    """growth of the process from before this setting was opened until it was warm"""


@dataclass(frozen=True)
class Contention:
    """Who else used the cores that this process may use, during the whole profile; shares of the time of these cores."""

    others: float
    """of other processes"""
    stolen: float
    """of other guests on the host of this virtual machine, while there was work here"""


@dataclass(frozen=True)
class ProfileReport:
    """Everything that `profile` measured."""

    format: str
    format_version: int
    complete: bool
    """false where the profile was interrupted; what is there was measured"""
    started: str
    """UTC, ISO 8601"""
    bundle: ProfiledBundle
    settings: ProfileSettings
    machine: Machine
    seconds: OnceSeconds
    latency: dict[str, Latency]
    """by kind, at batch 1"""
    ratios: dict[str, dict[str, Ratio]]
    """by baseline, then by kind"""
    switches: dict[str, Switch]
    """by kind, for those that a change of task concerns"""
    batches: tuple[Batch, ...]
    memory: dict[str, Memory]
    """by moment: imported, before, opened, first_run, routed, steady"""
    residence: dict[str, Residence]
    """of the bundle and of each baseline"""
    operators: dict[str, Trace]
    """by graph"""
    traffic: tuple[TrafficRun, ...]
    experts: ExpertTotals | None
    sweep: tuple[SweepRow, ...]
    notes: tuple[str, ...]
    contention: Contention | None
    """None where the system does not tell, or the profile was too short to"""
    router: tuple[RouterStage, ...] | None
    """image scope"""

    @property
    def router_seconds(self) -> float | None:
        """Return what the router is expected to take for an image, by the shares of images that its stages are needed for."""
        return None if self.router is None else sum(stage.seconds * stage.reached for stage in self.router)

    @property
    def busy(self) -> str | None:
        """Return a sentence that warns of a machine that did other work meanwhile; None where it was quiet or does not tell."""
        share = self.contention
        if share is None or share.others + share.stolen <= BUSY:
            return None
        cores = self.machine.usable_cores
        which = "the core" if cores == 1 else f"the {cores} cores" if cores else "the cores"
        host = f", and the host of this virtual machine gave {share.stolen:.0%} to others" if share.stolen > BUSY / 2 else ""
        return (
            f"the machine was busy: other programs took {share.others:.0%} of {which} during the profile{host}. "
            "Times are longer and vary more than on a quiet machine; ratios of interleaved runs suffer least. Profile again "
            "when it is quiet"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that a report file holds; members that are None are left out."""
        record: dict[str, Any] = write_record(self)
        return record

    @classmethod
    def read(cls, path: str | PathLike[str]) -> ProfileReport:
        """Read the report at `path`. Raises `EdgeError` naming the file and the first member that is wrong."""
        path = Path(path)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would wait, a device never ends
                raise EdgeError(f"{path} is no plain file; name one that `mingle-edge profile --json` wrote")
            if status.st_size > _LARGEST:
                raise EdgeError(f"{path} has {status.st_size} bytes; a profile has at most {_LARGEST}")
            value = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise EdgeError(f"{path} cannot be read: {error.strerror}; write one with `mingle-edge profile --json`") from error
        except (ValueError, RecursionError) as error:
            raise EdgeError(f"{path} is not valid JSON: {error}; write one with `mingle-edge profile --json`") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise EdgeError(f'{path}: format must be "{FORMAT}"; write one with `mingle-edge profile --json`')
        version = value.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise EdgeError(f"{path}: format_version is {version}, this reads up to {FORMAT_VERSION}: upgrade mingle-edge")
        try:
            return read_record(cls, value)
        except RecordError as error:
            raise EdgeError(f"{path}: {error}") from error
