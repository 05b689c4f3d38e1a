"""The CLIP vision tower as pure functions of its parameters, with one place where every linear layer passes.

ViT of arXiv 2010.11929 in CLIP's form (arXiv 2103.00020): pre-norm blocks, a LayerNorm before the first, the class token
projected. A `linear` callable receives the layer's internal name and its input, so experts and recorders plug in there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.clip.architecture import VisionArchitecture

Parameters = Mapping[str, Tensor]
Linear = Callable[[str, Tensor], Tensor]
"""(internal name of the layer, input [B, N, d_in]) -> output [B, N, d_out]"""


def plain_linear(parameters: Parameters) -> Linear:
    """Return the linear layers as the parameters have them."""

    def linear(layer: str, x: Tensor) -> Tensor:
        return F.linear(x, parameters[f"{layer}.weight"], parameters.get(f"{layer}.bias"))

    return linear


def embed_patches(images: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear) -> Tensor:
    """Turn images `[B, 3, H, W]` into the normalized tokens `[B, N, width]` that enter the first block."""
    grid, patch = architecture.grid, architecture.patch_size
    batch = len(images)
    x = images.reshape(batch, 3, grid, patch, grid, patch)  # [B, 3, gy, py, gx, px]
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, 3 * patch * patch)  # [B, N - 1, 3 p p]
    x = linear("patch_embedding", x)
    x = torch.cat([parameters["class_token"].expand(batch, 1, -1), x], dim=1)  # [B, N, width]
    return _layer_norm(x + parameters["positions"], "ln_pre", parameters, architecture)


def blocks(
    tokens: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear, count: int | None = None
) -> Iterator[Tensor]:
    """Yield the tokens `[B, N, width]` after each of the first `count` blocks (all of them by default)."""
    heads = architecture.heads
    batch, length, width = tokens.shape
    for i in range(architecture.layers if count is None else count):
        block = f"blocks.{i}"
        x = _layer_norm(tokens, f"{block}.ln_1", parameters, architecture)
        q, k, v = (
            linear(f"{block}.{name}", x).reshape(batch, length, heads, -1).transpose(1, 2)  # [B, heads, N, head]
            for name in ("q", "k", "v")
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        tokens = tokens + linear(f"{block}.out", attended)
        x = linear(f"{block}.fc1", _layer_norm(tokens, f"{block}.ln_2", parameters, architecture))
        x = x * torch.sigmoid(1.702 * x) if architecture.activation == "quick_gelu" else F.gelu(x)
        tokens = tokens + linear(f"{block}.fc2", x)
        yield tokens


def embed_images(
    images: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear | None = None
) -> Tensor:
    """Turn preprocessed images `[B, 3, H, W]` into image embeddings `[B, output_dim]`, not normalized."""
    linear = linear or plain_linear(parameters)
    tokens = embed_patches(images, parameters, architecture, linear)
    *_, tokens = blocks(tokens, parameters, architecture, linear)
    class_token = _layer_norm(tokens[:, :1], "ln_post", parameters, architecture)  # [B, 1, width]
    return linear("projection", class_token).squeeze(1)


def router_features(images: Tensor, parameters: Parameters, architecture: VisionArchitecture, count: int) -> Tensor:
    """Return features `[B, F]` of the plain backbone for the image router, F = 4 (count + 1) width.

    Of the embedded image and after each of the first `count` blocks: mean and standard deviation over tokens, and roughness,
    the mean magnitude of the difference between a patch and its right, and its lower, neighbor.
    """
    linear = plain_linear(parameters)
    tokens = embed_patches(images, parameters, architecture, linear)
    features: list[Tensor] = []
    for t in [tokens, *blocks(tokens, parameters, architecture, linear, count)]:
        patches = t[:, 1:].reshape(-1, architecture.grid, architecture.grid, t.shape[-1])  # [B, gy, gx, width]
        right, lower = (patches.diff(dim=dim).abs().sum((1, 2)) for dim in (2, 1))
        pairs = max(architecture.grid * (architecture.grid - 1), 1)
        features += [t.mean(1), t.std(1, correction=0), right / pairs, lower / pairs]
    return torch.cat(features, dim=1)


def _layer_norm(x: Tensor, name: str, parameters: Parameters, architecture: VisionArchitecture) -> Tensor:
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return F.layer_norm(x, weight.shape, weight, bias, architecture.layer_norm_eps)
