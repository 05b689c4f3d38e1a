"""What a bundle costs beside the models that it stands for, measured in a process that holds nothing else."""

from __future__ import annotations

from pathlib import Path

from joblib.externals.loky import ProcessPoolExecutor

from mingle_edge_runtime.profile import ProfileReport, profile

RUNS = 200


def measure_cost(bundle: Path) -> dict[str, float]:
    """Profile a bundle at batch 1 and one thread, beside one model without experts and beside a model for each task.

    Returns median milliseconds, ratios to the tower without experts, and what memory grows by once all tasks are in use, in
    bytes. The process is a new one: in one that has trained models, memory that was let go would hide what is taken.
    """
    with ProcessPoolExecutor(max_workers=1) as processes:
        report: ProfileReport = processes.submit(_profile, bundle).result()
    ratios = report.ratios["dense"]
    return {
        "ratio_to_dense": ratios["named"].ratio,
        "ratio_to_dense_routed": ratios["routed"].ratio,
        **{f"milliseconds_{kind}": 1e3 * report.latency[kind].p50 for kind in ("dense", "named", "routed")},
        "memory_bundle": report.residence["bundle"].memory.resident,
        "memory_separate_models": report.residence["separate-models"].memory.resident,
    }


def _profile(bundle: Path) -> ProfileReport:
    return profile(bundle, runs=RUNS, threads=1, batch_sizes=(1,), against=("dense", "separate-models"))
