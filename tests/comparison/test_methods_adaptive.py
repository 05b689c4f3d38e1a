"""AdaMerging and WEMoE against transformers' CLIP with materialised weights, autograd and Adam, one image at a time."""

import copy

import pytest
import tiny_clip
import torch
from torch import nn
from torch.func import functional_call

from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.clip.head import Head
from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.registry import SPECS as ALL_SPECS
from mingle_edge.data.calibration_images import shuffled_batches, task_generator
from mingle_edge.data.image_set import ImageSet
from mingle_edge.data.images import load_images
from mingle_edge.experts.finetuned_task import FinetunedTask

SPECS = {name: spec for name, spec in ALL_SPECS.items() if name.startswith(("adamerging", "wemoe"))}
LOGIT_SCALE, SEED = 20.0, 3
STEPS = {"steps": 4, "batch_size": 4, "learning_rate": 0.01}
CLASS = "CLIPVisionModelWithProjection"


class Bench:
    """A backbone, three fine-tuned copies in transformers' classes and in our names, seeds and test images."""

    def __init__(self, folder):
        self.pretrained = tiny_clip.hugging_face_model(0, CLASS)
        self.pretrained.save_pretrained(folder / "pretrained")
        self.architecture = read_architecture(str(folder / "pretrained"), folder)
        self.workbench = Workbench(self.read(folder / "pretrained"), self.architecture, torch.device("cpu"), SEED)
        self.finetuned, self.tasks = [], []
        for number in range(3):
            generator = torch.Generator().manual_seed(number)
            model = copy.deepcopy(self.pretrained)
            for parameter in model.parameters():
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
            model.save_pretrained(folder / f"task{number}")
            tiny_clip.write_images(folder / f"seeds{number}", count=6, seed=number)
            seeds = ImageSet(sorted((folder / f"seeds{number}").glob("*.png")))
            weight = nn.functional.normalize(torch.randn(5, tiny_clip.EMBED_DIM, generator=generator), dim=1)
            self.finetuned.append(model)
            tower = self.read(folder / f"task{number}")
            self.tasks.append(FinetunedTask(f"task{number}", tower, Head(weight, None, LOGIT_SCALE), seeds))
        tiny_clip.write_images(folder / "test", count=5, seed=7)
        self.images = load_images(sorted((folder / "test").glob("*.png")), self.architecture)

    def read(self, path):
        return dict(open_checkpoint(str(path), base=path, architecture=self.architecture).tensors())

    def method(self, name, tasks, **changes):
        """The method with its published parameters but for the changes, after these tasks."""
        spec = SPECS[name]
        method = spec.build(self.workbench, {**spec.published(len(tasks)), **STEPS, **changes})
        for number in tasks:
            method.add(self.tasks[number])
        return method

    def embed(self, method, images=None):
        images = self.images if images is None else images
        return method.answer(TestBatch(images, "task0", list(range(len(images))), "test")).embeds

    def seed_batches(self, number):
        task = self.tasks[number]
        generator = task_generator(SEED, task.name, "batches")
        return [
            task.calibration_images.load(n, self.architecture)
            for n in shuffled_batches(len(task.calibration_images), STEPS["batch_size"], STEPS["steps"], generator)
        ]

    def logits(self, embeds, number):
        return LOGIT_SCALE * nn.functional.normalize(embeds, dim=1) @ self.tasks[number].head.weight.T


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("adaptive"))


def entropy(logits):
    """Of each row by the definition, averaged."""
    return sum(-sum(p * torch.log(p + 1e-8) for p in row.softmax(0)) for row in logits) / len(logits)


def adapt_reference(parameters, loss_of, batches, learning_rate=STEPS["learning_rate"]):
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for images in batches:
        optimizer.zero_grad()
        loss_of(images).backward()
        optimizer.step()


def reference_adamerging(bench, numbers, restarts, start=0.3):
    """A state dict in transformers' names: a scalar parameter for every tensor."""
    pretrained = dict(bench.pretrained.named_parameters())
    merged = pretrained
    for number in numbers:
        base = pretrained if restarts else merged
        finetuned = dict(bench.finetuned[number].named_parameters())
        coefficients = {name: nn.Parameter(torch.tensor(start)) for name in pretrained}

        def state(base=base, finetuned=finetuned, coefficients=coefficients):
            return {n: base[n] + coefficients[n].clamp(0, 1) * (finetuned[n] - pretrained[n]) for n in pretrained}

        def loss(images, number=number, state=state):
            return entropy(bench.logits(functional_call(bench.pretrained, state(), (images,)).image_embeds, number))

        adapt_reference(list(coefficients.values()), loss, bench.seed_batches(number))
        merged = {name: tensor.detach() for name, tensor in state().items()}
    return merged


