"""Bundles small enough to compute by hand: a linear layer or two for a tower, and the same in numpy to compare with.

Red, green and blue images belong to tasks 0, 1, 2; black ones belong to none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mingle_edge_runtime.bundle import index as fmt
from mingle_edge_runtime.images.preprocess import preprocess

TASKS = ("red", "green", "blue")
SIDE, DIM, RANK, LAYERS, PAGE = 8, 16, 2, 2, 1024
INPUTS = 3 * SIDE * SIDE
LOGIT_SCALE = 20.0
SPEC = fmt.Preprocess(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images(*colors: int, seed: int = 0) -> np.ndarray:
    """Noisy uint8 images `[n, 12, 9, 3]` of the given colors: 0 red, 1 green, 2 blue, 3 black."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 60, (len(colors), 12, 9, 3), dtype=np.uint8)
    for image, color in zip(values, colors, strict=True):
        if color < 3:
            image[..., color] += 190
    return values


KINDS = [("image", 1), ("image", 2), ("layer", 1), ("layer", 2)]
"""scope and top_k"""
GOLDEN_IMAGES = images(0, 1, 2, 3)


class Weights:
    """Random weights of a tiny tower with experts, and its outputs in numpy."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape).astype(np.float32) / np.float32(4)

        self.stem = normal(INPUTS, DIM)
        self.bias = normal(DIM)
        self.layers = [normal(DIM, DIM) for _ in range(LAYERS)]
        self.gates = [normal(DIM, len(TASKS)) for _ in range(LAYERS)]
        self.A = normal(len(TASKS), INPUTS, RANK)  # image scope
        self.B = normal(len(TASKS), RANK, DIM)
        self.biases = normal(len(TASKS), DIM)
        self.layer_A = normal(len(TASKS), LAYERS, RANK, DIM)  # layer scope
        self.layer_B = normal(len(TASKS), LAYERS, RANK, DIM)
        heads = normal(len(TASKS), 4, DIM)
        self.heads = heads / np.linalg.norm(heads, axis=-1, keepdims=True)

    def image_scope(self, x: np.ndarray, tasks: list[int], shares: list[float]) -> np.ndarray:
        """Embeddings of `x [n, INPUTS]` with a mixture of experts; none is the plain backbone."""
        y, bias = x @ self.stem, self.bias.copy()
        for task, share in zip(tasks, shares, strict=True):
            y = y + share * (x @ self.A[task] @ self.B[task])
            bias = bias + share * (self.biases[task] - self.bias)
        return unit(y + bias)

    def layer_scope(self, x: np.ndarray, k: int, task: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and `route_tasks [n, layers, k]`."""
        h, routes = x @ self.stem + self.bias, []
        for layer, (weight, gate) in enumerate(zip(self.layers, self.gates, strict=True)):
            scores = h @ gate
            order = np.argsort(-scores)[:, :k] if task is None else np.full((len(x), 1), task)
            y = h @ weight
            for n in range(len(x)):
                for t in order[n]:
                    y[n] += scores[n, t] * (h[n] @ self.layer_A[t, layer].T @ self.layer_B[t, layer])
            h = y
            routes.append(order)
        return unit(h), np.stack(routes, 1)

    def labels(self, embeds: np.ndarray, posterior: np.ndarray | None = None) -> np.ndarray:
        """Probabilities `[n, labels of all tasks]`, by the router's posterior if it is given."""
        powers = np.exp(LOGIT_SCALE * np.einsum("nd,tld->ntl", embeds, self.heads))
        scale = powers.sum((1, 2), keepdims=True) if posterior is None else powers.sum(2, keepdims=True) / posterior[..., None]
        return (powers / scale).reshape(len(embeds), -1)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class BundleWriter:
    """Collects the tensors of backbone.bin and the files of a bundle folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.offsets: dict[str, int] = {}
        (root / "heads").mkdir(parents=True)
        (root / "backbone.bin").write_bytes(b"")

    def external(self, name: str, array: np.ndarray, file: str = "backbone.bin") -> TensorProto:
        """A tensor that lives in `file`, appended at the next multiple of 4096 unless it is there already."""
        path = self.root / file
        if name not in self.offsets:
            content = path.read_bytes() if path.exists() else b""
            self.offsets[name] = -(-len(content) // 4096) * 4096
            path.write_bytes(content.ljust(self.offsets[name], b"\0") + array.tobytes())
        tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", file), ("offset", self.offsets[name]), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def graph(
        self,
        file: str,
        nodes: list[Any],
        outputs: dict[str, tuple[int, int]],
        tensors: list[Any],
        inputs: tuple[Any, ...] = (),
        pixels: bool = True,
    ) -> None:
        """Write a graph from `inputs` and, with `pixels`, from `pixel_values`; outputs: name -> (element type, rank)."""
        if pixels:
            inputs = (helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]), *inputs)
        results = [helper.make_tensor_value_info(name, kind, [None] * rank) for name, (kind, rank) in outputs.items()]
        graph = helper.make_graph(nodes, "tiny", inputs, results, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (self.root / file).write_bytes(model.SerializeToString())

    def finish(self, weights: Weights, golden: dict[str, np.ndarray], **members: Any) -> Path:
        """Write heads, golden.npz and bundle.json."""
        np.savez(self.root / "golden.npz", images=GOLDEN_IMAGES, **golden)
        for name, head in zip(TASKS, weights.heads, strict=True):
            np.save(self.root / f"heads/{name}.npy", head)
        paths = sorted(path for path in self.root.rglob("*") if path.is_file())
        index = fmt.BundleIndex(
            format=fmt.FORMAT,
            format_version=fmt.FORMAT_VERSION,
            precision="fp32",
            exact_layers=(),
            fidelity=fmt.Fidelity(0.9999, 1e-3),
            minimum_onnxruntime="1.20.0",
            producer={"onnx": onnx.__version__},
            source=fmt.Source("0" * 64, dict.fromkeys(TASKS, "1" * 64)),
            architecture=fmt.Architecture(SIDE, SIDE, DIM, LAYERS, 1, DIM),
            preprocess=SPEC,
            logit_scale=LOGIT_SCALE,
            tower="tower.onnx",
            dense="dense.onnx",
            golden="golden.npz",
            files={path.relative_to(self.root).as_posix(): fmt.FileRecord.of(path) for path in paths},
            **members,
        )
        (self.root / "bundle.json").write_text(json.dumps(index.to_json(), indent=2))
        return self.root


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """An ONNX node from space-separated names."""
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def constant(name: str, value: Any, dtype: type = np.int64) -> TensorProto:
    """An initializer inside the graph."""
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def optional_input(tensor: TensorProto, shape: list[Any]) -> Any:
    """The graph input of an initializer that a run may override."""
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)


def tasks(expert_bytes: list[int], experts: list[str | None]) -> tuple[fmt.Task, ...]:
    """Task records with four labels each."""
    return tuple(
        fmt.Task(name, tuple(f"{name} {i}" for i in range(4)), f"heads/{name}.npy", LOGIT_SCALE, size, RANK, "fp32", expert)
        for name, size, expert in zip(TASKS, expert_bytes, experts, strict=True)
    )


def flat(pixels: np.ndarray) -> np.ndarray:
    """`[n, INPUTS]` in float64 of `pixel_values`."""
    return pixels.reshape(len(pixels), -1).astype(np.float64)


FLATTEN = node("Flatten", "pixel_values", "x")
NORMALISE = [node("ReduceL2", "y", "length", axes=[1]), node("Div", "y length", "image_embeds")]
EMBEDS = {"image_embeds": (TensorProto.FLOAT, 2)}


def write_image_bundle(root: Path, weights: Weights, top_k: int = 1) -> Path:
    """A bundle of the image scope: one linear layer `projection` and one vector `ln_post.bias`."""
    x = flat(pixels := preprocess(GOLDEN_IMAGES, SPEC))
    scores = 5 * pixels.mean((2, 3), dtype=np.float64)
    plain, posterior = weights.image_scope(x, [], []), np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    best = np.argsort(-posterior, axis=1)[:, :top_k]
    shares = np.take_along_axis(posterior, best, 1) / np.take_along_axis(posterior, best, 1).sum(1, keepdims=True)
    routed = np.concatenate([weights.image_scope(x[i : i + 1], list(best[i]), list(shares[i])) for i in range(len(x))])
    golden = {
        "plain": plain,
        "posterior": posterior[None],
        "losses": np.pad(1 - posterior, ((0, 0), (0, 1)), constant_values=1)[None],
        "confidence": scores.max(1)[None],
        "embeds": np.stack([weights.image_scope(x, [t], [1.0]) for t in range(len(TASKS))]),
        "probabilities": np.stack([weights.labels(routed, posterior), weights.labels(plain)]),
    }
    writer = BundleWriter(root)
    stem, bias = writer.external("stem", weights.stem), writer.external("ln_post.bias", weights.bias)
    plain = [FLATTEN, node("MatMul", "x stem", "xw")]
    dense = [*plain, node("Add", "xw ln_post.bias", "y"), *NORMALISE]
    writer.graph("dense.onnx", dense, EMBEDS, [stem, bias])
    a = constant("projection.A", np.empty((0, INPUTS)), np.float32)
    b = constant("projection.B", np.empty((0, DIM)), np.float32)
    optional = (optional_input(a, ["rank", INPUTS]), optional_input(b, ["rank", DIM]), optional_input(bias, [DIM]))
    expert = [
        node("Gemm", "x projection.A", "xa", transB=1),
        node("MatMul", "xa projection.B", "xab"),
        node("Add", "xw xab", "z"),
    ]
    tower = [*plain, *expert, node("Add", "z ln_post.bias", "y"), *NORMALISE]
    writer.graph("tower.onnx", tower, EMBEDS, [stem, bias, a, b], optional)
    router = [
        node("ReduceMean", "pixel_values", "means", axes=[2, 3], keepdims=0),
        node("Mul", "means five", "scores"),
        node("Softmax", "scores", "posterior", axis=1),
        node("ReduceMax", "scores", "confidence", axes=[1], keepdims=0),
        node("Sub", "one posterior", "wrong"),
        node("ReduceSum", "posterior axis", "always", keepdims=1),
        node("Concat", "wrong always", "losses", axis=1),
    ]
    outputs = {"posterior": (TensorProto.FLOAT, 2), "losses": (TensorProto.FLOAT, 2), "confidence": (TensorProto.FLOAT, 1)}
    values = [constant("five", 5, np.float32), constant("one", 1, np.float32), constant("axis", [1])]
    writer.graph("router.onnx", router, outputs, values)
    (root / "experts").mkdir()
    names = [f"experts/{name}.onnx_adapter" for name in TASKS]
    for t, name in enumerate(names):
        arrays = {"projection.A": weights.A[t].T, "projection.B": weights.B[t], "ln_post.bias": weights.biases[t]}
        write_adapter(root / name, arrays)
    return writer.finish(
        weights,
        golden,
        scope="image",
        top_k=top_k,
        tasks=tasks([(root / name).stat().st_size for name in names], list(names)),
        router=fmt.Router((fmt.Stage("pixels", "router.onnx", 0, "fp32", 1.0, 0.0),)),
        defaults=fmt.Defaults(
            "backbone.bin", {"ln_post.bias": fmt.DefaultTensor(writer.offsets["ln_post.bias"], weights.bias.shape)}
        ),
    )


def write_adapter(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An ONNX Runtime adapter file."""
    adapter = ort.AdapterFormat()
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    adapter.set_parameters(values)
    adapter.export_adapter(str(path))


