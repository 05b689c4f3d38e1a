"""Every method by name, with its published parameters. Reading this table imports none of them, and so no torch.

Published parameters of the peers are those of the scripts behind Table 1 of the MINGLE paper (arXiv 2505.11883;
zihuanqiu/MINGLE, `examples/mingle/tab1.sh` and `config/method/mingle/`). Where a script does not compute what its method's
authors describe there are two methods: the plain name is the corrected one, `NAME-published` the script's arithmetic; both
start from the same published parameters.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mingle_edge.data.settings import CONSTANT_START, OFFICIAL, Settings

if TYPE_CHECKING:
    from mingle_edge.comparison.method import ContinualMethod, Workbench

TRIALS = 5
"""Parameter sets tried when a method is tuned, the same number for every method that has something to tune."""
FEW = 8
"""Tasks up to which the paper scales task vectors by 0.3; it takes 0.1 for its groups of 14 and 20."""
MANY = 20
"""Tasks from which Iso-C's scaling for ViT-B/32 is lower (crisostomi/mass, `conf/task_vectors.yaml`)."""
METHODS = "mingle_edge.comparison.methods"

Grid = tuple[Mapping[str, Any], ...]
Published = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class MethodSpec:
    """A method by name, with its published parameters and what is tried when it is tuned."""

    name: str
    summary: str  # one line: idea and source
    implementation: str  # `module:name` in `mingle_edge.comparison.methods`, called with a workbench and the parameters
    published: Published = lambda tasks: {}  # number of tasks -> every parameter with its published value
    grid: Grid = ()  # `TRIALS` parameter changes, or none where nothing is to be tuned

    def build(self, workbench: Workbench, parameters: Mapping[str, Any]) -> ContinualMethod:
        """Import the method and start a run of it. Raises the method's own errors for parameters that make no sense."""
        module, _, name = self.implementation.partition(":")
        method: ContinualMethod = getattr(importlib.import_module(f"{METHODS}.{module}"), name)(workbench, parameters)
        return method


def _always(**parameters: Any) -> Published:
    return lambda tasks: dict(parameters)


def _few_or_many(**others: Any) -> Published:
    return lambda tasks: {"scaling": 0.3 if tasks <= FEW else 0.1, **others}


