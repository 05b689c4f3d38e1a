"""The numbers of the official implementation, reproduced in float64.

`tests/gates/mingle_official.md` says what they are. MINGLE_GOLDEN names another file of the same layout, of other sizes and
with more tasks.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mingle_edge.experts.task_vectors import build_expert
from mingle_edge.gates.adaptation import NewGate, adapt, distillation_loss
from mingle_edge.gates.gating import ExpertStack, GatedExperts, GatedLinear
from mingle_edge.gates.null_space import NullSpaceProjector

TOLERANCE = {"rtol": 0, "atol": 1e-9}
PATH = Path(os.environ.get("MINGLE_GOLDEN", Path(__file__).parent / "mingle_official.npz"))


@pytest.fixture(scope="module")
def golden():
    with np.load(PATH, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def experts(golden):
    """Factors (B, A) of every task in sequence."""
    base = golden["expert/w_pretrained"]
    rank = int(torch.linalg.matrix_rank(golden["expert/delta_0"], rtol=1e-9))
    built = []
    for finetuned in golden["expert/w_finetuned"]:
        built.append(build_expert(finetuned - base, rank, built))
    return built


def test_experts_equal_the_official_projected_task_vectors(golden, experts):
    assert len(experts) >= 3
    for t, (B, A) in enumerate(experts):
        torch.testing.assert_close(B @ A, golden[f"expert/delta_{t}"], **TOLERANCE)


@pytest.mark.parametrize(("pooling", "name"), [("image", "sample"), ("batch", "batch")])
def test_factored_forward_equals_the_official_materialised_one(golden, experts, pooling, name):
    parameters = {"layer.weight": golden["expert/w_pretrained"], "layer.bias": golden["forward/bias"]}
    layer = GatedExperts(
        ExpertStack(A=torch.stack([A for _, A in experts]), B=torch.stack([B for B, _ in experts])),
        gate_weight=golden["forward/gate_weight"],
        gate_bias=golden["forward/gate_bias"],
    )
    output = GatedLinear(parameters, {"layer": layer}, pooling=pooling)("layer", golden["forward/x"])
    torch.testing.assert_close(output, golden[f"forward/output_{name}_gates"], **TOLERANCE)


@pytest.mark.parametrize("gamma", [1, 0])
def test_relaxed_projection_of_a_gradient_sequence(golden, gamma):
    projector = NullSpaceProjector(golden["projection/basis"].T, relaxation=float(gamma), decay=0.99)
    for gradient, expected in zip(golden["projection/gradients"], golden[f"projection/projected_gamma_{gamma}"], strict=True):
        torch.testing.assert_close(projector.project(gradient), expected, **TOLERANCE)
    torch.testing.assert_close(projector.interference, golden[f"projection/ema_gamma_{gamma}"], **TOLERANCE)


def test_distillation_loss(golden):
    loss = distillation_loss(golden["distillation/student_logits"], golden["distillation/teacher_logits"], 2.0)
    torch.testing.assert_close(loss, golden["distillation/loss_T2"], **TOLERANCE)


def test_adaptation_trajectory(golden):
    """Two gated layers, one frozen and one new expert each, official semantics: losses and final gates."""
    g = {name.removeprefix("adaptation/"): value for name, value in golden.items() if name.startswith("adaptation/")}
    layers = ("layer1", "layer2")
    gates = {
        layer: NewGate(
            g[f"{layer}/initial_gate_weight"].clone(),
            g[f"{layer}/initial_gate_bias"].clone(),
            NullSpaceProjector(g[f"{layer}/basis"].T, relaxation=1.0, decay=0.99),
        )
        for layer in layers
    }
    parameters = {f"{layer}.{kind}": g[f"{layer}/base_{kind}"] for layer in layers for kind in ("weight", "bias")}
    tasks = range(len(g["layer1/frozen_gate_bias"]) + 1)

    def student(x):
        experts = {
            layer: GatedExperts(
                ExpertStack(
                    A=torch.stack([g[f"{layer}/A_{t}"] for t in tasks]), B=torch.stack([g[f"{layer}/B_{t}"] for t in tasks])
                ),
                gate_weight=torch.cat([g[f"{layer}/frozen_gate_weight"], gates[layer].weight]),
                gate_bias=torch.cat([g[f"{layer}/frozen_gate_bias"], gates[layer].bias]),
            )
            for layer in layers
        }
        linear = GatedLinear(parameters, experts, pooling="batch")
        return linear("layer2", torch.relu(linear("layer1", x))).mean(1) @ g["head"].T

    steps = len(g["losses"])
    batches = [(g["x"][s % len(g["x"])], g["teacher_logits"][s % len(g["x"])]) for s in range(steps)]
    losses = adapt(
        student,
        gates,
        batches,
        learning_rate=float(g["learning_rate"]),
        temperature=2.0,
        projected="gradient",
    )
    torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), g["losses"], **TOLERANCE)
    for layer in layers:
        torch.testing.assert_close(gates[layer].weight, g[f"{layer}/final_gate_weight"], **TOLERANCE)
        torch.testing.assert_close(gates[layer].bias, g[f"{layer}/final_gate_bias"], **TOLERANCE)
