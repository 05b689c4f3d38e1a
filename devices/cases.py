"""What is taken to every device: a bundle, images, integers to multiply, and the answers of this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import save_file

import mingle_edge
import mingle_edge_export
import mingle_edge_runtime
from devices import products
from devices.device import DeviceFileError
from devices.on_device.measure import measure
from mingle_edge.files.atomic_files import replacing
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, export_bundle
from mingle_edge_export.check.synthetic_images import smooth_images
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.images.image_file import read_image
from mingle_edge_runtime.images.preprocess import preprocess

TEST_IMAGES = 4  # of each task, routed and classified
EMBEDDED_IMAGES = 1  # of each task, embedded by every expert as well
SYNTHETIC_IMAGES = 8  # where there are no test images; all embedded
FULL_CODES = Path(mingle_edge_runtime.__file__).parent / "ort/integer_product.onnx"


@dataclass(frozen=True)
class Recipe:
    """How one bundle of the matrix is exported."""

    scope: str
    options: Mapping[str, str]
    calibrated: bool = False
    """on the seeds that the models were merged from, where there is a task file"""
    folds: bool = False
    """the first task into the weights"""


RECIPES = {
    "image-fp32": Recipe("image", {}),
    "image-fp16": Recipe("image", {"precision": "fp16"}),
    "image-int8": Recipe("image", {"precision": "int8"}, calibrated=True),
    "image-fp32-experts-int8": Recipe("image", {"expert_precision": "int8"}, calibrated=True),
    "image-int4": Recipe("image", {"precision": "int4"}),
    "layer-fp32": Recipe("layer", {}),
    "layer-int8": Recipe("layer", {"precision": "int8"}, calibrated=True),
    "layer-int4": Recipe("layer", {"precision": "int4"}),
    "folded-fp32": Recipe("image", {}, folds=True),
    "folded-int8": Recipe("image", {"precision": "int8"}, calibrated=True, folds=True),
}


@dataclass(frozen=True)
class Case:
    """One bundle and all that is compared, in a folder of the cache."""

    name: str
    folder: Path
    key: str
    """changes with everything a device reads"""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return Bundle.open(self.folder / "bundle")

    def golden(self) -> dict[str, NDArray[Any]]:
        """The golden arrays."""
        bundle = self.bundle
        with np.load(bundle.file(bundle.index.golden)) as file:
            return dict(file.items())

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the case."""
        record: dict[str, Any] = json.loads((self.folder / name).read_text())
        return record


def choose(names: Sequence[str]) -> list[str]:
    """Pick bundles by name, all where there are none. Raises `DeviceFileError` listing what there is."""
    for name in names:
        if name not in RECIPES:
            raise DeviceFileError(f"bundle {name!r} is not made here; there are {', '.join(RECIPES)}")
    return [name for name in RECIPES if not names or name in names]


def make_cases(models: Path, names: Iterable[str], folder: Path, made: Callable[[str], None]) -> list[Case]:
    """Export bundles from `models/image` and `models/layer` and record what this machine computes with them.

    Those that the same code made of the same models stay. models: of `make demo`, say; its `<scope>.toml` gives seeds where it
    is there, and `images/<task>/test` test images. made: called with the name of each. Raises `DeviceFileError` where a merged
    model is missing, and what an export raises.
    """
    cases = []
    for name in names:
        target, recipe = folder / name, RECIPES[name]
        made_from, origin = target / "made_from.txt", _origin(models, recipe)
        if not made_from.exists() or made_from.read_text() != origin:
            shutil.rmtree(target, ignore_errors=True)
            _make(models, recipe, target)
            made_from.write_text(origin)
        cases.append(Case(name, target, _key(target)))
        made(name)
    return cases


def _origin(models: Path, recipe: Recipe) -> str:
    """A digest of the merged model, the recipe and the code."""
    merged = models / recipe.scope
    if not merged.exists():
        raise DeviceFileError(f"{merged} does not exist: run `make demo` first, or name a folder of merged models")
    own = Path(__file__).parent
    code = [own / "products.py", own / "cases.py", own / "on_device/measure.py"]
    for package in (mingle_edge, mingle_edge_export, mingle_edge_runtime):
        code += sorted(Path(package.__path__[0]).rglob("*.py"))
    digest = hashlib.sha256(repr(recipe).encode())
    for path in [*code, *sorted(path for path in merged.rglob("*") if path.is_file())]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _make(models: Path, recipe: Recipe, target: Path) -> None:
    merged_path, task_file = models / recipe.scope, models / f"{recipe.scope}.toml"
    options: dict[str, Any] = dict(recipe.options)
    merged = MergedModel.open(merged_path)
    if recipe.folds:
        options["fold"] = merged.task_names[0]
    if recipe.calibrated and task_file.exists():
        options["images"] = task_file
    target.mkdir(parents=True)
    export_bundle(merged_path, target / "bundle", ExportOptions(**options))
    bundle = Bundle.open(target / "bundle")
    golden, embedded = _write_images(bundle, models, target / "images")
    defaults = _input_defaults(bundle)
    constants, codes = products.integer_matrices(bundle)
    matrices = constants | codes
    runs = products.activations({len(matrix) for matrix in matrices.values()})
    if matrices:
        products.write_products(target / "products.onnx", constants, codes)
    pixels = preprocess(sorted((target / "images").glob("*.png")), bundle.index.preprocess)
    inputs = {"pixel_values": pixels, **defaults, **codes, **runs}
    with replacing(target / "inputs.safetensors") as written:
        save_file({name: np.ascontiguousarray(array) for name, array in inputs.items()}, written)
    shutil.copy(FULL_CODES, target / "full_codes.onnx")
    spec = {
        "golden_images": golden,
        "embedded_images": embedded,
        "zero_points": products.ZERO_POINTS,
    }
    (target / "case.json").write_text(json.dumps(spec))
    (target / "reference.json").write_text(json.dumps(measure(target)))
    (target / "products.json").write_text(json.dumps(products.expected_digests(matrices, runs)))


def _write_images(bundle: Bundle, models: Path, folder: Path) -> tuple[int, int]:
    """Write the golden images, and behind them some test images, task by task in turn.

    Returns the number of golden images, and of those that are embedded.
    """
    with np.load(bundle.file(bundle.index.golden)) as file:
        golden = [Image.fromarray(image) for image in file["images"]]
    tasks = [sorted((models / "images" / task / "test").glob("*/*.png")) for task in bundle.index.task_names]
    chosen = [paths[:: max(1, len(paths) // TEST_IMAGES)][:TEST_IMAGES] for paths in tasks]
    tests = [read_image(path) for group in zip(*chosen, strict=True) for path in group]
    embedded = len(tasks) * EMBEDDED_IMAGES
    if not tests:
        side = bundle.index.preprocess.image_size + 8  # so that they are resized
        tests, embedded = [Image.fromarray(image) for image in smooth_images(SYNTHETIC_IMAGES, side)], SYNTHETIC_IMAGES
    folder.mkdir()
    for number, image in enumerate([*golden, *tests]):
        image.save(folder / f"{number:04}.png")
    return len(golden), len(golden) + embedded


def _input_defaults(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Return what the tower's optional inputs are by default: JavaScript, which has no optional inputs, feeds it."""
    graph = onnx.load(bundle.file(bundle.index.tower)).graph
    inputs = {value.name for value in graph.input}
    return {f"defaults/{t.name}": numpy_helper.to_array(t) for t in graph.initializer if t.name in inputs}


def _key(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode())
            # Neither says anything about what a device reads; seconds differ from run to run.
            content = path.read_bytes() if path.name not in ("reference.json", "made_from.txt") else b""
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