def write_layer_bundle(root: Path, weights: Weights, top_k: int = 1) -> Path:
    """A bundle of the layer scope: two gated linear layers, each expert matrix on a page of its own."""
    x = flat(preprocess(GOLDEN_IMAGES, SPEC))
    embeds = np.stack([weights.layer_scope(x, k)[0] for k in sorted({top_k, len(TASKS)})])
    golden = {"embeds": embeds, "probabilities": weights.labels(embeds[0])[None]}
    writer = BundleWriter(root)
    pages = np.zeros((len(TASKS), LAYERS, 2, PAGE), np.float32)
    pages[:, :, 0, : RANK * DIM] = weights.layer_A.reshape(len(TASKS), LAYERS, -1)
    pages[:, :, 1, : RANK * DIM] = weights.layer_B.reshape(len(TASKS), LAYERS, -1)
    tensors = [writer.external("stem", weights.stem), writer.external("ln_post.bias", weights.bias)]
    tensors += [writer.external(f"W{i}", weight) for i, weight in enumerate(weights.layers)]
    plain = [FLATTEN, node("MatMul", "x stem", "xw"), node("Add", "xw ln_post.bias", "h0")]
    dense = [*plain, node("MatMul", "h0 W0", "h1"), node("MatMul", "h1 W1", "y"), *NORMALISE]
    writer.graph("dense.onnx", dense, EMBEDS, list(tensors))
    tensors += [writer.external("experts", pages.reshape(-1, PAGE), "experts.bin")]
    tensors += [constant(f"G{i}", gate, np.float32) for i, gate in enumerate(weights.gates)]
    top, mask = constant("top_k", [top_k]), constant("task_mask", np.ones(len(TASKS)), np.float32)
    tensors += [top, mask, constant("per_task", 2 * LAYERS), constant("start", [0]), constant("stop", [RANK * DIM])]
    tensors += [constant("last", [2]), constant("shape", [0, 0, RANK, DIM]), constant("one", [1], np.float32)]
    tensors += [constant("far", 1e6, np.float32), constant("axis_1", [1])]
    tensors += [constant(f"axes_{a}_{b}", [a, b]) for a, b in ((1, 2), (1, 3), (2, 3))]
    nodes = [*plain, node("Sub", "one task_mask", "unwanted"), node("Mul", "unwanted far", "penalty")]
    for layer in range(LAYERS):
        tensors += [constant(f"first{layer}_{kind}", 2 * layer + i) for i, kind in enumerate("AB")]
        nodes += _gated_layer(layer)
    nodes += [node("Identity", f"h{LAYERS}", "y"), *NORMALISE]
    nodes += [node("Concat", " ".join(f"t{i}" for i in range(LAYERS)), "route_tasks", axis=1)]
    nodes += [node("Concat", " ".join(f"c{i}" for i in range(LAYERS)), "route_weights", axis=1)]
    outputs = EMBEDS | {"route_tasks": (TensorProto.INT64, 3), "route_weights": (TensorProto.FLOAT, 3)}
    writer.graph("tower.onnx", nodes, outputs, tensors, (optional_input(top, [1]), optional_input(mask, [len(TASKS)])))
    layers = tuple(fmt.LayerPages(f"blocks.{i}.q", 2 * i, 2) for i in range(LAYERS))
    return writer.finish(
        weights,
        golden,
        scope="layer",
        top_k=top_k,
        tasks=tasks([2 * LAYERS * PAGE * 4] * len(TASKS), [None] * len(TASKS)),
        page_bank=fmt.PageBank("experts.bin", "experts", "float32", PAGE, 2 * LAYERS, layers),
    )


