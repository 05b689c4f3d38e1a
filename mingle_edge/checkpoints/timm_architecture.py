"""The architecture of timm's vision transformers as open_clip uses them, read off the module that timm itself builds.

A timm name stands for dozens of options, of which no file speaks. So the model is built without memory, on the device `meta`,
and taken only if it consists of the modules of a plain vision transformer and has no parameter beside those that are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import timm
import torch
from open_clip.timm_model import TimmModel
from torch import nn
from torch.overrides import TorchFunctionMode

from mingle_edge.checkpoints.config_fields import flag, refusal, size, square
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.open_clip_architecture import vision_fields
from mingle_edge.checkpoints.preprocessing import open_clip_preprocess
from mingle_edge.checkpoints.timm_names import timm_parameters
from mingle_edge.clip.architecture import Activation, Pooling, VisionArchitecture

T = TypeVar("T")

_WHERE = "vision_cfg."
_ACTIVATIONS: dict[str, Activation] = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
_TRUNKS, _BLOCKS = ("VisionTransformer", "Eva"), ("Block", "EvaBlock")
_MODULES = (
    *(*_TRUNKS, *_BLOCKS, *_ACTIVATIONS, "Attention", "EvaAttention", "AttentionPoolLatent", "LayerScale", "Mlp", "PatchEmbed"),
    *("LayerNorm", "Linear", "Conv2d", "Dropout", "DropPath", "PatchDropout", "Identity", "Sequential", "ModuleList"),
)
"""Classes of timm and torch.nn that a plain vision transformer consists of."""
_WHAT = {
    "RotaryEmbedding": "rotates queries and keys by position",
    "GluMlp": "has a gated MLP",
    "SwiGLU": "has a gated MLP",
    "EvaBlockPostNorm": "normalizes after a layer instead of before",
    "HybridEmbed": "begins with convolutions",
    **dict.fromkeys(("ConvNeXt", "FastVit", "ResNet"), "consists of convolutions"),
    "Swin": "attends within windows",
    "VisionTransformerRelPos": "adds a bias of relative positions to attention",
}
_POOLINGS: dict[str, Pooling] = {"token": "class_token", "avg": "average", "map": "attention"}


def timm_architecture(config: ModelConfig) -> VisionArchitecture:
    """Return the tower of open_clip's `TimmModel`. Raises `CheckpointError` for a model that is no plain vision transformer."""
    source, fields = config.source, vision_fields(config)
    name, output_dim = fields["timm_model_name"], size(config.model, "embed_dim", source)
    model = _build(config, fields, output_dim)
    _check_modules(source, name, model)
    trunk: Any = model.trunk
    image_size = square(fields, "image_size", source, _WHERE)
    if tuple(trunk.patch_embed.img_size) != (image_size, image_size):
        raise refusal(source, f"{_WHERE}image_size", image_size, f"that of {name}, {trunk.patch_embed.img_size[0]}")
    pooling, pool = _pooling(source, name, trunk), trunk.attn_pool
    before, after = (not isinstance(norm, nn.Identity) for norm in (trunk.norm, trunk.fc_norm))
    projection = model.head.proj if hasattr(model.head, "proj") else trunk.head
    projects = isinstance(projection, nn.Linear)
    return VisionArchitecture(
        preprocess=open_clip_preprocess(config, image_size),
        patch_size=trunk.patch_embed.patch_size[0],
        width=trunk.embed_dim,
        layers=len(trunk.blocks),
        heads=_one(source, name, "heads", [block.attn.num_heads for block in trunk.blocks]),
        mlp_width=_one(source, name, "MLP width", [block.mlp.fc1.out_features for block in trunk.blocks]),
        output_dim=output_dim if projects else trunk.embed_dim,
        activation=_one(
            source, name, "activation", [_ACTIVATIONS[kind] for kind in map(_kind, trunk.modules()) if kind in _ACTIVATIONS]
        ),
        layer_norm_eps=_one(source, name, "eps of LayerNorm", [m.eps for m in trunk.modules() if isinstance(m, nn.LayerNorm)]),
        class_token=trunk.cls_token is not None,
        registers=0 if trunk.reg_token is None else trunk.reg_token.shape[1],
        pre_norm=not isinstance(trunk.norm_pre, nn.Identity),
        patch_bias=trunk.patch_embed.proj.bias is not None,
        pooling=pooling,
        norm_tokens=before and pooling != "class_token",
        norm_pooled=after or (before and pooling == "class_token"),
        pool_heads=pool.num_heads if pool else 0,
        pool_width=trunk.embed_dim if pool else 0,
        pool_mlp_width=pool.mlp.fc1.out_features if pool else 0,
        projection=projects,
        projection_bias=projects and projection.bias is not None,
    )


