"""The vision tower as an ONNX graph, with one place where every linear layer passes.

The twin of `mingle_edge/clip/vision_tower.py`. Tokens of all images are rows of one matrix, so that a linear layer is one
Gemm with its bias inside and an expert's product accumulates into the layer's own. Measured on ViT-B/32, B/16 and L/14
(benchmarks/graph_variants.py), the operators of the standard domain are as fast as fused `com.microsoft` ones written by hand,
because ONNX Runtime fuses QuickGELU, scaled and transposed MatMul by itself; what pays is to compute of the last block only
what the class token needs, where that is what is pooled.
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
        """Add all of the tower: images `[batch, 3, H, W]` to embeddings `[batch, output_dim]` as heads read them."""
        a, x = self.architecture, self.tokens(pixel_values)
        last = a.layers - 1
        for i in range(last):
            x = self.block(i, x)
        pooled = self.pool(self.block(last, x, self.class_token_from if a.pooling == "class_token" else None))
        if a.norm_pooled:
            pooled = self._layer_norm(pooled, "ln_post")
        if a.projection:
            (pooled,) = self.linear(["projection"], pooled)  # [batch, output_dim]
        if not a.normalized:
            return pooled.value
        with self.graph.part("norm"):
            return self.graph.op("Div", pooled.value, self.graph.op("ReduceL2", pooled.value, axes=[1], keepdims=1))

    def tokens(self, pixel_values: str) -> Tokens:
        """Add the patch embedding: images `[batch, 3, H, W]` to the tokens that enter the first block."""
        graph, a = self.graph, self.architecture
        with graph.part("stem"):
            if a.image_size % a.patch_size:
                ends = graph.integers(a.grid * a.patch_size, a.grid * a.patch_size)
                pixel_values = graph.op("Slice", pixel_values, graph.integers(0, 0), ends, graph.integers(2, 3))
            shape = graph.integers(-1, 3, a.grid, a.patch_size, a.grid, a.patch_size)
            x = graph.op("Transpose", graph.op("Reshape", pixel_values, shape), perm=[0, 2, 4, 1, 3, 5])
            x = graph.op("Reshape", x, graph.integers(-1, 3 * a.patch_size**2))  # [batch grid grid, 3 p p]
        (patches,) = self.linear(["patch_embedding"], Tokens(x, a.grid**2))
        with graph.part("stem"):
            x = graph.op("Reshape", patches.value, graph.integers(-1, a.grid**2, a.width))
            if a.prefix_tokens:
                batch, prefix = graph.op("Shape", pixel_values, start=0, end=1), []
                for name, count in (("class_token", int(a.class_token)), ("registers", a.registers)):
                    if count:
                        shape = graph.op("Concat", batch, graph.integers(count, a.width), axis=0)
                        prefix.append(graph.op("Expand", self.vector(name), shape))
                x = graph.op("Concat", *prefix, x, axis=1)
            x = graph.op("Add", x, self.vector("positions"))  # [batch, N, width]
            x = graph.op("Reshape", x, graph.integers(-1, a.width))
        tokens = Tokens(x, a.tokens)
        return self._layer_norm(tokens, "ln_pre") if a.pre_norm else tokens

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
            y = tokens = self._activation(y)
        if class_token_from == "fc2":
            x, y = self._class_token(x, width), self._class_token(y, mlp_width)
        (y,) = self.linear([f"{name}.fc2"], y, tokens)
        with graph.part(f"{name}.fc2"):
            return Tokens(graph.op("Add", x.value, y.value), x.count)

    def pool(self, x: Tokens) -> Tokens:
        """Add the pooling of the tokens after the last block, one row an image: `[batch, pooled_width]`."""
        a = self.architecture
        if a.pooling == "class_token":
            return x  # that of the last block is all there is
        if a.norm_tokens:
            x = self._layer_norm(x, "ln_tokens")
        if a.pooling == "attention":
            return self._attention_pooling(x)
        average = self._patch_mean(x)
        if a.pooling == "average":
            return average
        class_token = self._class_token(x, a.width)
        with self.graph.part("pooling"):
            return Tokens(self.graph.op("Concat", class_token.value, average.value, axis=1), 1)

    def linear(self, layers: Sequence[str], x: Tokens, tokens: Tokens | None = None) -> list[Tokens]:
        """Add layers that read the same input `[batch * count, d_in]`, and return their outputs `[batch * count, d_out]`.

        tokens: the input of all tokens `[batch * N, d_in]`, which gates read, where x is not that.
        """
        outputs = []
        for layer in layers:
            addend, weight = self.addend(layer, x), self.backbone.parameters[f"{layer}.weight"]
            with self.graph.part(layer):
                outputs.append(self.weights.linear(layer, x.value, weight, addend))
        return [Tokens(y, x.count) for y in self.add_experts(layers, x, tokens or x, outputs)]

    def addend(self, layer: str, x: Tokens) -> str | None:
        """Add what a layer adds to its product with `x [batch * count, d_in]`: its bias `[d_out]`, None where it has none."""
        bias = f"{layer}.bias"
        return self.vector(bias) if bias in self.backbone.parameters else None

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

    def _attention_pooling(self, x: Tokens) -> Tokens:
        """Add values weighted by scores, and an MLP if there is one: `[batch N, width]` to `[batch, pool_width]`."""
        graph, a = self.graph, self.architecture
        heads = a.pool_heads
        (values,) = self.linear(["pooling.v"], x)
        with graph.part("pooling"):
            scores = graph.op("Gemm", x.value, self.vector("pooling.scores"), transB=1)  # [batch N, heads]
            scores = graph.op("Reshape", scores, graph.integers(-1, x.count, heads, 1))
            weights = graph.op("Softmax", graph.op("Transpose", scores, perm=[0, 2, 3, 1]), axis=-1)  # [batch, heads, 1, N]
            by_head = graph.op("Reshape", values.value, graph.integers(-1, x.count, heads, a.pool_width // heads))
            mixed = graph.op("MatMul", weights, graph.op("Transpose", by_head, perm=[0, 2, 1, 3]))  # [batch, heads, 1, head]
            mixed = graph.op("Reshape", mixed, graph.integers(-1, a.pool_width))
        (pooled,) = self.linear(["pooling.out"], Tokens(mixed, 1))
        if not a.pool_mlp_width:
            return pooled
        (hidden,) = self.linear(["pooling.fc1"], self._layer_norm(pooled, "pooling.ln"))
        with graph.part("pooling"):
            hidden = self._activation(hidden)
        (added,) = self.linear(["pooling.fc2"], hidden)
        with graph.part("pooling"):
            return Tokens(graph.op("Add", pooled.value, added.value), 1)

    def _patch_mean(self, x: Tokens) -> Tokens:
        """Add the mean over the patches of each image, as a product like `token_mean`: `[batch, width]`."""
        graph, a = self.graph, self.architecture
        with graph.part("pooling"):
            row = np.full((1, x.count), 1 / a.grid**2, dtype=np.float32)
            row[0, : a.prefix_tokens] = 0
            by_image = graph.op("Reshape", x.value, graph.integers(-1, x.count, a.width))  # [batch, N, width]
            mean = graph.op("MatMul", graph.constant(row), by_image)
            return Tokens(graph.op("Reshape", mean, graph.integers(-1, a.width)), 1)

    def _activation(self, x: Tokens) -> Tokens:
        graph, y, kind = self.graph, x.value, self.architecture.activation
        if kind == "quick_gelu":  # y sigmoid(1.702 y)
            return Tokens(graph.op("Mul", y, graph.op("Sigmoid", graph.op("Mul", y, graph.scalar(1.702)))), x.count)
        if kind == "gelu":  # y (1 + erf(y / sqrt 2)) / 2
            erf = graph.op("Erf", graph.op("Div", y, graph.scalar(2**0.5)))
            active = graph.op("Mul", y, graph.op("Add", erf, graph.scalar(1)))
            return Tokens(graph.op("Mul", active, graph.scalar(0.5)), x.count)
        # y (1 + tanh(sqrt(2 / pi) y (1 + 0.044715 y y))) / 2, in the order that ONNX Runtime fuses
        cubic = graph.op("Add", graph.op("Mul", graph.op("Mul", y, graph.scalar(0.044715)), y), graph.scalar(1))
        inner = graph.op("Mul", graph.op("Mul", y, graph.scalar((2 / np.pi) ** 0.5)), cubic)
        outer = graph.op("Add", graph.op("Tanh", inner), graph.scalar(1))
        return Tokens(graph.op("Mul", graph.op("Mul", y, graph.scalar(0.5)), outer), x.count)

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
