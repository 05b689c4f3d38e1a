"""The CLIP vision tower as an ONNX graph, with one place where every linear layer passes.

The twin of `mingle_edge/vision_tower.py`. Tokens of all images are rows of one matrix, so that a linear layer is one Gemm with
its bias inside and an expert's product accumulates into the layer's own. Measured on ViT-B/32, B/16 and L/14
(benchmarks/graph_variants.py), the operators of the standard domain are as fast as fused `com.microsoft` ones written by hand,
because ONNX Runtime fuses QuickGELU, scaled and transposed MatMul by itself; what pays is to compute of the last block only
what the class token needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mingle_edge.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array, Graph, WeightFile
from mingle_edge_export.precision.weight_precision import Precision, WeightPrecision


@dataclass(frozen=True)
class Tokens:
    """The name of a value `[batch * count, d]`: `count` rows for each image."""

    value: str
    count: int


class PlainLayers:
    """The parameters of the plain backbone. Subclasses add experts."""

    class_token_from: Literal["q", "fc2"] = "q"
    """The linear of the last block from which on only the class token is computed: `fc2` where gates read all tokens."""

    def __init__(
        self,
        graph: Graph,
        architecture: VisionArchitecture,
        backbone: Mapping[str, Array],
        file: WeightFile,
        precision: Precision = "fp32",
        exact: Collection[str] = (),
    ) -> None:
        """Constants of `graph`, with their values in `file`.

        backbone: internal name -> value. exact: layers whose weights stay in float32 whatever the precision.
        """
        self.graph = graph
        self.architecture = architecture
        self.backbone = backbone
        self.file = file
        self.weights = WeightPrecision(graph, file, precision, exact)
        self._means: dict[str, str] = {}

    def vector(self, name: str) -> str:
        """A parameter that is not the weight of a linear layer."""
        return self.graph.weight(name, self.backbone[name], self.file)

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """The outputs of some layers that read the same input, with what experts add to each; see `linear`."""
        return outputs

    def linear(self, layers: Sequence[str], x: Tokens, tokens: Tokens | None = None) -> list[Tokens]:
        """Outputs `[batch * count, d_out]` of some layers that read the same input `[batch * count, d_in]`.

        tokens: the input of all tokens `[batch * N, d_in]`, which gates read, where x is not that.
        """
        outputs = []
        for layer in layers:
            with self.graph.part(layer):
                bias = self.vector(f"{layer}.bias") if f"{layer}.bias" in self.backbone else None
                outputs.append(self.weights.linear(layer, x.value, self.backbone[f"{layer}.weight"], bias))
        return [Tokens(y, x.count) for y in self.add_experts(layers, x, tokens or x, outputs)]

    def token_mean(self, x: Tokens, width: int) -> str:
        """Mean over the tokens of `[batch * N, width]`, all N of them: `[batch, 1, width]`.

        As a product with a constant row: ReduceMean over a middle axis is many times slower on the CPU.
        """
        if x.value not in self._means:
            row = self.graph.constant(np.full((1, x.count), 1 / x.count, dtype=np.float32))
            by_image = self.graph.op("Reshape", x.value, self.graph.integers(-1, x.count, width))  # [batch, N, width]
            self._means[x.value] = self.graph.op("MatMul", row, by_image)
        return self._means[x.value]


class Tower:
    """Adds the tower, or parts of it, to the graph of `layers`. Tokens are `[batch * N, width]` unless said otherwise."""

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
        x = self.block(last, x, class_token_from=self._layers.class_token_from)  # [batch, width]
        (y,) = self._layers.linear(["projection"], self._layer_norm(x, "ln_post"))  # [batch, output_dim]
        with self._graph.part("norm"):
            return self._graph.op("Div", y.value, self._graph.op("ReduceL2", y.value, axes=[1], keepdims=1))

    def tokens(self, pixel_values: str) -> Tokens:
        """Images `[batch, 3, H, W]` to the normalised tokens that enter the first block."""
        graph, a = self._graph, self._architecture
        with graph.part("stem"):
            shape = graph.integers(-1, 3, a.grid, a.patch_size, a.grid, a.patch_size)
            x = graph.op("Transpose", graph.op("Reshape", pixel_values, shape), perm=[0, 2, 4, 1, 3, 5])
            x = graph.op("Reshape", x, graph.integers(-1, 3 * a.patch_size**2))  # [batch (N - 1), 3 p p]
        (patches,) = self._layers.linear(["patch_embedding"], Tokens(x, a.tokens - 1))
        with graph.part("stem"):
            x = graph.op("Reshape", patches.value, graph.integers(-1, a.tokens - 1, a.width))
            batch = graph.op("Shape", pixel_values, start=0, end=1)
            shape = graph.op("Concat", batch, graph.integers(1, a.width), axis=0)
            x = graph.op("Concat", graph.op("Expand", self._layers.vector("class_token"), shape), x, axis=1)
            x = graph.op("Add", x, self._layers.vector("positions"))  # [batch, N, width]
            x = graph.op("Reshape", x, graph.integers(-1, a.width))
        return self._layer_norm(Tokens(x, a.tokens), "ln_pre")

    def block(self, i: int, x: Tokens, class_token_from: Literal["q", "fc2"] | None = None) -> Tokens:
        """One block. From the linear `class_token_from` on it computes the class token `[batch, width]` alone, exactly."""
        name = f"blocks.{i}"
        width, mlp_width = self._architecture.width, self._architecture.mlp_width
        y = self._layer_norm(x, f"{name}.ln_1")
        if class_token_from == "q":
            (q,) = self._layers.linear([f"{name}.q"], self._class_token(y, width))
            k, v = self._layers.linear([f"{name}.k", f"{name}.v"], y)
            x = self._class_token(x, width)
        else:
            q, k, v = self._layers.linear([f"{name}.q", f"{name}.k", f"{name}.v"], y)
        with self._graph.part(f"{name}.attention"):
            y = self._attention(q, k, v)
        (y,) = self._layers.linear([f"{name}.out"], y)
        x = self._residual(f"{name}.out", x, y)
        (y,) = self._layers.linear([f"{name}.fc1"], self._layer_norm(x, f"{name}.ln_2"))
        with self._graph.part(f"{name}.activation"):
            y = tokens = Tokens(self._activation(y.value), y.count)
        if class_token_from == "fc2":
            x, y = self._class_token(x, width), self._class_token(y, mlp_width)
        (y,) = self._layers.linear([f"{name}.fc2"], y, tokens)
        return self._residual(f"{name}.fc2", x, y)

    def _residual(self, layer: str, x: Tokens, y: Tokens) -> Tokens:
        with self._graph.part(layer):
            return Tokens(self._graph.op("Add", x.value, y.value), x.count)

    def _attention(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        graph, heads, width = self._graph, self._architecture.heads, self._architecture.width
        head = width // heads

        def split(x: Tokens, order: list[int]) -> str:
            return graph.op("Transpose", graph.op("Reshape", x.value, graph.integers(-1, x.count, heads, head)), perm=order)

        scores = graph.op("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))  # [batch, heads, n, N]
        scores = graph.op("Mul", scores, graph.constant(np.array(head**-0.5, dtype=np.float32)))
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
        mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])  # [batch, n, heads, head]
        return Tokens(graph.op("Reshape", mixed, graph.integers(-1, width)), q.count)

    def _activation(self, x: str) -> str:
        graph = self._graph

        def scalar(value: float) -> str:
            return graph.constant(np.array(value, dtype=np.float32))

        if self._architecture.activation == "quick_gelu":  # x sigmoid(1.702 x)
            return graph.op("Mul", x, graph.op("Sigmoid", graph.op("Mul", x, scalar(1.702))))
        erf = graph.op("Erf", graph.op("Div", x, scalar(2**0.5)))  # x (1 + erf(x / sqrt 2)) / 2
        return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, scalar(1.0))), scalar(0.5))

    def _layer_norm(self, x: Tokens, name: str) -> Tokens:
        weight, bias = self._layers.vector(f"{name}.weight"), self._layers.vector(f"{name}.bias")
        with self._graph.part(name):
            y = self._graph.op("LayerNormalization", x.value, weight, bias, axis=-1, epsilon=self._architecture.layer_norm_eps)
        return Tokens(y, x.count)

    def _class_token(self, x: Tokens, width: int) -> Tokens:
        """The first row of each image."""
        graph = self._graph
        with graph.part("class_token"):
            by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, width))
            first = graph.op("Slice", by_image, *(graph.integers(i) for i in (0, 1, 1)))  # [batch, 1, width]
            return Tokens(graph.op("Reshape", first, graph.integers(-1, width)), 1)
