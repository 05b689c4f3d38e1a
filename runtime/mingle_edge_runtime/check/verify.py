"""Is this bundle intact, and does this machine compute it right? Hashes, heads, and the outputs that travel with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

from mingle_edge_runtime.bundle.bundle import Bundle, Progress
from mingle_edge_runtime.bundle.head import read_heads
from mingle_edge_runtime.check.golden import golden_outputs, largest_differences, least_cosines, read_golden
from mingle_edge_runtime.errors import BundleError, DeviceDiffersError
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.arithmetic import Arithmetic, measure_arithmetic
from mingle_edge_runtime.ort.providers import resolve_providers
from mingle_edge_runtime.ort.session import check_threads
from mingle_edge_runtime.scopes.opening import open_scope
from mingle_edge_runtime.scopes.scope import Scope


@dataclass(frozen=True)
class Verification:
    """What `verify` found. A hash, a head or a label that is wrong, or golden outputs that cannot be read, raise instead."""

    files: int
    """files whose hash was right"""
    bytes: int
    """their size together"""
    heads: int
    """whose values are finite and bounded"""
    labels: int
    """of all tasks, none blank, no two of a task the same"""
    cosines: dict[str, float]
    """per part, the smallest cosine with the golden output among its images"""
    least_cosine: float
    """that each must have, as the bundle says"""
    differences: dict[str, float]
    """per part, the largest difference of a probability or an expected loss, or of a confidence relative to itself"""
    largest_difference: float
    """that each may have, as the bundle says"""
    arithmetic: Arithmetic
    """what this machine multiplies with"""
    notes: tuple[str, ...]
    """what this provider does differently, nodes that it leaves to another one included"""
    seconds: float
    """that all of it took"""

    def check(self) -> None:
        """Raise `DeviceDiffersError` naming the machine and every part that differs from its golden output too much."""
        wrong = [
            f"{part} has a cosine of {cosine:.6f}, at least {self.least_cosine} is needed"
            for part, cosine in self.cosines.items()
            if not cosine >= self.least_cosine
        ]
        wrong += [
            f"{part} differs by {difference:.2g}, at most {self.largest_difference:g} is allowed"
            for part, difference in self.differences.items()
            if not difference <= self.largest_difference
        ]
        if wrong:
            if self.arithmetic.saturation:
                wrong.append(f"this processor multiplies 8-bit integers with saturation: {self.arithmetic.saturation}")
            raise DeviceDiffersError(
                f"the bundle does not compute its golden outputs on this machine, {self.arithmetic}: {'; '.join(wrong)}. "
                "Try another version of ONNX Runtime or another provider, or export the bundle again in a higher precision"
            )


def verify(
    path: str | PathLike[str],
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check hashes, heads and labels of the bundle folder at `path`, then recompute its golden outputs.

    providers, threads: as in `EdgeModel.open`.
    progress: called with bytes hashed and their total.

    Raises `BundleError` where the bundle is damaged, `DeviceDiffersError` where it is intact and does not load or run here, and
    leaves it to `Verification.check` to raise where outputs differ.
    """
    bundle = Bundle.open(path)
    check_threads(threads)
    full = resolve_providers(providers)
    return verify_bundle(bundle, partial(open_scope, bundle, None, full, threads), full, progress)


def verify_bundle(
    bundle: Bundle, opened: Callable[[], Scope], providers: Sequence[str], progress: Progress | None = None
) -> Verification:
    """Do what `verify` does with a bundle that is open already.

    opened: opens what serves it, once hashes and heads are right; it is let go when this returns. providers: full names.
    """
    started = time.perf_counter()
    bundle.verify_hashes(progress)
    index = bundle.index
    heads = read_heads(bundle)
    golden = read_golden(bundle)
    pixels = preprocess(golden["images"], index.preprocess)
    try:
        scope = opened()
        actual = golden_outputs(bundle, scope, heads, pixels)
    except BundleError as error:
        if type(error) is not BundleError:
            raise
        raise DeviceDiffersError(
            f"{error}. Every file is as it was exported: try another version of ONNX Runtime or another provider, or export "
            "the bundle again"
        ) from error
    return Verification(
        files=len(index.files),
        bytes=sum(file.size for file in index.files.values()),
        heads=len(heads),
        labels=sum(len(task.labels) for task in index.tasks),
        cosines=least_cosines(bundle, actual, golden),
        least_cosine=index.fidelity.golden_cosine,
        differences=largest_differences(bundle, actual, golden),
        largest_difference=index.fidelity.golden_difference,
        arithmetic=measure_arithmetic(providers),
        notes=scope.experts.stats().notes,
        seconds=time.perf_counter() - started,
    )