def _build(config: ModelConfig, fields: dict[str, Any], output_dim: int) -> TimmModel:
    """Build open_clip's tower without values, whatever its size; nothing is downloaded."""
    source, name = config.source, fields["timm_model_name"]
    if not isinstance(name, str) or not timm.is_model(name):
        raise refusal(source, f"{_WHERE}timm_model_name", name, "the name of a model of timm, see timm.list_models()")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _NoValues():
            return TimmModel(
                name,
                output_dim,
                image_size=fields["image_size"],
                pool=fields["timm_pool"],
                proj=fields["timm_proj"],
                proj_bias=flag(fields, "timm_proj_bias", source, _WHERE),
            )
    except Exception as error:  # timm fails wherever an option is used
        said = " ".join(str(error).split())[:200]
        raise refusal(source, f"{_WHERE}timm_model_name", name, f"one that timm builds with these fields ({said})") from error


class _NoValues(TorchFunctionMode):
    """Leaves out what changes values in place, most of the work where there are none: timm initializes whatever it builds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else next(iter((kwargs or {}).values()))
        return func(*args, **kwargs or {})


def _check_modules(source: str, name: str, model: TimmModel) -> None:
    """Check that a tower is made of the parts of a plain vision transformer alone."""
    rule = "a plain vision transformer"
    for kind in map(_kind, model.trunk.modules()):
        if kind not in _MODULES:
            what = next((said for prefix, said in _WHAT.items() if kind.startswith(prefix)), "is something else")
            raise refusal(source, f"{_WHERE}timm_model_name", name, f"{rule}, and its {kind} {what}")
    if _kind(model.trunk) not in _TRUNKS or any(_kind(block) not in _BLOCKS for block in model.trunk.blocks):
        raise refusal(source, f"{_WHERE}timm_model_name", name, rule)
    unknown = [key for key in model.state_dict() if not timm_parameters(key, key)]
    if unknown:
        raise refusal(source, f"{_WHERE}timm_model_name", name, f"{rule}, and it has parameters such as {unknown[0]}")


def _kind(module: nn.Module) -> str:
    kind = type(module)
    return kind.__qualname__ if kind.__module__.startswith(("timm.", "torch.nn.")) else f"{kind.__module__}.{kind.__qualname__}"


def _pooling(source: str, name: str, trunk: Any) -> Pooling:
    """Return how a trunk pools; where timm leaves out other tokens than here, it is refused."""
    pooling, others = _POOLINGS.get(trunk.global_pool), trunk.num_prefix_tokens
    if pooling is None:
        raise refusal(source, f"{_WHERE}timm_pool", trunk.global_pool, f"one of {', '.join(map(repr, _POOLINGS))}")
    over_all = getattr(trunk, "pool_include_prefix", pooling == "attention")
    if others and pooling != "class_token" and over_all != (pooling == "attention"):
        rule = "a model that averages over patches alone, or pools by attention over all tokens"
        raise refusal(source, f"{_WHERE}timm_model_name", name, rule)
    if pooling == "class_token" and not any(isinstance(norm, nn.Identity) for norm in (trunk.norm, trunk.fc_norm)):
        raise refusal(source, f"{_WHERE}timm_model_name", name, "a model that normalizes the class token once")
    if trunk.pos_embed is None:
        raise refusal(source, f"{_WHERE}timm_model_name", name, "a model with a table of positions")
    return pooling


def _one(source: str, name: str, what: str, values: Iterable[T]) -> T:
    found = set(values)
    if len(found) != 1:
        raise refusal(source, f"{_WHERE}timm_model_name", name, f"a model with one {what} throughout")
    return found.pop()
