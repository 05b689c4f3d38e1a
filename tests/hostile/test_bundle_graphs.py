"""Graphs that keep or end the process, lie, or compute no answer, in bundles whose hashes are right: `BundleError`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from damage import changed_graph, put
from onnx import TensorProto, helper
from tiny_bundle import TASKS, Weights, add_bias, images, node, rewrite, write_image_bundle, write_layer_bundle

from mingle_edge_runtime import Bundle, BundleError, EdgeError, EdgeModel
from mingle_edge_runtime.check.verify import verify

GRAPHS = ("tower.onnx", "router.onnx")


def serve(bundle: Path, task: str | None = None) -> None:
    """Open the bundle and ask it for embeddings of images."""
    with EdgeModel.open(bundle) as model:
        model.embed(images(0, 3), task=task)


def endless_loop() -> onnx.NodeProto:
    """A loop whose condition stays true."""
    on, still = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("on", "still"))
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([node("Identity", "on", "still")], "body", [number, on], [still])
    return helper.make_node("Loop", ["", "true"], [], body=body)


LONG = {"Loop": endless_loop(), "Einsum": node("Einsum", "pixel_values", "z", equation="abcdefghijkl->a")}  # more axes than are


@pytest.mark.parametrize("name", [*GRAPHS, "dense.onnx"])
@pytest.mark.parametrize("operator", LONG)
@pytest.mark.parametrize("in_function", [False, True])
def test_operators_without_end_are_refused_before_onnx_runtime_reads_them(bundle, name, operator, in_function) -> None:
    with changed_graph(bundle, name) as model:
        if in_function:  # that nobody calls
            opset = helper.make_opsetid("", 17)
            model.functions.append(helper.make_function("of", "hidden", [], [], [LONG[operator]], [opset]))
        else:
            model.graph.node.append(LONG[operator])
    with pytest.raises(BundleError, match=f"{name} has an operator {operator}"):
        # nothing but a profile opens the dense tower
        Bundle.open(bundle).graph(name) if name == "dense.onnx" else serve(bundle)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("raw", [b"", bytes(8), bytes(4000)])
def test_tensors_that_lie_about_their_bytes_are_refused(bundle, name: str, raw: bytes) -> None:
    with changed_graph(bundle, name) as model:
        model.graph.initializer.add(name="lie", dims=[2], data_type=TensorProto.INT64, raw_data=raw)
    with pytest.raises(BundleError, match=f"{name} has a tensor 'lie' of more or fewer bytes"):
        serve(bundle)


@pytest.mark.parametrize("write", [write_image_bundle, write_layer_bundle], ids=["image", "layer"])
@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (["Identity"], "not finite or not of unit length"),
        (["Exp", "Exp", "Exp"], "not finite or not of unit length"),
        (["Cast"], "which are no numbers"),
    ],
)
@pytest.mark.parametrize("task", [None, "red"])
def test_embeddings_that_are_no_unit_vectors_are_errors(tmp_path, write, operators, message: str, task: str | None) -> None:
    bundle = write(tmp_path / "bundle", Weights())
    with changed_graph(bundle) as model:
        (division,) = [step for step in model.graph.node if "image_embeds" in step.output]
        model.graph.node.remove(division)
        names = ["y", *(f"ending{i}" for i in range(len(operators) - 1)), "image_embeds"]
        for operator, source, target in zip(operators, names, names[1:], strict=False):
            model.graph.node.append(
                node(operator, source, target, **({"to": TensorProto.STRING} if operator == "Cast" else {}))
            )
        (output,) = [value for value in model.graph.output if value.name == "image_embeds"]
        output.type.tensor_type.elem_type = TensorProto.STRING if operators == ["Cast"] else TensorProto.FLOAT
    with pytest.raises(BundleError, match=message):
        serve(bundle, task)


@pytest.mark.parametrize("write", [write_image_bundle, write_layer_bundle], ids=["image", "layer"])
def test_embeddings_of_any_length_are_what_heads_read_where_the_architecture_says_so(tmp_path, write) -> None:
    bundle = write(tmp_path / "bundle", Weights())
    with EdgeModel.open(bundle) as opened:
        unit = opened.embed(images(0, 3), task="green")
    with changed_graph(bundle) as model:
        (division,) = [step for step in model.graph.node if "image_embeds" in step.output]
        model.graph.node.remove(division)
        model.graph.node.append(node("Identity", "y", "image_embeds"))
    rewrite(bundle, lambda record: record["architecture"].update(normalized=False))
    bias = np.arange(4, dtype=np.float32)
    add_bias(bundle, "green", bias, logit_scale=1.0)
    with EdgeModel.open(bundle) as opened:
        embeds = opened.embed(images(0, 3), task="green")
        found = opened.classify(images(0, 3), task="green", top=4)
    lengths = np.linalg.norm(embeds, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all()
    np.testing.assert_allclose(embeds / lengths, unit, rtol=0, atol=1e-6)
    powers = np.exp(embeds.astype(np.float64) @ Weights().heads[TASKS.index("green")].T + bias)
    for row, prediction in zip(powers / powers.sum(1, keepdims=True), found, strict=True):
        np.testing.assert_allclose(prediction.probabilities, np.sort(row)[::-1], rtol=0, atol=1e-6)
    with changed_graph(bundle) as model:
        model.graph.node[-1].op_type = "Log"  # of negative values, too
    with pytest.raises(BundleError, match="computes an embedding that is not finite: a weight is damaged"):
        serve(bundle, "green")


@pytest.mark.parametrize("operators", [["Identity"], ["Sigmoid"], ["Log"], ["Neg"], ["Sub", "Div"]])
@pytest.mark.parametrize("top_k", [1, 2])
def test_routers_whose_probabilities_are_none_are_errors_and_named_tasks_are_served(operators, top_k: int, tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights(), top_k)
    with changed_graph(bundle, "router.onnx") as model:
        (softmax,) = [step for step in model.graph.node if step.op_type == "Softmax"]
        model.graph.node.remove(softmax)
        if operators == ["Sub", "Div"]:
            model.graph.node.extend([node("Sub", "scores scores", "zero"), node("Div", "zero zero", "posterior")])
        else:
            model.graph.node.append(node(*operators, "scores", "posterior"))
    with EdgeModel.open(bundle) as opened:
        for ask in (opened.embed, opened.classify, opened.route):
            with pytest.raises(BundleError, match=r"router\.onnx computes probabilities of tasks that are negative"):
                ask(images(0, 1))
        assert len(opened.embed(images(0), task="red")) == 1


@pytest.mark.parametrize("name", GRAPHS)
def test_an_attribute_whose_name_is_no_text_is_an_error_and_nothing_is_printed(bundle, name: str, capfd) -> None:
    """ONNX Runtime cannot even say what is wrong with it."""
    content = (bundle / name).read_bytes()
    assert b"axes" in content
    put(bundle, name, content.replace(b"axes", b"axe\xff"))
    with pytest.raises(BundleError, match=f"{name} does not load in ONNX Runtime"):
        serve(bundle)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", GRAPHS)
def test_names_in_a_graph_that_are_no_text_are_shown_with_escapes(bundle, name: str) -> None:
    content = (bundle / name).read_bytes()
    graph = onnx.load(bundle / name, load_external_data=False).graph
    said = []
    for text in {graph.name, *(value for step in graph.node for value in (*step.input, *step.output, step.op_type))}:
        put(bundle, name, content.replace(text.encode(), b"\xff" + text.encode()[1:]))
        try:
            verify(bundle)
        except EdgeError as error:
            said.append(str(error))
    assert said
    assert all(map(str.isprintable, said)), said


def test_an_error_of_onnxruntime_is_shown_without_what_a_terminal_obeys(bundle) -> None:
    content = (bundle / "tower.onnx").read_bytes()
    assert content.count(b"Flatten") == 1
    put(bundle, "tower.onnx", content.replace(b"Flatten", b"\x1b[2Jten"))
    with pytest.raises(BundleError, match=r"tower.onnx does not load in ONNX Runtime .*\\x1b\[2Jten"):
        EdgeModel.open(bundle)
