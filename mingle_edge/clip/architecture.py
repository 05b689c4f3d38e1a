"""The shape of a CLIP vision tower, and the one internal naming of its parameters.

Linear layers, the places where an expert can sit (`[d_out, d_in]` weights):
`patch_embedding` (a patch flattened as channel, row, column), `blocks.{i}.q`, `.k`, `.v`, `.out`, `.fc1`, `.fc2`,
`projection`. The six of a block have a bias; the first and last have none.
Vectors: `class_token`, `positions`, and weight and bias of `ln_pre`, `blocks.{i}.ln_1`, `blocks.{i}.ln_2`, `ln_post`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mingle_edge_runtime.bundle.index import Preprocess

BLOCK_LINEARS = ("q", "k", "v", "out", "fc1", "fc2")


@dataclass(frozen=True)
class VisionArchitecture:
    """Everything the forward pass of a CLIP vision tower depends on besides its weights."""

    preprocess: Preprocess  # how an image becomes the pixels it reads
    patch_size: int  # pixels, square
    width: int
    layers: int
    heads: int
    mlp_width: int
    output_dim: int  # of the shared image-text space
    activation: Literal["quick_gelu", "gelu"]
    layer_norm_eps: float = 1e-5

    @property
    def image_size(self) -> int:
        """Return the side of the square images in pixels."""
        return self.preprocess.image_size

    @property
    def grid(self) -> int:
        """Return the number of patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Return the number of tokens per image: the class token and every patch."""
        return self.grid**2 + 1

    def block_linears(self) -> list[str]:
        """Return the six linear layers of every block, in order of depth."""
        return [f"blocks.{i}.{name}" for i in range(self.layers) for name in BLOCK_LINEARS]

    def linear_layers(self) -> list[str]:
        """Return every linear layer, in order of depth."""
        return ["patch_embedding", *self.block_linears(), "projection"]

    def linear_shape(self, layer: str) -> tuple[int, int]:
        """Return `(d_out, d_in)` of a linear layer by its internal name."""
        kind = layer.rsplit(".", 1)[-1]
        return {
            "patch_embedding": (self.width, 3 * self.patch_size**2),
            "fc1": (self.mlp_width, self.width),
            "fc2": (self.width, self.mlp_width),
            "projection": (self.output_dim, self.width),
        }.get(kind, (self.width, self.width))

    def vector_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters that are not the weight of a linear layer, in order of depth."""
        width = (self.width,)
        shapes: dict[str, tuple[int, ...]] = {"class_token": width, "positions": (self.tokens, self.width)}
        shapes |= {"ln_pre.weight": width, "ln_pre.bias": width}
        for i in range(self.layers):
            block = f"blocks.{i}"
            shapes |= {f"{block}.ln_1.weight": width, f"{block}.ln_1.bias": width}
            shapes |= {f"{block}.{name}.bias": (self.linear_shape(f"{block}.{name}")[0],) for name in BLOCK_LINEARS}
            shapes |= {f"{block}.ln_2.weight": width, f"{block}.ln_2.bias": width}
        return shapes | {"ln_post.weight": width, "ln_post.bias": width}

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters of the tower by internal name."""
        weights = {f"{layer}.weight": self.linear_shape(layer) for layer in self.linear_layers()}
        return weights | self.vector_shapes()
