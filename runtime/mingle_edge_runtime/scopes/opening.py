"""Opens what serves a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.ort.session import check_version
from mingle_edge_runtime.scopes.folded_scope import FoldedScope
from mingle_edge_runtime.scopes.image_scope import ImageScope
from mingle_edge_runtime.scopes.layer_scope import LayerScope
from mingle_edge_runtime.scopes.scope import Scope

_SCOPES = {"image": ImageScope, "layer": LayerScope, "folded": FoldedScope}


def open_scope(
    bundle: Bundle, budget: int | None, providers: Sequence[str], threads: int | None, low_memory: bool = False
) -> Scope:
    """Open the graphs of a bundle and return what serves them; arguments as in `EdgeModel.open`.

    providers: full names in order of preference.

    Raises `BundleError`, `ProviderError`, `BudgetError`.
    """
    check_version(bundle.index.minimum_onnxruntime)
    scope: Scope = _SCOPES[bundle.index.scope](bundle, budget, providers, threads, low_memory)
    return scope
