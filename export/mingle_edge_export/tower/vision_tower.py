"""The CLIP vision tower as an ONNX graph, with one place where every linear layer passes.

The twin of `mingle_edge/clip/vision_tower.py`. Tokens of all images are rows of one matrix, so that a linear layer is one
Gemm with its bias inside and an expert's product accumulates into the layer's own. Measured on ViT-B/32, B/16 and L/14
(benchmarks/graph_variants.py), the operators of the standard domain are as fast as fused `com.microsoft` ones written by hand,
because ONNX Runtime fuses QuickGELU, scaled and transposed MatMul by itself; what pays is to compute of the last block only
what the class token needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge_export.graph.builder import Array, Graph, WeightFile
from mingle_edge_export.precision.weight_precision import WeightPrecision
from mingle_edge_runtime.bundle.index import Precision

PIXELS, EMBEDS = "pixel_values", "image_embeds"


@dataclass(frozen=True)
class Backbone:
    """The parameters of the plain tower, and how graphs store them."""

    architecture: VisionArchitecture
    parameters: Mapping[str, Array]
    """by internal name"""
    file: WeightFile
    """of their values; several graphs may share it"""
    precision: Precision = "fp32"
    exact: Collection[str] = ()
    """layers whose weights stay in float32 whatever the precision"""


@dataclass(frozen=True)
class Tokens:
    """The name of a value `[batch * count, d]`: `count` rows for each image."""

    value: str
    count: int


def pixel_graph(name: str, architecture: VisionArchitecture) -> Graph:
    """Begin a graph whose input is `pixel_values [batch, 3, S, S]`."""
    graph = Graph(name)
    graph.input(PIXELS, ["batch", 3, architecture.image_size, architecture.image_size])
    return graph


class Tower:
    """Adds the plain tower, or parts of it, to a graph; subclasses add experts. Tokens are `[batch * N, width]`."""

    class_token_from: Literal["q", "fc2"] = "q"
    """The linear of the last block from which on only the class token is computed: `fc2` where gates read all tokens."""
    optional_vectors = False
    """Whether a run may replace the parameters that are not weights of linear layers."""

    def __init__(self, graph: Graph, backbone: Backbone) -> None:
        self.graph = graph
        self.backbone = backbone
        self.architecture = backbone.architecture
        self.weights = WeightPrecision(graph, backbone.file, backbone.precision, backbone.exact)
        self._means: dict[str, str] = {}

    def write(self, path: Path) -> None:
        """Save the graph from images to embeddings."""
        embeds = self.embeddings(PIXELS)
        self.graph.output(EMBEDS, embeds, ["batch", self.architecture.output_dim])
        self.graph.save(path)

    def embeddings(self, pixel_values: str) -> str:
        """Add all of the tower: images `[batch, 3, H, W]` to embeddings of unit length `[batch, output_dim]`."""
        x = self.tokens(pixel_values)
        last = self.architecture.layers - 1
        for i in range(last):
            x = self.block(i, x)
        x = self.block(last, x, class_token_from=self.class_token_from)  # [batch, width]
        (y,) = self.linear(["projection"], self._layer_norm(x, "ln_post"))  # [batch, output_dim]
        with self.graph.part("norm"):
            return self.graph.op("Div", y.value, self.graph.op("ReduceL2", y.value, axes=[1], keepdims=1))

    def tokens(self, pixel_values: str) -> Tokens:
        """Add the patch embedding: images `[batch, 3, H, W]` to the normalized tokens that enter the first block."""
        graph, a = self.graph, self.architecture
        with graph.part("stem"):
            shape = graph.integers(-1, 3, a.grid, a.patch_size, a.grid, a.patch_size)
            x = graph.op("Transpose", graph.op("Reshape", pixel_values, shape), perm=[0, 2, 4, 1, 3, 5])
            x = graph.op("Reshape", x, graph.integers(-1, 3 * a.patch_size**2))  # [batch (N - 1), 3 p p]
        (patches,) = self.linear(["patch_embedding"], Tokens(x, a.tokens - 1))
        with graph.part("stem"):
            x = graph.op("Reshape", patches.value, graph.integers(-1, a.tokens - 1, a.width))
            batch = graph.op("Shape", pixel_values, start=0, end=1)
            shape = graph.op("Concat", batch, graph.integers(1, a.width), axis=0)
            x = graph.op("Concat", graph.op("Expand", self.vector("class_token"), shape), x, axis=1)
            x = graph.op("Add", x, self.vector("positions"))  # [batch, N, width]
            x = graph.op("Reshape", x, graph.integers(-1, a.width))
        return self._layer_norm(Tokens(x, a.tokens), "ln_pre")

    def block(self, i: int, x: Tokens, class_token_from: Literal["q", "fc2"] | None = None) -> Tokens:
        """Add one block. From the linear `class_token_from` on it computes the class token `[batch, width]` alone, exactly."""
        graph, name = self.graph, f"blocks.{i}"
        width, mlp_width = self.architecture.width, self.architecture.mlp_width
        y = self._layer_norm(x, f"{name}.ln_1")
        if class_token_from == "q":
            (q,) = self.linear([f"{name}.q"], self._class_token(y, width))
            k, v = self.linear([f"{name}.k", f"{name}.v"], y)
            x = self._class_token(x, width)
        else:
            q, k, v = self.linear([f"{name}.q", f"{name}.k", f"{name}.v"], y)
        with graph.part(f"{name}.attention"):
            y = self._attention(q, k, v)
        (y,) = self.linear([f"{name}.out"], y)
        with graph.part(f"{name}.out"):
            x = Tokens(graph.op("Add", x.value, y.value), x.count)
        (y,) = self.linear([f"{name}.fc1"], self._layer_norm(x, f"{name}.ln_2"))
        with graph.part(f"{name}.activation"):
            if self.architecture.activation == "quick_gelu":  # y sigmoid(1.702 y)
                active = graph.op("Mul", y.value, graph.op("Sigmoid", graph.op("Mul", y.value, graph.scalar(1.702))))
            else:  # y (1 + erf(y / sqrt 2)) / 2
                erf = graph.op("Erf", graph.op("Div", y.value, graph.scalar(2**0.5)))
                active = graph.op("Mul", y.value, graph.op("Add", erf, graph.scalar(1)))
                active = graph.op("Mul", active, graph.scalar(0.5))
            y = tokens = Tokens(active, y.count)
        if class_token_from == "fc2":
            x, y = self._class_token(x, width), self._class_token(y, mlp_width)
        (y,) = self.linear([f"{name}.fc2"], y, tokens)
        with graph.part(f"{name}.fc2"):
            return Tokens(graph.op("Add", x.value, y.value), x.count)

    def linear(self, layers: Sequence[str], x: Tokens, tokens: Tokens | None = None) -> list[Tokens]:
        """Add layers that read the same input `[batch * count, d_in]`, and return their outputs `[batch * count, d_out]`.

        tokens: the input of all tokens `[batch * N, d_in]`, which gates read, where x is not that.
        """
        parameters, outputs = self.backbone.parameters, []
        for layer in layers:
            with self.graph.part(layer):
                bias = self.vector(f"{layer}.bias") if f"{layer}.bias" in parameters else None
                outputs.append(self.weights.linear(layer, x.value, parameters[f"{layer}.weight"], bias))
        return [Tokens(y, x.count) for y in self.add_experts(layers, x, tokens or x, outputs)]

    def add_experts(self, layers: Sequence[str], x: Tokens, tokens: Tokens, outputs: list[str]) -> list[str]:
        """Return outputs of `layers` with what experts add to each; see `linear`. A plain tower has none."""
        return outputs

    def vector(self, name: str) -> str:
        """Add a parameter that is not the weight of a linear layer."""
        add = self.graph.optional_weight if self.optional_vectors else self.graph.weight
        return add(name, self.backbone.parameters[name], self.backbone.file)

    def token_mean(self, x: Tokens, width: int) -> str:
        """Add the mean over the tokens of `[batch * N, width]`, all N of them: `[batch, 1, width]`.

        As a product with a constant row: ReduceMean over a middle axis is many times slower on the CPU.
        """
        if x.value not in self._means:
            row = self.graph.constant(np.full((1, x.count), 1 / x.count, dtype=np.float32))
            by_image = self.graph.op("Reshape", x.value, self.graph.integers(-1, x.count, width))  # [batch, N, width]
            self._means[x.value] = self.graph.op("MatMul", row, by_image)
        return self._means[x.value]

    def _attention(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        graph, heads, width = self.graph, self.architecture.heads, self.architecture.width
        head = width // heads

        def split(x: Tokens, order: list[int]) -> str:
            return graph.op("Transpose", graph.op("Reshape", x.value, graph.integers(-1, x.count, heads, head)), perm=order)

        scores = graph.op("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))  # [batch, heads, n, N]
        scores = graph.op("Mul", scores, graph.scalar(head**-0.5))
        mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
        mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])  # [batch, n, heads, head]
        return Tokens(graph.op("Reshape", mixed, graph.integers(-1, width)), q.count)

    def _layer_norm(self, x: Tokens, name: str) -> Tokens:
        weight, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        with self.graph.part(name):
            y = self.graph.op("LayerNormalization", x.value, weight, bias, axis=-1, epsilon=self.architecture.layer_norm_eps)
        return Tokens(y, x.count)

    def _class_token(self, x: Tokens, width: int) -> Tokens:
        """Add the choice of the first row of each image."""
        graph = self.graph
        with graph.part("class_token"):
            by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, width))
            first = graph.op("Slice", by_image, *(graph.integers(i) for i in (0, 1, 1)))  # [batch, 1, width]
            return Tokens(graph.op("Reshape", first, graph.integers(-1, width)), 1)
