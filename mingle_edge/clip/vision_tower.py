"""The vision tower as pure functions of its parameters, with one place where every linear layer passes.

ViT of arXiv 2010.11929 with pre-norm blocks; with a LayerNorm before the first and the class token projected as in CLIP
(arXiv 2103.00020), pooled by attention as in SigLIP (arXiv 2303.15343), or otherwise as the architecture says. A `linear`
callable receives the layer's internal name and its input, so experts and recorders plug in there.
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
    """Turn images `[B, 3, H, W]` into the tokens `[B, N, width]` that enter the first block."""
    grid, patch = architecture.grid, architecture.patch_size
    batch, side = len(images), grid * patch
    x = images[..., :side, :side].reshape(batch, 3, grid, patch, grid, patch)  # [B, 3, gy, py, gx, px]
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, 3 * patch * patch)  # [B, N - 1, 3 p p]
    x = linear("patch_embedding", x)
    prefix = [
        parameters[name].reshape(1, -1, architecture.width).expand(batch, -1, -1)
        for name, there in (("class_token", architecture.class_token), ("registers", architecture.registers))
        if there
    ]
    x = torch.cat([*prefix, x], dim=1) + parameters["positions"]  # [B, N, width]
    return _layer_norm(x, "ln_pre", parameters, architecture) if architecture.pre_norm else x


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
        tokens = tokens + linear(f"{block}.fc2", _activation(x, architecture))
        yield tokens


def pool(tokens: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear) -> Tensor:
    """Turn the tokens `[B, N, width]` after the last block into embeddings `[B, output_dim]`, not normalized."""
    pooling = architecture.pooling
    if architecture.norm_tokens:
        tokens = _layer_norm(tokens, "ln_tokens", parameters, architecture)
    if pooling == "attention":
        pooled = _attention_pooling(tokens, parameters, architecture, linear)  # [B, 1, pool_width]
    else:
        parts = [tokens[:, :1]] if pooling != "average" else []  # [B, 1, width]
        if pooling != "class_token":
            parts.append(tokens[:, architecture.prefix_tokens :].mean(1, keepdim=True))
        pooled = torch.cat(parts, dim=-1)  # [B, 1, pooled_width]
    if architecture.norm_pooled:
        pooled = _layer_norm(pooled, "ln_post", parameters, architecture)
    return (linear("projection", pooled) if architecture.projection else pooled).squeeze(1)


def embed_images(
    images: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear | None = None
) -> Tensor:
    """Turn preprocessed images `[B, 3, H, W]` into image embeddings `[B, output_dim]`, not normalized."""
    linear = linear or plain_linear(parameters)
    tokens = embed_patches(images, parameters, architecture, linear)
    *_, tokens = blocks(tokens, parameters, architecture, linear)
    return pool(tokens, parameters, architecture, linear)


def normalize(embeds: Tensor, architecture: VisionArchitecture) -> Tensor:
    """Return embeddings `[B, output_dim]` as heads read them: of unit length, unless the architecture says otherwise."""
    return F.normalize(embeds, dim=-1) if architecture.normalized else embeds


def block_moments(
    images: Tensor, parameters: Parameters, architecture: VisionArchitecture, count: int, *, embedding: bool
) -> Tensor:
    """Return moments `[B, 4 (count + 1) width]` of the plain backbone's tokens, and behind them its embedding, if asked for.

    Of the embedded image and after each of the first `count` blocks: mean and standard deviation over tokens, and roughness,
    the mean magnitude of the difference between a patch and its right, and its lower, neighbor. The embedding `[B, output_dim]`
    is as heads read it; without it the other blocks do not run, and need not be among the parameters.
    """
    linear = plain_linear(parameters)
    tokens = embed_patches(images, parameters, architecture, linear)
    features = [_moments(tokens, architecture)]
    for depth, after in enumerate(blocks(tokens, parameters, architecture, linear, None if embedding else count), start=1):
        tokens = after
        if depth <= count:
            features.append(_moments(tokens, architecture))
    if embedding:
        features.append(normalize(pool(tokens, parameters, architecture, linear), architecture))
    return torch.cat(features, dim=1)


def _moments(tokens: Tensor, architecture: VisionArchitecture) -> Tensor:
    grid = architecture.grid
    patches = tokens[:, architecture.prefix_tokens :].reshape(-1, grid, grid, tokens.shape[-1])  # [B, gy, gx, width]
    right, lower = (patches.diff(dim=dim).abs().sum((1, 2)) for dim in (2, 1))
    pairs = max(grid * (grid - 1), 1)
    return torch.cat([tokens.mean(1), tokens.std(1, correction=0), right / pairs, lower / pairs], dim=1)


def _layer_norm(x: Tensor, name: str, parameters: Parameters, architecture: VisionArchitecture) -> Tensor:
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return F.layer_norm(x, weight.shape, weight, bias, architecture.layer_norm_eps)


def _attention_pooling(tokens: Tensor, parameters: Parameters, architecture: VisionArchitecture, linear: Linear) -> Tensor:
    """Return `[B, 1, pool_width]` of tokens `[B, N, width]`: values weighted by scores, then an MLP if there is one."""
    batch, length, _ = tokens.shape
    weights = F.linear(tokens, parameters["pooling.scores"]).softmax(1)  # [B, N, heads]
    values = linear("pooling.v", tokens).reshape(batch, length, architecture.pool_heads, -1)  # [B, N, heads, head]
    mixed = torch.einsum("bnh,bnhd->bhd", weights, values).reshape(batch, 1, -1)  # [B, 1, pool_width]
    pooled = linear("pooling.out", mixed)
    if not architecture.pool_mlp_width:
        return pooled
    hidden = linear("pooling.fc1", _layer_norm(pooled, "pooling.ln", parameters, architecture))
    return pooled + linear("pooling.fc2", _activation(hidden, architecture))


def _activation(x: Tensor, architecture: VisionArchitecture) -> Tensor:
    if architecture.activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if architecture.activation == "gelu_tanh" else "none")
