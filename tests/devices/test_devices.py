"""The device matrix: files of devices, what is compared, what counts as wrong, and a page that never hides a cell."""

from __future__ import annotations

import copy
import hashlib
import platform
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_merged import write_merged

from devices import matrix, products
from devices.cases import Case, make_cases
from devices.cell import Cell, judge
from devices.debian_root import describe
from devices.device import Device, DeviceFileError, Processor, choose, read_devices
from devices.environment import Environment
from devices.labels import Labels
from devices.on_device.measure import measure
from devices.page import render

GOOD = 'title = "x"\norder = 1\nversions = ["newest"]\n'
HOST = Device("host", "this machine", 0, ("newest",))


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """An int8 bundle of a random model, and the answers of this machine."""
    folder = tmp_path_factory.mktemp("devices")
    write_merged(folder / "image", tasks=2)
    return make_cases(folder, ["image-int8"], folder / "cases", lambda _: None)[0]


@pytest.fixture(scope="module")
def answers(case):
    return measure(case.folder)


@pytest.fixture
def installed(monkeypatch, answers):
    """An environment whose device answers as this machine does; returns the folders it was asked for."""
    asked = []
    environment = Environment((), {}, Path(), {"onnxruntime": "1.32.0"}, ".py")
    monkeypatch.setattr(matrix, "prepare_environment", lambda device, version: environment)
    monkeypatch.setattr(matrix, "run_script", lambda _, script, folder: asked.append(folder) or answers)
    return asked


def test_every_kind_of_device_is_read_in_the_order_of_the_tables() -> None:
    devices = read_devices()
    assert [device.key for device in devices][:3] == ["host", "x86_64_v2", "haswell"]
    emulated = {device.emulated_cpu for device in devices}
    assert emulated >= {"Nehalem", "Haswell", "cortex-a53", "cortex-a72", "cortex-a76", "max"}
    assert all(device.versions == ("newest", "1.20.1") for device in devices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "is no TOML"),
        ('title = "x"\norder = 1\nversions = []', "versions is empty"),
        ('title = "x"\norder = "1"\nversions = ["newest"]', "order must be an integer, is '1'"),
        (GOOD + 'cpu = "max"', "'cpu' is not known; there are key, title"),
        ('title = "x"\nversions = ["newest"]', "order must be an integer, is missing"),
        (GOOD + 'program = "deno"', "program must be one of python, .*, is 'deno'"),
        (GOOD + 'machine = "riscv"', "machine must be one of .*, is 'riscv'"),
        (GOOD + 'emulated_cpu = "max"', "say of which machine"),
        (GOOD + 'machine = "aarch64"\nemulated_cpu = "max"', r"has no \[processor\]; without it ONNX Runtime"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text: str, message: str) -> None:
    (tmp_path / "new.toml").write_text(text)
    with pytest.raises(DeviceFileError, match=message) as error:
        read_devices(tmp_path)
    assert "new.toml" in str(error.value)


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeviceFileError, match="device 'pdp11' has no file in devices/kinds; there are host"):
        choose([HOST], ["pdp11"])


@pytest.mark.parametrize(
    ("key", "register"), [("cortex_a53", 0x410FD034), ("cortex_a72", 0x410FD083), ("cortex_a76", 0x414FD0B1)]
)
def test_a_raspberry_pi_says_what_its_processor_is(tmp_path, key: str, register: int) -> None:
    (device,) = choose(read_devices(), [key])
    assert isinstance(device.processor, Processor)
    describe(tmp_path, device.processor)
    identification = (tmp_path / "sys/devices/system/cpu/cpu0/regs/identification/midr_el1").read_text()
    assert int(identification, 16) == register  # as Linux on the board reports it
    assert f"CPU part\t: {register >> 4 & 0xFFF:#05x}\n" in (tmp_path / "proc/cpuinfo").read_text()


