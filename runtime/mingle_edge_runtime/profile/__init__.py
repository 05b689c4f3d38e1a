"""What a bundle costs on this machine, beside what a user would do without it.

    from mingle_edge_runtime.profile import profile

    report = profile("bundle", against=("dense", "reload"))
    print(report.latency["named"].p50, report.ratios["dense"]["named"].ratio)

What is compared is interleaved run by run in one process, so that a machine that slows down slows down all of it; ratios are
of medians. `docs/profile-report.md` specifies the report.
"""

from mingle_edge_runtime.profile.baselines import BASELINES
from mingle_edge_runtime.profile.comparison import Comparison, Figure, compare
from mingle_edge_runtime.profile.measurement import BATCH_SIZES, ProfileInterrupted, profile
from mingle_edge_runtime.profile.report import ProfileReport
from mingle_edge_runtime.profile.sweep import AXES

__all__ = [
    "AXES",
    "BASELINES",
    "BATCH_SIZES",
    "Comparison",
    "Figure",
    "ProfileInterrupted",
    "ProfileReport",
    "compare",
    "profile",
]