def write_kinds(root: Path, weights: Weights) -> dict[tuple[str, int], Path]:
    """A bundle of every kind, by scope and top_k."""
    write = {"image": write_image_bundle, "layer": write_layer_bundle}
    return {(scope, k): write[scope](root / f"{scope}{k}", weights, k) for scope, k in KINDS}


def rewrite(bundle: Path, change: Callable[[dict], None]) -> None:
    """Change the parsed bundle.json."""
    record = json.loads((bundle / "bundle.json").read_text())
    change(record)
    (bundle / "bundle.json").write_text(json.dumps(record))


def relist(bundle: Path, name: str) -> None:
    """Record the present size and hash of a file, as an attacker would."""
    rewrite(bundle, lambda record: record["files"].update({name: vars(fmt.FileRecord.of(bundle / name))}))


def add_bias(bundle: Path, task: str, bias: np.ndarray, logit_scale: float = LOGIT_SCALE) -> None:
    """Give the head of a task a bias and a logit scale."""
    (bundle / "biases").mkdir(exist_ok=True)
    np.save(bundle / (name := f"biases/{task}.npy"), bias)
    rewrite(bundle, lambda record: record["tasks"][TASKS.index(task)].update(bias=name, logit_scale=logit_scale))
    relist(bundle, name)