def test_without_an_emulator_cells_say_which_package_to_install(monkeypatch, case, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    emulated = replace(HOST, key="haswell", machine=platform.machine(), emulated_cpu="Haswell")
    (cell,) = matrix.measure_matrix([emulated], [case], tmp_path / "cells", lambda _: None)
    assert (cell.state, list((tmp_path / "cells").iterdir())) == ("not measured", [])
    assert cell.reason.endswith("-static is not installed: apt-get install qemu-user-static")


def test_products_are_those_of_numpy(tmp_path) -> None:
    random = np.random.default_rng(1)
    constants = {"tower/q": random.integers(-64, 65, (96, 40)).astype(np.int8), "tower/largest": np.full((96, 8), 64, np.int8)}
    codes = {"codes/smallest": np.full((24, 8), -64, np.int8)}
    products.write_products(tmp_path / "products.onnx", constants, codes)
    runs = products.activations({96, 24})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = onnxruntime.InferenceSession(str(tmp_path / "products.onnx"), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node)
    kernels = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")  # the last where codes are inputs
    assert [operators[kernel] for kernel in kernels] == [3, len(constants), len(codes)]
    expected = products.expected_digests(constants | codes, runs)
    assert list(expected) == [output.name for output in session.get_outputs()]
    digests = {name: hashlib.sha256() for name in expected}
    for run, zero_point in enumerate(products.ZERO_POINTS):
        feeds = {f"activations/{size}": runs[f"{run}/activations/{size}"] for size in (96, 24)}
        results = session.run(list(digests), feeds | codes | {"zero_point": np.array(zero_point, np.uint8)})
        for digest, result in zip(digests.values(), results, strict=True):
            digest.update(result.astype(np.int32).tobytes())
    assert {name: digest.hexdigest() for name, digest in digests.items()} == expected
    assert max(array.max() for array in runs.values()) == 255


def test_every_integer_matrix_of_a_bundle_is_multiplied(case) -> None:
    constants, codes = products.integer_matrices(case.bundle)
    assert {"tower/blocks.0.q.weight_codes", "router_blocks/blocks.0.q.weight_codes"} <= constants.keys()
    assert {"codes/task0/blocks.2.fc2.A_codes", "codes/task1/projection.B_codes"} <= codes.keys()


def test_this_machine_is_right_and_what_differs_is_wrong(case, answers) -> None:
    runs, share, wrong = judge(case, answers)
    assert ([run.name for run in runs], share.whole, wrong) == (["named", "routed"], True, [])
    changed = copy.deepcopy(answers)
    changed["named"][1][0] = [-value for value in changed["named"][1][0]]
    changed["routed"][0][0] = float("nan")
    changed["routes"][2] = ["another"]
    changed["products"]["products/tower/blocks.0.q.weight_codes"] = "another"
    assert judge(case, changed)[2] == [
        "named: cosine -1.000000, at least 0.999 is needed",
        "routed: cosine -1.000000, at least 0.999 is needed",
        "routed: 1 of 10 routes differ",
        f"1 of {share.total} integer products differ from numpy's",
    ]


def test_a_measured_cell_is_kept_until_something_changes(installed, case, tmp_path) -> None:
    first = matrix.measure_matrix([HOST], [case], tmp_path, lambda _: None)
    again = matrix.measure_matrix([HOST], [case], tmp_path, lambda _: None)
    assert (first[0].state, again, len(installed)) == ("right", first, 1)
    matrix.measure_matrix([HOST], [replace(case, key="another bundle")], tmp_path, lambda _: None)
    assert len(installed) == 2


def test_a_device_that_fails_is_wrong(monkeypatch, installed, case, tmp_path) -> None:
    def fail(*_) -> None:
        raise RuntimeError("exit status -4: Illegal instruction")

    monkeypatch.setattr(matrix, "run_script", fail)
    (cell,) = matrix.measure_matrix([HOST], [case], tmp_path, lambda _: None)
    assert (cell.state, cell.reason) == ("wrong", "exit status -4: Illegal instruction")


def test_the_page_shows_every_cell(installed, case, tmp_path) -> None:
    (right,) = matrix.measure_matrix([HOST], [case], tmp_path, lambda _: None)
    emulated = replace(HOST, key="haswell", title="Haswell", versions=("1.20.1",))
    cells = [
        right,
        replace(
            right, device="haswell", version="1.20.1", state="wrong", reason="9 of 10 integer products differ from numpy's"
        ),
        Cell("haswell", "1.20.1", "layer-int4", "not measured", "the bundle needs ONNX Runtime 1.23.0 or newer"),
    ]
    page = render([HOST, emulated], cells, [Labels("haswell", "1.32.0", "image-int8", 200, 199, "2026-11-29", "")])
    assert "| this machine | 1.32.0 | 1.00000 | not measured |" in page
    assert "| Haswell | 1.32.0 | **wrong: 1.00000** | not measured |" in page
    assert "- image-int8: wrong, 9 of 10 integer products differ from numpy's" in page
    assert "- layer-int4: not measured, the bundle needs ONNX Runtime 1.23.0 or newer" in page
    assert "- Haswell, ONNX Runtime 1.32.0: 199 of 200 equal" in page
    assert "| |" not in page
    assert "|  |" not in page