def _grid(names: str, *values: float | tuple[Any, ...]) -> Grid:
    """Return one parameter change for each value, or tuple of values, of the names."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


_TIES_GRID = _grid("scaling keep", (0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.5, 0.2), (0.3, 0.5))
_SHARES = _grid("share", 0.2, 0.35, 0.5, 0.65, 0.8)
_STATIC = (
    MethodSpec("pretrained", "the backbone for every task", "references:Pretrained"),
    MethodSpec("individual", "each task's own model, told the task: the upper end", "references:Individual"),
    MethodSpec("weight-averaging", "running mean of the fine-tuned models (arXiv 2203.05482)", "static:weight_averaging"),
    MethodSpec(
        "task-arithmetic",
        "scaled sum of the task vectors (arXiv 2212.04089)",
        "static:task_arithmetic",
        _few_or_many(),
        _grid("scaling", 0.05, 0.1, 0.2, 0.3, 0.5),
    ),
    MethodSpec(
        "ties",
        "trimmed task vectors summed where their signs agree (arXiv 2306.01708)",
        "static:ties_merging",
        _few_or_many(keep=0.2),
        _TIES_GRID,
    ),
    MethodSpec(
        "ties-published",
        "TIES as the MINGLE paper ran it: each result is added to the merged vector that took part in it",
        "static:ties_as_published",
        _few_or_many(keep=0.2),
        _TIES_GRID,
    ),
    MethodSpec(
        "magmax",
        "the largest change of any task in each entry (arXiv 2407.06322)",
        "static:magmax",
        _always(scaling=0.5),
        _grid("scaling", 0.2, 0.3, 0.5, 0.7, 1.0),
    ),
    MethodSpec(
        "consensus",
        "scaled sum of the task vectors in entries that enough tasks use (Consensus TA, arXiv 2405.07813)",
        "static:consensus_arithmetic",
        _always(scaling=0.1, threshold=0.2, required=2),
        _grid("scaling threshold", (0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.2, 0.5), (0.3, 0.5)),
    ),
    MethodSpec(
        "consensus-published",
        "Consensus TA as the MINGLE paper ran it: masked by the newest task alone, earlier ones counted again",
        "static:consensus_as_published",
        _always(scaling=0.1, threshold=0.2),
        _grid("scaling threshold", (0.05, 0.2), (0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.1, 0.5)),
    ),
    MethodSpec(
        "opcm",
        "task vectors projected out of the merged one's leading directions, at constant norm (arXiv 2501.09522)",
        "static:projected_sum",
        _always(share=0.5),
        _SHARES,
    ),
    MethodSpec(
        "opcm-published",
        "OPCM as the MINGLE paper ran it: the diagonal is not removed, and the class token is the first task's",
        "static:projected_sum_as_published",
        _always(share=0.5),
        _SHARES,
    ),
)

# All tasks at once, made anew with each: what is kept of earlier ones stays where models are merged.
_SUBSPACES = (
    MethodSpec(
        "tsv-m",
        "of each task one in T singular components, made orthogonal to the others' and summed (TSV-M, arXiv 2412.00081)",
        "tsv_merge:tsv_merge",
        _always(scaling=1.0),
        _grid("scaling", 0.6, 0.8, 1.0, 1.2, 1.5),
    ),
    MethodSpec(
        "iso-c",
        "the sum of the task vectors with all singular values at their mean (Iso-C, arXiv 2502.04959)",
        "isotropic:iso_c",
        lambda tasks: {"scaling": 1.0 if tasks < MANY else 0.9},
        _grid("scaling", 0.7, 0.9, 1.0, 1.2, 1.5),
    ),
    MethodSpec(
        "iso-cts",
        "iso-c, with directions of each task in place of the sum's weakest (Iso-CTS, arXiv 2502.04959)",
        "isotropic:iso_cts",
        _always(scaling=1.0, share=0.8),
        _grid("scaling share", (0.7, 0.8), (1.0, 0.8), (1.2, 0.8), (1.5, 0.8), (1.0, 0.6)),
    ),
)

_ENTROPY = {"start": 0.3, "learning_rate": 1e-4, "steps": 50, "batch_size": 16}
_ADAMERGING_GRID = _grid("learning_rate", 1e-4, 1e-3, 1e-2) + _grid("learning_rate start", (1e-3, 0.1), (1e-2, 0.1))
_WEMOE = {**_ENTROPY, "rank": 64, "freezes_earlier": False}
_ADAPTIVE = (
    MethodSpec(
        "adamerging",
        "one coefficient per tensor by entropy minimization, continuing from the merged model (arXiv 2310.02575)",
        "adamerging:continued",
        _always(**_ENTROPY),
        _ADAMERGING_GRID,
    ),
    MethodSpec(
        "adamerging-published",
        "AdaMerging as the MINGLE paper ran it: restarts from the pretrained model at each task (arXiv 2310.02575)",
        "adamerging:as_published",
        _always(**_ENTROPY),
        _ADAMERGING_GRID,
    ),
    MethodSpec(
        "wemoe",
        "MLP experts of one rank, gated per image, gates by entropy; the rest by task arithmetic (arXiv 2402.00433)",
        "wemoe:corrected",
        _always(**_WEMOE, pooling="image"),
        (
            *_grid("learning_rate", 1e-4, 1e-3),
            *_grid("start", 0.1),
            *_grid("freezes_earlier", True),
            *_grid("start freezes_earlier", (0.1, True)),
        ),
    ),
    MethodSpec(
        "wemoe-published",
        "LoRA-WEMoE as the MINGLE paper ran it: gates pooled over the batch, rank 64, then 16 (arXiv 2402.00433)",
        "wemoe:as_published",
        _always(**_WEMOE, later_rank=16, pooling="batch"),
        (*_grid("learning_rate", 1e-4, 1e-3, 1e-2), *_grid("start", 0.1), *_grid("learning_rate start", (1e-3, 0.1))),
    ),
)

_SETTINGS = ("semantics", "layers", "interference_projection", "steps", "learning_rate", "batch_size", "temperature")
_CONSTRAINT = ("subspace_directions", "relaxation", "relaxation_decay")
_EVALUATION = {"pooling": "image", "top_k": None, "components": "null-space", "constant": CONSTANT_START, "routing": "gates"}
_EXACT = Settings(scope="layer")
# The published step is made for gates of 768 inputs; narrow towers ask for more.
_LEARNING_RATES = _grid("learning_rate", 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def _mingle(name: str, summary: str, settings: Settings, grid: Grid = _LEARNING_RATES, **changes: Any) -> MethodSpec:
    values = {setting: getattr(settings, setting) for setting in (*_SETTINGS, *_CONSTRAINT)} | {"rank": settings.largest_rank}
    return MethodSpec(name, summary, "mingle:LayerScope", _always(**values | _EVALUATION | changes), grid)


_LAYER_SCOPE = (
    _mingle(
        "mingle",
        "gated low-rank experts in every layer, gates pooled over the batch (arXiv 2505.11883)",
        OFFICIAL,
        pooling="batch",
    ),
    _mingle(
        "mingle-star",
        "mingle with experts at q, k, v and fc1 only (arXiv 2505.11883, MINGLE*)",
        OFFICIAL,
        pooling="batch",
        layers="qkv+fc1",
    ),
    _mingle("mingle-per-image", "mingle as merged, its gates per image", OFFICIAL),
    _mingle("mingle-star-per-image", "mingle-star as merged, its gates per image", OFFICIAL, layers="qkv+fc1"),
    _mingle("mingle-top1", "mingle as merged, per image the expert of largest contribution in each layer", OFFICIAL, top_k=1),
    _mingle(
        "mingle-routed",
        "mingle as merged, the image router naming the one expert with its gates (control)",
        OFFICIAL,
        routing="router",
    ),
    _mingle("mingle-exact", "gates that start and stay in an exact null space, per image, all experts (ours)", _EXACT),
    _mingle("mingle-exact-pooled", "mingle-exact as merged, its gates pooled over the batch", _EXACT, pooling="batch"),
    _mingle(
        "mingle-exact-top1",
        "mingle-exact as merged, per image the expert of largest contribution in each layer (ours)",
        _EXACT,
        top_k=1,
    ),
    _mingle(
        "static-experts",
        "mingle's experts at a constant gate, nothing learned (arXiv 2505.11883, first row of the ablation)",
        OFFICIAL,
        _grid("constant", 0.1, 0.2, 0.3, 0.5, 1.0),
        components="experts",
        pooling="batch",  # a constant gate is the same pooled, and pooled is faster
    ),
)

# Compressed models with the image router, whose parameters these are.
_ROUTER: dict[str, Any] = {"router_blocks": "auto", "router_augmentations": 16}
_COMPRESSED = (
    MethodSpec(
        "bit-delta",
        "of each matrix of a task vector the signs and one scale, distilled on the seeds (BitDelta, arXiv 2402.10193)",
        "bit_delta:bit_delta",
        _always(**_ROUTER, steps=200, learning_rate=1e-4, batch_size=4),
        _grid("learning_rate", 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    ),
    MethodSpec(
        "tsv-compress",
        "of each matrix of a task vector one in T singular components, T the number of tasks (TSV-C, arXiv 2412.00081)",
        "task_singular_vectors:tsv_compress",
        lambda tasks: {**_ROUTER, "share": 1 / tasks},
    ),
    MethodSpec(
        "tall-masks",
        "the sum of the task vectors and for each task the entries of it that it uses (TALL-masks, arXiv 2405.07813)",
        "tall_masks:tall_masks",
        _always(**_ROUTER, threshold=0.4),
        _grid("threshold", 0.2, 0.3, 0.4, 0.5, 0.6),
    ),
    MethodSpec(
        "tvq",
        "task vectors in 4, 3 or 2 bits an entry (task vector quantization, arXiv 2503.06921)",
        "task_vector_quantization:quantized",
        _always(**_ROUTER, bits=4),
    ),
    MethodSpec(
        "rtvq",
        "the mean of the task vectors in 3 bits and what each differs by in 2 (residual TVQ, arXiv 2503.06921)",
        "task_vector_quantization:quantized_residually",
        _always(**_ROUTER, base_bits=3, bits=2),
    ),
    MethodSpec(
        "smile",
        "low-rank experts of the linear layers, each token's chosen by its projections on their directions (arXiv 2408.10174)",
        "smile:Smile",
        _always(rank=32, gate_rank=16),
        _grid("gate_rank", 1, 4, 8, 16, 32),
    ),
    MethodSpec(
        "mass",
        "per image tsv-m of the tasks whose directions explain its features, in a second pass (MASS, arXiv 2504.05342)",
        "mass:Mass",
        _always(depth=0.75, temperature=1.0, threshold=0.2, most=3),
        _grid("depth threshold", (0.25, 0.2), (0.5, 0.2), (0.75, 0.2), (0.75, 0.1), (0.75, 0.4)),
    ),
)

# Nothing is tuned: the router is in closed form, and its depth, the rank of experts and where their adaptation stops are chosen
# on the seeds. Precision and top_k trade bytes for accuracy and are not the tuner's to choose.
_EXPERT = {name: getattr(Settings(), name) for name in ("rank", "keep", "layers", "expert_steps", "expert_learning_rate")}
_IMAGE: dict[str, Any] = {**_EXPERT, "expert_precision": "fp32", **_ROUTER, "top_k": 1}


def _image(name: str, summary: str, **changes: Any) -> MethodSpec:
    return MethodSpec(name, summary, "image_scope:ImageScope", _always(**_IMAGE | changes))


_IMAGE_SCOPE = (
    _image("image", "one route per image, complete experts, the most probable alone (ours)"),
    _image("image-truncated", "image, with experts as their rank cuts them, not adapted (ours)", expert_steps=0),
    _image("image-int8", "image, experts adapted and in 8 bits as exported (ours)", expert_precision="int8", expert_steps=150),
    _image("image-int4", "image, experts adapted and in 4 bits as exported (ours)", expert_precision="int4", expert_steps=150),
    _image("image-weighted", "image, with the 2 most probable experts mixed by posterior (ours)", top_k=2),
    _image(
        "image-low-rank-only",
        "image, with experts of low-rank pairs alone: static experts of the layer scope and a router (control)",
        complete=False,
    ),
)

# What the whole frozen backbone would route by, before any expert runs.
_CONTROLS = (
    MethodSpec(
        "image-nearest",
        "image, routed to the task of the nearest seed in the backbone's final embedding (control; crisostomi/mass)",
        "nearest_seed:NearestSeedScope",
        _always(**{name: value for name, value in _IMAGE.items() if name not in _ROUTER}),
    ),
    MethodSpec(
        "image-final-rda",
        "image, its router's discriminants on the backbone's final embedding (control)",
        "final_discriminants:FinalDiscriminantScope",
        _always(**{name: value for name, value in _IMAGE.items() if name != "router_blocks"}),
    ),
)

SPECS: dict[str, MethodSpec] = {
    spec.name: spec for spec in (*_STATIC, *_SUBSPACES, *_ADAPTIVE, *_COMPRESSED, *_LAYER_SCOPE, *_IMAGE_SCOPE, *_CONTROLS)
}
IMAGE_METHODS = tuple(spec.name for spec in (*_IMAGE_SCOPE, *_CONTROLS))
"""Those that serve the experts of `mingle-edge merge`."""
REFERENCES = ("pretrained", "individual")
"""Compared whatever is asked for: what there is to lose and to win."""
DEFAULT = (
    "weight-averaging,task-arithmetic,ties,magmax,consensus,opcm,adamerging,wemoe,mingle,mingle-per-image,mingle-exact,image"
)
"""Compared when no methods are named."""