def _gated_layer(i: int) -> list[Any]:
    """h{i} -> h{i + 1}, with the route as t{i}, c{i} `[batch, 1, k]`."""
    nodes = [
        node("MatMul", f"h{i} G{i}", f"s{i}"),
        node("Sub", f"s{i} penalty", f"p{i}"),
        node("TopK", f"p{i} top_k", f"c2{i} t2{i}", axis=1),
        node("Unsqueeze", f"c2{i} axis_1", f"c{i}"),
        node("Unsqueeze", f"t2{i} axis_1", f"t{i}"),
        node("Mul", f"t2{i} per_task", f"base{i}"),
    ]
    for kind in "AB":
        nodes += [
            node("Add", f"base{i} first{i}_{kind}", f"rows{i}{kind}"),
            node("Gather", f"experts rows{i}{kind}", f"pages{i}{kind}"),  # [batch, k, PAGE]
            node("Slice", f"pages{i}{kind} start stop last", f"used{i}{kind}"),
            node("Reshape", f"used{i}{kind} shape", f"{kind}{i}"),  # [batch, k, RANK, DIM]
        ]
    return [
        *nodes,
        node("Unsqueeze", f"h{i} axes_1_3", f"column{i}"),  # [batch, 1, DIM, 1]
        node("MatMul", f"A{i} column{i}", f"ha{i}"),  # [batch, k, RANK, 1]
        node("Unsqueeze", f"c2{i} axes_2_3", f"scale{i}"),
        node("Mul", f"ha{i} scale{i}", f"hac{i}"),
        node("Mul", f"hac{i} B{i}", f"parts{i}"),  # [batch, k, RANK, DIM]
        node("ReduceSum", f"parts{i} axes_1_2", f"delta{i}", keepdims=0),
        node("MatMul", f"h{i} W{i}", f"hw{i}"),
        node("Add", f"hw{i} delta{i}", f"h{i + 1}"),
    ]
