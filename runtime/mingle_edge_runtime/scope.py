"""What serves a bundle of each scope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from mingle_edge_runtime.bundle import Bundle
from mingle_edge_runtime.folded_scope import FoldedScope
from mingle_edge_runtime.image_scope import ImageScope
from mingle_edge_runtime.layer_scope import LayerScope
from mingle_edge_runtime.session import check_version

Scope: TypeAlias = ImageScope | LayerScope | FoldedScope
_SCOPES: dict[str, type[Scope]] = {"image": ImageScope, "layer": LayerScope, "folded": FoldedScope}


def open_scope(
    bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool = False
) -> Scope:
    """Open what serves the bundle's scope; see `EdgeModel.open`. providers: full names."""
    check_version(bundle.index.minimum_onnxruntime)
    return _SCOPES[bundle.index.scope](bundle, budget, providers, threads, low_memory)
