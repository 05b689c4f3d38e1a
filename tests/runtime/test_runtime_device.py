"""Experts in memory of a device: the path of providers that copy, run here with the CPU as the device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tiny_bundle import SPEC, TASKS, images

from mingle_edge_runtime import Bundle, BundleError, DeviceMemoryError, EdgeModel, ExpertError
from mingle_edge_runtime.bundle.head import read_heads
from mingle_edge_runtime.images.preprocess import preprocess
from mingle_edge_runtime.ort.bound_inputs import BoundInputs
from mingle_edge_runtime.ort.device_memory import copy_values, is_out_of_memory
from mingle_edge_runtime.ort.session import CPU, Session
from mingle_edge_runtime.scopes import image_scope
from mingle_edge_runtime.scopes.image_scope import ImageScope

IMAGES = images(0, 2, 3, 1, 1, 0, 3, 2, seed=1)
PIXELS = preprocess(IMAGES, SPEC)
ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. Name:'' Status "
    "Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 9437184"
)
CUDA = "CUDA failure 2: out of memory ; GPU=0 ; hostname=edge ; file=cuda_allocator.cc ; line=43 ; expr=cudaMalloc(&p, size);"


def on_device(path: Path, budget: int | None = None) -> EdgeModel:
    """The bundle with its experts copied to the CPU "device" and bound there."""
    bundle = Bundle.open(path)
    return EdgeModel(bundle, ImageScope(bundle, budget, [CPU], 1, device="cpu"), read_heads(bundle), [CPU])


def test_bound_experts_compute_what_adapters_compute_bit_for_bit(image_bundle) -> None:
    with EdgeModel.open(image_bundle, threads=1) as mapped, on_device(image_bundle) as bound:
        for count in (0, 1, 8, 2):  # one binding serves all sizes
            for task in (*TASKS, None):
                np.testing.assert_array_equal(
                    bound.scope.embed(PIXELS[:count], task)[0], mapped.scope.embed(PIXELS[:count], task)[0]
                )
        np.testing.assert_array_equal(bound.scope.embed_plain(PIXELS), mapped.scope.embed_plain(PIXELS))
        assert bound.classify(IMAGES) == mapped.classify(IMAGES)
        assert bound.stats().notes == ("experts are copied to memory of the cpu device, not mapped",)


def test_the_budget_holds_and_counts_as_for_adapters(image_bundle) -> None:
    with EdgeModel.open(image_bundle) as model:
        budget = 2 * max(task.expert_bytes for task in model.bundle.index.tasks)
    with EdgeModel.open(image_bundle, expert_budget=budget, threads=1) as mapped, on_device(image_bundle, budget) as bound:
        for i in (7, 0, 3, 3, 5, 1, 6, 2, 4, 0, 7, 1):
            np.testing.assert_array_equal(bound.embed(IMAGES[i]), mapped.embed(IMAGES[i]))
        neutral = [replace(model.stats(), notes=(), stall_seconds=0) for model in (mapped, bound)]
        assert neutral[0] == neutral[1]
        assert bound.stats().evictions > 0


def test_threads_share_an_expert_on_the_device(image_bundle) -> None:
    with on_device(image_bundle) as model:
        alone = {task: [model.embed(image, task) for image in IMAGES] for task in TASKS}

        def work(start: int) -> None:
            for step in range(60):
                i, task = (start + step) % 8, TASKS[(start * step) % 3]
                np.testing.assert_array_equal(model.embed(IMAGES[i], task), alone[task][i])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


def test_a_waiting_binding_keeps_no_images(image_bundle) -> None:
    with on_device(image_bundle) as model:
        pixels = PIXELS.copy()
        reference = weakref.ref(pixels)
        embeds, _ = model.scope.embed(pixels, "red")
        del pixels
        assert reference() is None
        kept = embeds.copy()
        model.scope.embed(PIXELS[::-1].copy(), "red")
        np.testing.assert_array_equal(embeds, kept)  # nor does a later run write where an earlier one put its result


def test_copies_have_their_own_memory_and_any_type() -> None:
    arrays = {
        str(np.dtype(kind)): np.arange(6).astype(kind).reshape(2, 3) for kind in (np.float32, np.float16, np.int8, np.uint8)
    }
    copies = copy_values({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}, "cpu")
    expected = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array[...] = 7
    for name, array in expected.items():
        assert copies[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(copies[name].numpy(), array)


def failing_copies(monkeypatch, fails: Callable[[int], bool], message: str) -> None:
    """Copies to the device fail halfway with ONNX Runtime's `message` where `fails` says so of the number of experts there.

    What must not be there any more counts as long as anything holds it.
    """
    alive: weakref.WeakSet[object] = weakref.WeakSet()

    def copy(values: dict[str, ort.OrtValue], device: str) -> dict[str, ort.OrtValue]:
        failing = fails(len(alive))
        half = copy_values(dict(list(values.items())[:1]), device)
        if failing:
            alive.update(half.values())
            raise RuntimeError(message)
        return copy_values(values, device)

    def bind(self: Session, values: dict[str, ort.OrtValue]) -> BoundInputs:
        alive.add(bound := original(self, values))
        return bound

    original = Session.bind
    monkeypatch.setattr(image_scope, "copy_values", copy)
    monkeypatch.setattr(Session, "bind", bind)


@pytest.mark.parametrize("message", [ARENA, CUDA])
@pytest.mark.parametrize("room", [1, 2])
def test_a_full_device_gets_a_smaller_budget_and_says_so_once(image_bundle, monkeypatch, room: int, message: str) -> None:
    with EdgeModel.open(image_bundle, threads=1) as model:
        expected = model.embed(IMAGES)
        size = max(task.expert_bytes for task in model.bundle.index.tasks)
    failing_copies(monkeypatch, lambda alive: alive >= room, message)
    with on_device(image_bundle) as model:
        for _ in range(3):
            np.testing.assert_array_equal(model.embed(IMAGES), expected)
        stats = model.stats()
        assert stats.budget == room * size
        assert stats.resident_bytes <= stats.budget
        full = [note for note in stats.notes if "full" in note]
        assert full == [f"the device's memory was full: the expert budget is now {room * size} bytes"]


def test_a_run_that_finds_the_device_full_is_tried_again_with_room(image_bundle, monkeypatch) -> None:
    failures = [ARENA]
    original = BoundInputs.run

    def run(self: BoundInputs, *arguments: object) -> list[np.ndarray]:
        if model.stats().resident_bytes > 2 * size and failures:
            raise RuntimeError(failures.pop())
        return original(self, *arguments)

    with EdgeModel.open(image_bundle, threads=1) as mapped:
        expected = mapped.embed(IMAGES, "blue")
        size = max(task.expert_bytes for task in mapped.bundle.index.tasks)
    monkeypatch.setattr(BoundInputs, "run", run)
    there: list[int] = []
    failing_copies(monkeypatch, lambda alive: there.append(alive) is not None, "")
    with on_device(image_bundle) as model:
        model.pin("red")
        model.prefetch("green")
        np.testing.assert_array_equal(model.embed(IMAGES, "blue"), expected)
        assert not failures
        assert there == [0, 1, 2, 1]  # the pinned one alone when the one that failed is copied again
        assert model.stats().budget == 2 * size
        assert model.stats().pinned_bytes == size
        loaded = model.stats().bytes_loaded
        model.embed(IMAGES, "red")  # pinned, so it stayed
        assert model.stats().bytes_loaded == loaded


@pytest.mark.parametrize("message", [ARENA, CUDA])
def test_a_device_too_small_for_one_expert_is_an_error_that_says_so(image_bundle, monkeypatch, message: str) -> None:
    failing_copies(monkeypatch, lambda alive: True, message)
    with on_device(image_bundle) as model:
        with pytest.raises(DeviceMemoryError, match="no memory left on the cpu device for expert 'red': free some, or"):
            model.embed(IMAGES, "red")
        assert model.stats().resident_bytes == 0
        assert len(model.scope.embed_plain(PIXELS)) == 8


def test_another_failure_to_copy_is_not_taken_for_a_full_device(image_bundle, monkeypatch) -> None:
    failing_copies(monkeypatch, lambda alive: True, "device is lost")
    with (
        on_device(image_bundle) as model,
        pytest.raises(ExpertError, match="expert 'red' cannot be copied to the cpu device: device is lost"),
    ):
        model.embed(IMAGES, "red")


def test_memory_errors_are_told_from_others_by_what_onnx_runtime_really_says(tmp_path) -> None:
    def graph(node: str) -> Session:
        shapes = "int64[1] large = {17592186044416}, int64[1] five = {5}"
        head = f'<ir_version: 8, opset_import: ["" : 17]> graph (float[n] pixel_values) => (float[m] y) <{shapes}>'
        onnx.save(onnx.parser.parse_model(f"{head} {{ y = {node} }}"), tmp_path / "graph.onnx")
        return Session(tmp_path / "graph.onnx", [CPU], 1)

    inputs = {"pixel_values": np.zeros(1, np.float32)}
    with pytest.raises(DeviceMemoryError, match=r"no memory left to run graph\.onnx on 1 images: run fewer at once"):
        graph("Expand(pixel_values, large)").run(inputs)
    with pytest.raises(BundleError, match=r"graph\.onnx does not run: "):
        graph("Reshape(pixel_values, five)").run(inputs)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("the input tensor cannot be reshaped"))


def test_a_provider_without_memory_of_its_own_is_named(image_bundle, monkeypatch) -> None:
    monkeypatch.setattr(image_scope, "CPU", "no provider")  # so that the one at hand counts as another
    with EdgeModel.open(image_bundle) as model:
        assert model.stats().notes == (
            "experts stay in this machine's memory: CPUExecutionProvider copies what it needs of them in every run",
        )


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_nodes_that_a_provider_leaves_to_the_cpu_are_counted(bundles, scope: str) -> None:
    """The CPU wheels have one more provider, which takes no node of these graphs."""
    bundle = bundles[scope, 1]
    operators = Counter(node.op_type for node in onnx.load(bundle / "tower.onnx", load_external_data=False).graph.node)
    with EdgeModel.open(bundle) as model:
        alone = model.placement()
        assert list(alone["tower.onnx"]) == [CPU]
        for operator in ("ReduceL2", "Div", "TopK", "Gather", "Einsum"):  # those that nothing is fused with
            assert alone["tower.onnx"][CPU].get(operator, 0) == operators[operator]
        assert not [note for note in model.stats().notes if "run on" in note]
    with EdgeModel.open(bundle, providers=["azure"]) as model:
        assert model.placement() == alone
        total = sum(alone["tower.onnx"][CPU].values())
        (note,) = [note for note in model.stats().notes if "run on" in note]
        assert note.startswith(f"{total} of {total} nodes of tower.onnx run on {CPU} instead of AzureExecutionProvider: Add ")


def test_an_old_onnx_runtime_cannot_tell_where_nodes_run(image_bundle, monkeypatch) -> None:
    monkeypatch.delattr(ort.InferenceSession.__base__, "get_provider_graph_assignment_info")
    with EdgeModel.open(image_bundle, providers=["azure"]) as model:
        assert model.placement() == {"router.onnx": {}, "tower.onnx": {}}
        expected = "which nodes of tower.onnx run on AzureExecutionProvider is only told by onnxruntime 1.24 or newer"
        assert expected in model.stats().notes
