"""The CLIP vision tower as an ONNX graph, with one place where every linear layer passes.

The twin of `mingle_edge/vision_tower.py`. Measured on ViT-B/32, B/16 and L/14 (benchmarks/graph_variants.py), the operators
of the standard domain are as fast as fused `com.microsoft` ones written by hand, because ONNX Runtime fuses QuickGELU, scaled
and transposed MatMul by itself; what pays is to compute of the last block only what the class token needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph import Array, Graph, WeightFile


class PlainLayers:
    """The parameters of the plain backbone. Subclasses add experts."""

    class_token_from: Literal["q", "fc2"] = "q"
    """The linear of the last block from which on only the class token is computed: `fc2` where gates read all tokens."""

    def __init__(self, graph: Graph, architecture: VisionArchitecture, backbone: Mapping[str, Array], file: WeightFile) -> None:
        """Constants of `graph`, with their values in `file`; backbone: internal name -> value."""
        self.graph = graph
        self.architecture = architecture
        self.backbone = backbone
        self.file = file
        self._means: dict[str, str] = {}

    def vector(self, name: str) -> str:
        """A parameter that is not the weight of a linear layer."""
        return self.graph.weight(name, self.backbone[name], self.file)

    def experts(self, layers: Sequence[str], x: str, tokens: str) -> Sequence[str | None]:
        """What experts add to each of some layers that read the same input; see `linear`."""
        return [None] * len(layers)

    def linear(self, layers: Sequence[str], x: str, tokens: str | None = None) -> list[str]:
        """Outputs `[batch, n, d_out]` of some layers that read the same input `[batch, n, d_in]`.

        tokens: the input of all tokens `[batch, N, d_in]`, which gates read, where x is not that.
        """
        outputs = []
        for layer, expert in zip(layers, self.experts(layers, x, tokens or x), strict=True):
            weight = f"{layer}.weight"  # stored [d_in, d_out]: ONNX Runtime prepacks only what needs no transposing
            y = self.graph.op("MatMul", x, self.graph.weight(weight, self.backbone[weight].T, self.file))
            if expert is not None:
                y = self.graph.op("Add", y, expert)
            if f"{layer}.bias" in self.backbone:
                y = self.graph.op("Add", y, self.vector(f"{layer}.bias"))
            outputs.append(y)
        return outputs

    def token_mean(self, x: str) -> str:
        """Mean over the tokens of `[batch, N, d]`, all N of them: `[batch, 1, d]`.

        As a product with a constant row: ReduceMean over a middle axis is many times slower on the CPU.
        """
        if x not in self._means:
            tokens = self.architecture.tokens
            row = self.graph.constant(np.full((1, tokens), 1 / tokens, dtype=np.float32))
            self._means[x] = self.graph.op("MatMul", row, x)
        return self._means[x]


class Tower:
    """Adds the tower, or parts of it, to the graph of `layers`. Values are tokens `[batch, N, width]` unless said otherwise."""

    def __init__(self, layers: PlainLayers) -> None:
        self._layers = layers
        self._graph = layers.graph
        self._architecture = layers.architecture

    def embeddings(self, pixel_values: str) -> str:
        """Images `[batch, 3, H, W]` to embeddings of unit length `[batch, output_dim]`."""
        x = self.tokens(pixel_values)
        last = self._architecture.layers - 1
        for i in range(last):
            x = self.block(i, x)
        x = self.block(last, x, class_token_from=self._layers.class_token_from)  # [batch, 1, width]
        (y,) = self._layers.linear(["projection"], self._layer_norm(x, "ln_post"))  # [batch, 1, output_dim]
        y = self._graph.op("Reshape", y, self._graph.integers(-1, self._architecture.output_dim))
        return self._graph.op("Div", y, self._graph.op("ReduceL2", y, axes=[1], keepdims=1))

    def tokens(self, pixel_values: str) -> str:
        """Images `[batch, 3, H, W]` to the normalised tokens that enter the first block."""
        graph, grid, patch = self._graph, self._architecture.grid, self._architecture.patch_size
        x = graph.op("Reshape", pixel_values, graph.integers(-1, 3, grid, patch, grid, patch))
        x = graph.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5])  # [batch, gy, gx, 3, py, px]
        x = graph.op("Reshape", x, graph.integers(-1, grid * grid, 3 * patch * patch))
        (x,) = self._layers.linear(["patch_embedding"], x)  # [batch, N - 1, width]
        batch = graph.op("Shape", pixel_values, start=0, end=1)
        shape = graph.op("Concat", batch, graph.integers(1, self._architecture.width), axis=0)
        x = graph.op("Concat", graph.op("Expand", self._layers.vector("class_token"), shape), x, axis=1)
        return self._layer_norm(graph.op("Add", x, self._layers.vector("positions")), "ln_pre")

    def block(self, i: int, x: str, class_token_from: Literal["q", "fc2"] | None = None) -> str:
        """One block. From the linear `class_token_from` on it computes the class token `[batch, 1, width]` alone, exactly."""
        name = f"blocks.{i}"
        y = self._layer_norm(x, f"{name}.ln_1")
        if class_token_from == "q":
            (q,) = self._layers.linear([f"{name}.q"], self._class_token(y))
            k, v = self._layers.linear([f"{name}.k", f"{name}.v"], y)
            x = self._class_token(x)
        else:
            q, k, v = self._layers.linear([f"{name}.q", f"{name}.k", f"{name}.v"], y)
        (y,) = self._layers.linear([f"{name}.out"], self._attention(q, k, v))
        x = self._graph.op("Add", x, y)
        (y,) = self._layers.linear([f"{name}.fc1"], self._layer_norm(x, f"{name}.ln_2"))
        y = tokens = self._activation(y)
        if class_token_from == "fc2":
            x, y = self._class_token(x), self._class_token(y)
        (y,) = self._layers.linear([f"{name}.fc2"], y, tokens)
        return self._graph.op("Add", x, y)

    def _attention(self, q: str, k: str, v: str) -> str:
        graph, heads, width = self._graph, self._architecture.heads, self._architecture.width
        head = width // heads

        def split(x: str, order: list[int]) -> str:
            return graph.op("Transpose", graph.op("Reshape", x, graph.integers(0, -1, heads, head)), perm=order)

        scores = graph.op("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))  # [batch, heads, N, N]
        scores = graph.op("Mul", scores, graph.constant(np.array(head**-0.5, dtype=np.float32)))
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
        mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])  # [batch, N, heads, head]
        return graph.op("Reshape", mixed, graph.integers(0, -1, width))

    def _activation(self, x: str) -> str:
        graph = self._graph

        def scalar(value: float) -> str:
            return graph.constant(np.array(value, dtype=np.float32))

        if self._architecture.activation == "quick_gelu":  # x sigmoid(1.702 x)
            return graph.op("Mul", x, graph.op("Sigmoid", graph.op("Mul", x, scalar(1.702))))
        erf = graph.op("Erf", graph.op("Div", x, scalar(2**0.5)))  # x (1 + erf(x / sqrt 2)) / 2
        return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, scalar(1.0))), scalar(0.5))

    def _layer_norm(self, x: str, name: str) -> str:
        weight, bias = self._layers.vector(f"{name}.weight"), self._layers.vector(f"{name}.bias")
        return self._graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=self._architecture.layer_norm_eps)

    def _class_token(self, x: str) -> str:
        """`[batch, 1, width]`"""
        return self._graph.op("Slice", x, *(self._graph.integers(i) for i in (0, 1, 1)))
