"""Fuzz targets of the runtime: bundles and pictures. Needs onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
from fuzz_cases import Target, WrongAnswerError, first_refusal
from PIL import Image

from mingle_edge_runtime import EdgeError, EdgeModel, Prediction, ProviderError
from mingle_edge_runtime.bundle.index import Preprocess
from mingle_edge_runtime.check.verify import verify
from mingle_edge_runtime.images.preprocess import preprocess

INDEX = "bundle.json"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 9, 3), dtype=np.uint8)
IMAGES[0, :, :, 0] //= 4
SPEC = Preprocess(16, (0.5, 0.4, 0.3), (0.5, 0.3, 0.2))
EXPORTED = 0.15
"""share of cases with a bundle that the export wrote, which takes ten times as long as one of tiny_bundle"""


class BundleFiles(Target):
    """Any file of a bundle but the index, with and without a corrected hash, asked everything."""

    name = "bundle files"
    share = 30
    folder = "bundles"
    refusals = (EdgeError,)

    def __init__(self, corpus: Path, work: Path) -> None:
        super().__init__(corpus, work)
        self._references: dict[str, dict[str, Any]] = {}
        for kind in sorted({name.split("/")[0] for name in self.names}):
            with contextlib.suppress(ProviderError):  # it needs a newer ONNX Runtime than this one
                self._references[kind] = dict(_answers(self.root / kind))

    def choose(self, random: Random) -> str:
        exported = [kind for kind in self._references if kind.startswith("exported")]
        kinds = exported if exported and random.random() < EXPORTED else list(self._references.keys() - exported)
        self._kind = random.choice(sorted(kinds))
        names = [name.removeprefix(f"{self._kind}/") for name in self.names if name.startswith(f"{self._kind}/")]
        return f"{self._kind}/{self.choose_file([name for name in names if name != INDEX], random)}"

    def choose_file(self, names: list[str], random: Random) -> str:
        """Return a file of a bundle; names: those of all but its index."""
        return random.choice(names)

    def change(self, random: Random) -> str:
        said = super().change(random)
        self._file = self.changed.removeprefix(f"{self._kind}/")
        self._corrected, self._checked = self._file != INDEX and random.random() < 0.65, random.random() < 0.7
        if self._corrected:
            self._relist()
        return f"{said}{', its hash corrected' if self._corrected else ''}{', checked' if self._checked else ''}"

    def _relist(self) -> None:
        """State the present size and hash of the file in the index, as an attacker would."""
        if not (self.root / self.changed).is_file():
            return
        index = json.loads(self.content[f"{self._kind}/{INDEX}"])
        content = (self.root / self.changed).read_bytes()
        index["files"][self._file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for task in index["tasks"]:
            if task.get("expert") == self._file:
                task["expert_bytes"] = len(content)
        self.write(f"{self._kind}/{INDEX}", json.dumps(index).encode())

    def answer(self) -> str:
        """Ask a bundle everything; what the change cannot reach must be equal to what the untouched bundle answers."""
        reference, equal = self._references[self._kind], []
        found_out = self._checked and not self._corrected and self._file != INDEX

        def check_answer(part: str, ask: Callable[[], Any]) -> None:
            value = ask()
            equal.append(part in reference and _same(value, reference[part]))
            if not equal[-1] and (found_out or not _reaches(self._file, part)):
                raise WrongAnswerError(f"{part} differs from that of the untouched bundle")
            _check(part, value)

        with EdgeModel.open(self.root / self._kind, threads=1, check_hashes=self._checked) as model:
            first_refusal(self.refusals, (partial(check_answer, *question) for question in _questions(model)))
        return "right, equal" if all(equal) else "right, consistent"


class BundleIndex(BundleFiles):
    """The index of a bundle, by member and by byte."""

    name = "bundle.json"
    share = 20

    def choose_file(self, names: list[str], random: Random) -> str:
        return INDEX


class VerifiedBundle(BundleFiles):
    """`verify` of bundles whose golden outputs, or any other file, were changed."""

    name = "verify"
    share = 6

    def choose_file(self, names: list[str], random: Random) -> str:
        return "golden.npz" if random.random() < 0.7 else random.choice(names)

    def answer(self) -> str:
        verify(self.root / self._kind, threads=1).check()
        if not self._corrected and (self.root / self.changed).read_bytes() != self.content[self.changed]:
            raise WrongAnswerError(f"verify says that {self._file} is what the index says, and it is not")
        return "right, consistent"


class Pictures(Target):
    """Image files, as the runtime decodes them."""

    name = "pictures"
    quiet = False  # libtiff says on its own what is wrong with a file
    share = 20
    folder = "pictures"
    refusals = (EdgeError,)

    def change(self, random: Random) -> str:
        self._opened = random.random() < 0.3
        return super().change(random)

    def answer(self) -> str:
        path = self.root / self.changed
        values = preprocess(self._open(path) if self._opened and path.is_file() else path, SPEC)
        mean, std = np.array(SPEC.mean), np.array(SPEC.std)
        least, most = -mean / std, (1 - mean) / std
        if values.shape != (1, 3, 16, 16) or values.dtype != np.float32:
            raise WrongAnswerError(f"pixel values are {values.dtype} {values.shape}")
        if not ((values[0].min((1, 2)) >= least - 1e-5).all() and (values[0].max((1, 2)) <= most + 1e-5).all()):
            raise WrongAnswerError("pixel values are out of range")
        return "right, consistent"

    def _open(self, path: Path) -> Image.Image:
        """As an application does that takes no large ones; what Pillow raises here is not ours."""
        try:
            picture = Image.open(path)
        except Exception as error:
            raise EdgeError(str(error)) from error
        if picture.width * picture.height > 1 << 20:
            raise EdgeError("an application's own limit")
        return picture


def _answers(root: Path) -> Iterator[tuple[str, Any]]:
    with EdgeModel.open(root, threads=1) as model:
        for part, ask in _questions(model):
            yield part, ask()


def _questions(model: EdgeModel) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What a bundle is asked, by name: every task's embedding, and routed embeddings and labels."""
    for task in model.tasks:
        yield f"embedding of {task}", partial(model.embed, IMAGES[:1], task=task)
    yield "routed embeddings", partial(model.embed, IMAGES)
    yield "routed labels", partial(model.classify, IMAGES, top=10**6)
    last = model.tasks[-1]
    yield f"labels of {last}", partial(model.classify, IMAGES[1], task=last, top=10**6)