@pytest.mark.parametrize(("name", "restarts"), [("adamerging", False), ("adamerging-published", True)])
def test_adamerging_equals_a_scalar_per_tensor_by_autograd(bench, name, restarts):
    ours = bench.method(name, [0, 2, 1])
    state = reference_adamerging(bench, [0, 2, 1], restarts)
    expected = nn.functional.normalize(functional_call(bench.pretrained, state, (bench.images,)).image_embeds, dim=1)
    torch.testing.assert_close(bench.embed(ours), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.tower["blocks.1.fc1.weight"], state["vision_model.encoder.layers.1.mlp.fc1.weight"], rtol=1e-4, atol=1e-5
    )


def test_coefficients_stay_within_zero_and_one(bench):
    ours = bench.method("adamerging", [0], learning_rate=5.0).tower
    for name, pretrained in bench.workbench.backbone.items():
        difference = bench.tasks[0].finetuned[name] - pretrained
        share = float(((ours[name] - pretrained) * difference).sum() / difference.square().sum())
        assert -1e-3 <= share <= 1 + 1e-3


class NaiveMixture(nn.Module):
    """An MLP whose weights are materialised for each image, or once for the mean gate value of the batch."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.deltas = []  # per task, by parameter name
        self.rows = []  # per task: weight [width], bias []
        self.pooled = True

    def forward(self, hidden):
        gates = torch.stack([(hidden @ w + b).mean(1) for w, b in self.rows], dim=1)  # [B, T]
        if self.pooled:
            gates = gates.mean(0, keepdim=True).repeat(len(hidden), 1)
        outputs = []
        for tokens, row in zip(hidden, gates, strict=True):
            weights = dict(self.mlp.named_parameters())
            for gate, delta in zip(row, self.deltas, strict=True):
                weights |= {name: weights[name] + gate * d for name, d in delta.items()}
            outputs.append(functional_call(self.mlp, weights, (tokens[None],)))
        return torch.cat(outputs)


def truncated(matrix, rank):
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (U[:, :rank] * S[:rank] @ Vh[:rank]).float()


def reference_wemoe(bench, numbers, *, ranks, everything, biases, frozen):
    """transformers' model with naive mixtures, its other parameters merged by task arithmetic at 0.3."""
    model = copy.deepcopy(bench.pretrained).requires_grad_(False)
    pretrained = dict(bench.pretrained.named_parameters())
    mixtures = []
    for layer in model.vision_model.encoder.layers:
        layer.mlp = NaiveMixture(layer.mlp)
        mixtures.append(layer.mlp)
    for number, rank in zip(numbers, ranks, strict=True):
        finetuned = dict(bench.finetuned[number].named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".mlp." not in name and (everything or ".self_attn." in name):
                    parameter += 0.3 * (finetuned[name] - pretrained[name])
        for index, mixture in enumerate(mixtures):
            delta = {}
            for name, parameter in mixture.mlp.named_parameters():
                difference = finetuned[f"vision_model.encoder.layers.{index}.mlp.{name}"] - parameter
                if parameter.ndim == 2:
                    delta[name] = truncated(difference, rank)
                elif biases:
                    delta[name] = difference
            mixture.deltas.append(delta)
            generator = task_generator(SEED, bench.tasks[number].name, f"blocks.{index} gate")
            row = 0.01 * torch.randn(1, tiny_clip.WIDTH, generator=generator)[0], torch.tensor(0.3)
            mixture.rows.append(tuple(map(nn.Parameter, row)))
        trained = [p for m in mixtures for row in (m.rows[-1:] if frozen else m.rows) for p in row]

        def loss(images, number=number):
            return entropy(bench.logits(model(images).image_embeds, number))

        adapt_reference(trained, loss, bench.seed_batches(number))
    return model, mixtures


WEMOE = [
    ("wemoe-published", {"rank": 6, "later_rank": 3}, {"ranks": [6, 3], "everything": False, "biases": False, "frozen": False}),
    ("wemoe", {"rank": 6}, {"ranks": [6, 6], "everything": True, "biases": True, "frozen": False}),
    ("wemoe", {"rank": 6, "freezes_earlier": True}, {"ranks": [6, 6], "everything": True, "biases": True, "frozen": True}),
]


@pytest.mark.parametrize(("name", "changes", "reference"), WEMOE, ids=["published", "corrected", "frozen"])
def test_wemoe_equals_weights_materialised_per_image(bench, name, changes, reference):
    model, mixtures = reference_wemoe(bench, [2, 0], **reference)
    for pooling in ("batch", "image"):
        ours = bench.method(name, [2, 0], pooling=pooling, **changes)
        for mixture in mixtures:
            mixture.pooled = pooling == "batch"
        with torch.no_grad():
            expected = nn.functional.normalize(model(bench.images).image_embeds, dim=1)
        torch.testing.assert_close(bench.embed(ours), expected, rtol=1e-4, atol=2e-5)
    for number, mixture in enumerate(mixtures):
        weights, biases = (torch.stack([row[i].detach() for row in mixture.rows]) for i in (0, 1))
        torch.testing.assert_close(ours.mlps[f"blocks.{number}"].gate_weight, weights, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(ours.mlps[f"blocks.{number}"].gate_bias, biases, rtol=1e-4, atol=2e-5)


def test_earlier_gate_rows_change_only_where_they_learn(bench):
    for freezes in (True, False):
        method = bench.method("wemoe", [0], rank=4, freezes_earlier=freezes)
        before = method.mlps["blocks.0"].gate_weight
        method.add(bench.tasks[1])
        assert torch.equal(method.mlps["blocks.0"].gate_weight[:1], before) is freezes


def test_pooled_gates_depend_on_the_batch_and_per_image_gates_do_not(bench):
    for name, pooling, independent in (("wemoe", "image", True), ("wemoe-published", "batch", False)):
        assert SPECS[name].published(8)["pooling"] == pooling
        method = bench.method(name, [0, 1])
        together = bench.embed(method)
        alone = torch.cat([bench.embed(method, image[None]) for image in bench.images])
        assert (float((together - alone).abs().max()) < 1e-5) is independent


def test_without_seeds_coefficients_and_gates_stay_at_their_start(bench):
    task = bench.tasks[0]
    bare = FinetunedTask(task.name, task.finetuned, task.head, ImageSet([]))
    for name in SPECS:
        method = bench.method(name, [])
        assert torch.allclose(bench.embed(method), bench.embed(bench.method("adamerging", [])))  # both are the backbone
        method.add(bare)
        if name.startswith("adamerging"):
            for key, tensor in method.tower.items():
                pretrained = bench.workbench.backbone[key]
                torch.testing.assert_close(tensor, pretrained + 0.3 * (task.finetuned[key] - pretrained))
        else:
            assert [mlp.gate_bias.item() for mlp in method.mlps.values()] == [torch.tensor(0.3).item()] * tiny_clip.LAYERS


@pytest.mark.parametrize("name", list(SPECS))
def test_the_same_seed_repeats_a_run_bit_for_bit(bench, name):
    first, second = (bench.embed(bench.method(name, [1, 2])) for _ in range(2))
    assert torch.equal(first, second)
    batch = TestBatch(bench.images, "task1", [0, 1, 2, 3, 4], "test")
    assert bench.method(name, [1, 2]).answer_named(batch, "task1") is None  # P2 is P1


def test_bytes_are_those_of_the_tensors_a_device_would_hold(bench):
    width, mlp, rank = tiny_clip.WIDTH, 4 * tiny_clip.WIDTH, 6
    tower = sum(p.numel() for p in bench.pretrained.parameters())
    assert bench.method("adamerging", [0, 1]).stored_bytes() == 4 * tower
    assert bench.method("adamerging", [0, 1]).bytes_per_task() == 0
    pair = 2 * rank * (width + mlp)  # fc1 and fc2
    corrected, published = pair + (width + mlp) + (width + 1), pair + (width + 1)  # biases; the gate's row
    for name, of_a_task in (("wemoe", corrected), ("wemoe-published", published)):
        method = bench.method(name, [0, 1], rank=rank, **({"later_rank": rank} if name == "wemoe-published" else {}))
        assert method.stored_bytes() == method.active_bytes() == 4 * (tower + 2 * tiny_clip.LAYERS * of_a_task)
        assert method.bytes_per_task() == 4 * tiny_clip.LAYERS * of_a_task
