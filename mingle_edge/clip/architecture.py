"""The shape of a vision tower, and the one internal naming of its parameters.

Linear layers, the places where an expert can sit (`[d_out, d_in]` weights):
`patch_embedding` (a patch flattened as channel, row, column), `blocks.{i}.q`, `.k`, `.v`, `.out`, `.fc1`, `.fc2`, those of
attention pooling, `pooling.v`, `.out`, `.fc1`, `.fc2`, and `projection`. The first and last have a bias where the architecture
says so, all others always.
Vectors: `class_token`, `registers`, `positions`, `pooling.scores`, biases, and weight and bias of `ln_pre`, `blocks.{i}.ln_1`,
`blocks.{i}.ln_2`, `ln_tokens`, `pooling.ln`, `ln_post`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mingle_edge_runtime.bundle.index import Preprocess

BLOCK_LINEARS = ("q", "k", "v", "out", "fc1", "fc2")

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
Pooling = Literal["class_token", "average", "class_and_average", "attention"]


@dataclass(frozen=True)
class VisionArchitecture:
    """Everything the forward pass of a vision tower depends on besides its weights; defaults are CLIP's.

    Tokens are the class token, then registers, then patches row by row.
    """

    preprocess: Preprocess  # how an image becomes the pixels it reads
    patch_size: int  # pixels, square
    width: int
    layers: int
    heads: int
    mlp_width: int
    output_dim: int  # of the embedding
    activation: Activation  # gelu_tanh: GELU's approximation by tanh
    layer_norm_eps: float = 1e-5
    class_token: bool = True
    registers: int = 0  # learned tokens that belong to no patch (arXiv 2309.16588; DeiT's distillation token)
    pre_norm: bool = True  # LayerNorm `ln_pre` before the first block
    patch_bias: bool = False
    pooling: Pooling = "class_token"  # average: over patches; class_and_average: both, one behind the other
    norm_tokens: bool = False  # LayerNorm `ln_tokens` on all tokens before pooling
    norm_pooled: bool = True  # LayerNorm `ln_post` on what was pooled
    pool_heads: int = 0  # of attention pooling, as the next two; 0 without it
    pool_width: int = 0
    pool_mlp_width: int = 0  # 0: no MLP
    projection: bool = True
    projection_bias: bool = False
    normalized: bool = True  # whether embeddings are scaled to unit length before a head reads them

    @property
    def image_size(self) -> int:
        """Return the side of the square images in pixels."""
        return self.preprocess.image_size

    @property
    def grid(self) -> int:
        """Return the number of patches along one side of the image; what is left beyond the last belongs to none."""
        return self.image_size // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Return the number of tokens before the patches."""
        return self.class_token + self.registers

    @property
    def tokens(self) -> int:
        """Return the number of tokens per image: the class token, registers and every patch."""
        return self.prefix_tokens + self.grid**2

    @property
    def pooled_width(self) -> int:
        """Return the size of what pooling makes of an image's tokens, which the projection reads."""
        widths = {"class_and_average": 2 * self.width, "attention": self.pool_width}
        return widths.get(self.pooling, self.width)

    def block_linears(self) -> list[str]:
        """Return the six linear layers of every block, in order of depth."""
        return [f"blocks.{i}.{name}" for i in range(self.layers) for name in BLOCK_LINEARS]

    def outer_linears(self) -> list[str]:
        """Return the linear layers outside the blocks, in order of depth."""
        pooling = []
        if self.pooling == "attention":
            pooling = ["pooling.v", "pooling.out", *(["pooling.fc1", "pooling.fc2"] if self.pool_mlp_width else [])]
        return ["patch_embedding", *pooling, *(["projection"] if self.projection else [])]

    def linear_layers(self) -> list[str]:
        """Return every linear layer, in order of depth."""
        first, *last = self.outer_linears()
        return [first, *self.block_linears(), *last]

    def linear_shape(self, layer: str) -> tuple[int, int]:
        """Return `(d_out, d_in)` of a linear layer by its internal name."""
        outside = {
            "patch_embedding": (self.width, 3 * self.patch_size**2),
            "pooling.v": (self.pool_width, self.width),
            "pooling.out": (self.pool_width, self.pool_width),
            "pooling.fc1": (self.pool_mlp_width, self.pool_width),
            "pooling.fc2": (self.pool_width, self.pool_mlp_width),
            "projection": (self.output_dim, self.pooled_width),
        }
        inside = {"fc1": (self.mlp_width, self.width), "fc2": (self.width, self.mlp_width)}
        return outside.get(layer) or inside.get(layer.rsplit(".", 1)[-1], (self.width, self.width))

    def vector_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters that are not the weight of a linear layer, in order of depth."""
        width = (self.width,)
        shapes: dict[str, tuple[int, ...]] = {"class_token": width} if self.class_token else {}
        if self.registers:
            shapes["registers"] = (self.registers, self.width)
        shapes["positions"] = (self.tokens, self.width)
        if self.patch_bias:
            shapes["patch_embedding.bias"] = width
        shapes |= _layer_norm("ln_pre", self.width) if self.pre_norm else {}
        for i in range(self.layers):
            block = f"blocks.{i}"
            shapes |= _layer_norm(f"{block}.ln_1", self.width)
            shapes |= {f"{block}.{name}.bias": (self.linear_shape(f"{block}.{name}")[0],) for name in BLOCK_LINEARS}
            shapes |= _layer_norm(f"{block}.ln_2", self.width)
        shapes |= _layer_norm("ln_tokens", self.width) if self.norm_tokens else {}
        if self.pooling == "attention":
            shapes["pooling.scores"] = (self.pool_heads, self.width)
            shapes |= _layer_norm("pooling.ln", self.pool_width) if self.pool_mlp_width else {}
            pooling = [layer for layer in self.outer_linears() if layer.startswith("pooling.")]
            shapes |= {f"{layer}.bias": (self.linear_shape(layer)[0],) for layer in pooling}
        shapes |= _layer_norm("ln_post", self.pooled_width) if self.norm_pooled else {}
        return shapes | ({"projection.bias": (self.output_dim,)} if self.projection and self.projection_bias else {})

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters of the tower by internal name."""
        weights = {f"{layer}.weight": self.linear_shape(layer) for layer in self.linear_layers()}
        return weights | self.vector_shapes()

    def fault(self) -> str | None:
        """Return the first rule between fields that is broken, with the field and its value; None where all hold."""
        attention = self.pooling == "attention"
        rules = {
            "patch_size": (self.patch_size <= self.image_size, f"must fit the image's {self.image_size} pixels"),
            "heads": (self.width % self.heads == 0, f"must divide the width, {self.width}"),
            "layer_norm_eps": (self.layer_norm_eps > 0, "must be above 0"),
            "pooling": (self.class_token or "class" not in self.pooling, "must not be by a class token where there is none"),
            "norm_tokens": (
                not self.norm_tokens or self.pooling != "class_token",
                "must be false where the class token is pooled: it is norm_pooled then",
            ),
            "pool_heads": (
                self.pool_heads > 0 and self.pool_width % self.pool_heads == 0 if attention else not self.pool_heads,
                f"must divide pool_width, {self.pool_width}" if attention else "must be 0 without attention pooling",
            ),
            "pool_width": (bool(self.pool_width) == attention, "must be above 0 with attention pooling and 0 without"),
            "pool_mlp_width": (attention or not self.pool_mlp_width, "must be 0 without attention pooling"),
            "output_dim": (
                self.projection or self.output_dim == self.pooled_width,
                f"must be what is pooled, {self.pooled_width}, without a projection",
            ),
            "projection_bias": (self.projection or not self.projection_bias, "must be false without a projection"),
        }
        faults = (f"{name} is {getattr(self, name)}, {rule}" for name, (holds, rule) in rules.items() if not holds)
        return next(faults, None)


def _layer_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
