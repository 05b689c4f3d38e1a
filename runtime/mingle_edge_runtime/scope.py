"""What serves a bundle of each scope."""

from __future__ import annotations

from typing import TypeAlias

from mingle_edge_runtime.folded_scope import FoldedScope
from mingle_edge_runtime.image_scope import ImageScope
from mingle_edge_runtime.layer_scope import LayerScope

Scope: TypeAlias = ImageScope | LayerScope | FoldedScope
SCOPES: dict[str, type[Scope]] = {"image": ImageScope, "layer": LayerScope, "folded": FoldedScope}
"""by the index's name of the scope"""