def _reaches(name: str, part: str) -> bool:
    """Whether a file of a bundle may change an answer."""
    routed, (folder, _, file) = part.startswith("routed"), name.rpartition("/")
    task = part.split(" of ")[-1]
    if name in ("dense.onnx", "golden.npz"):
        return False
    if name.startswith("router"):
        return routed
    if folder in ("heads", "biases"):
        return part == "routed labels" or (part.startswith("labels") and PurePosixPath(file).stem == task)
    if folder == "experts":
        return routed or PurePosixPath(file).stem == task
    return True


def _same(value: Any, reference: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.shape == reference.shape and value.tobytes() == reference.tobytes()
    return bool(value == reference)


def _check(part: str, value: Any) -> None:
    """Raise `WrongAnswerError` where an answer is not finite, no unit vector, or its probabilities do not sum to 1."""
    if isinstance(value, np.ndarray):
        lengths = np.linalg.norm(value.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) <= 1e-3).all():
            raise WrongAnswerError(f"{part} have lengths {lengths}")
        return
    for prediction in value:
        _check_prediction(part, prediction)


def _check_prediction(part: str, prediction: Prediction) -> None:
    probabilities, weights = np.array(prediction.probabilities), np.array(prediction.route.weights)
    for what, shares in (("probabilities", probabilities), ("weights of the route", weights)):
        if (len(shares) or what == "probabilities") and not ((shares >= 0).all() and abs(shares.sum() - 1) <= 1e-5):
            raise WrongAnswerError(f"{what} of {part} are {shares}")
    if len(prediction.labels) != len(probabilities) or (np.diff(probabilities) > 0).any():
        raise WrongAnswerError(f"{part} are not in order")


TARGETS: tuple[type[Target], ...] = (BundleIndex, BundleFiles, VerifiedBundle, Pictures)
