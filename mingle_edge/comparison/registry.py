"""Every method by name."""

from __future__ import annotations

from mingle_edge.comparison.method import MethodSpec
from mingle_edge.methods import adamerging, image_scope, mingle, static, wemoe

SPECS: dict[str, MethodSpec] = {
    spec.name: spec for spec in (*static.SPECS, *adamerging.SPECS, *wemoe.SPECS, *mingle.SPECS, *image_scope.SPECS)
}
REFERENCES = ("pretrained", "individual")
"""Compared whatever is asked for: what there is to lose and to win."""
DEFAULT = (
    "weight-averaging,task-arithmetic,ties,magmax,consensus,opcm,adamerging,wemoe,mingle,mingle-per-image,mingle-exact,image"
)
"""Compared when no methods are named."""
