"""The shape of a CLIP vision tower, and the one internal naming of its parameters.

Linear layers, the places where an expert can sit (`[d_out, d_in]` weights):
`patch_embedding` (a patch flattened as channel, row, column), `blocks.{i}.q`, `.k`, `.v`, `.out`, `.fc1`, `.fc2`,
`projection`. The six of a block have a bias; the first and last have none.
Vectors: `class_token`, `positions`, and weight and bias of `ln_pre`, `blocks.{i}.ln_1`, `blocks.{i}.ln_2`, `ln_post`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

BLOCK_LINEARS = ("q", "k", "v", "out", "fc1", "fc2")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionArchitecture:
    """Everything the forward pass of a CLIP vision tower depends on besides its weights."""

    image_size: int  # pixels, square
    patch_size: int  # pixels, square
    width: int
    layers: int
    heads: int
    mlp_width: int
    output_dim: int  # of the shared image-text space
    activation: Literal["quick_gelu", "gelu"]
    layer_norm_eps: float = 1e-5
    mean: tuple[float, float, float] = OPENAI_MEAN  # per RGB channel, of images scaled to [0, 1]
    std: tuple[float, float, float] = OPENAI_STD

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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal architecture."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> VisionArchitecture:
        """Read what `to_json` wrote. Raises `TypeError` on unknown or missing fields."""
        triples: dict[str, Any] = {key: tuple(record[key]) for key in ("mean", "std") if key in record}
        return cls(**{**record, **triples})
