"""Fuzz targets of the runtime: bundles and pictures. Needs onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import mutations
import numpy as np
from fuzz_cases import Inputs, Target, WrongAnswerError, first_refusal

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


def _weights(data: bytes, random: Random) -> bytes:
    return (mutations.float_values if random.random() < 0.7 else mutations.any_bytes)(data, random)


def _golden(data: bytes, random: Random) -> bytes:
    members = mutations.zip_members(lambda name: mutations.npy if name.endswith(".npy") else mutations.any_bytes)
    return (members if random.random() < 0.6 else mutations.zip_fields)(data, random)


MUTATORS: dict[str, mutations.Mutator] = {
    ".onnx": mutations.protobuf,
    ".onnx_adapter": mutations.adapter,
    ".bin": _weights,
    ".npy": mutations.npy,
    ".npz": _golden,
    ".json": mutations.json_text,
}


class _Bundles(Target):
    """Bundles of several kinds, one of which each case changes."""

    refusals = (EdgeError,)

    def __init__(self, corpus: Path, work: Path) -> None:
        folders = sorted((corpus / "bundles").iterdir())
        self._bundles = {folder.name: Inputs(folder, work / "bundles" / folder.name) for folder in folders}
        self._references = {}
        for kind, inputs in list(self._bundles.items()):
            try:
                self._references[kind] = dict(_answers(inputs.root))
            except ProviderError:  # it needs a newer ONNX Runtime than this one
                del self._bundles[kind]
        self._inputs = next(iter(self._bundles.values()))

    def _choose(self, random: Random) -> str:
        exported = [kind for kind in self._bundles if kind.startswith("exported")]
        tiny = [kind for kind in self._bundles if not kind.startswith("exported")]
        kind = random.choice(exported if exported and random.random() < EXPORTED else tiny)
        self._inputs, self._reference = self._bundles[kind], self._references[kind]
        return kind

    def _mutate(self, name: str, random: Random) -> str:
        """Change one file. Returns what was done."""
        names = [other for other in self._inputs.names if other != INDEX]
        choice = random.random()
        if choice < 0.05:
            return f"{name} {self._inputs.become(name, random)}"
        if choice < 0.1:
            other = random.choice(names)
            self._inputs.write(name, self._inputs.content[other])
            return f"{name} replaced by {other}"
        mutator = MUTATORS[PurePosixPath(name).suffix] if random.random() < 0.8 else mutations.any_bytes
        self._inputs.write(name, mutator(self._inputs.content[name], random))
        return name

    def _relist(self, *names: str) -> None:
        """State the present size and hash of files in the index, as an attacker would."""
        index = json.loads(self._inputs.content[INDEX])
        for name in names:
            path = self._inputs.root / name
            if not path.is_file():
                continue
            content = path.read_bytes()
            index["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for task in index["tasks"]:
                if task.get("expert") == name:
                    task["expert_bytes"] = len(content)
        self._inputs.write(INDEX, json.dumps(index).encode())

    def restore(self) -> None:
        self._inputs.restore()

    def _serve(self, proved: Callable[[str], bool], check_hashes: bool = False) -> str:
        """Ask a bundle everything; `proved` says of which answers it must be equal to that of the untouched bundle."""
        equal = []

        def check_answer(part: str, ask: Callable[[], Any]) -> None:
            value = ask()
            equal.append(part in self._reference and _same(value, self._reference[part]))
            if not equal[-1] and proved(part):
                raise WrongAnswerError(f"{part} differs from that of the untouched bundle")
            _check(part, value)

        with EdgeModel.open(self._inputs.root, threads=1, check_hashes=check_hashes) as model:
            first_refusal(self.refusals, (partial(check_answer, *question) for question in _questions(model)))
        return "right, equal" if all(equal) else "right, consistent"


class BundleIndex(_Bundles):
    """The index of a bundle, by member and by byte."""

    name = "bundle.json"
    share = 20

    def change(self, random: Random) -> str:
        kind = self._choose(random)
        if random.random() < 0.02:
            return f"{kind}: {INDEX} {self._inputs.become(INDEX, random)}"
        self._inputs.write(INDEX, mutations.json_text(self._inputs.content[INDEX], random))
        return f"{kind}: {INDEX}"

    def answer(self) -> str:
        return self._serve(lambda part: False)


class BundleFiles(_Bundles):
    """Any file of a bundle but the index, with and without a corrected hash."""

    name = "bundle files"
    share = 30

    def change(self, random: Random) -> str:
        kind = self._choose(random)
        names = [name for name in self._inputs.names if name != INDEX]
        self._name = random.choice(names)
        what = self._mutate(self._name, random)
        self._corrected, self._checked = random.random() < 0.65, random.random() < 0.7
        if self._corrected:
            self._relist(self._name)
        return f"{kind}: {what}{', its hash corrected' if self._corrected else ''}{', checked' if self._checked else ''}"

    def answer(self) -> str:
        found_out = self._checked and not self._corrected
        return self._serve(lambda part: found_out or not _reaches(self._name, part), self._checked)


class VerifiedBundle(_Bundles):
    """`verify` of bundles whose golden outputs, or any other file, were changed."""

    name = "verify"
    share = 6

    def change(self, random: Random) -> str:
        kind = self._choose(random)
        golden = random.random() < 0.7
        names = [name for name in self._inputs.names if name != INDEX]
        self._name = "golden.npz" if golden else random.choice(names)
        what = self._mutate(self._name, random)
        self._corrected = random.random() < 0.8
        if self._corrected:
            self._relist(self._name)
        return f"{kind}: {what}{', its hash corrected' if self._corrected else ''}"

    def answer(self) -> str:
        verify(self._inputs.root, threads=1).check()
        path = self._inputs.root / self._name
        if not self._corrected and path.read_bytes() != self._inputs.content[self._name]:
            raise WrongAnswerError(f"verify says that {self._name} is what the index says, and it is not")
        return "right, consistent"


class Pictures(Target):
    """Image files, as the runtime decodes them."""

    name = "pictures"
    quiet = False  # libtiff says on its own what is wrong with a file
    share = 20
    refusals = (EdgeError,)

    def __init__(self, corpus: Path, work: Path) -> None:
        self._inputs = Inputs(corpus / "pictures", work / "pictures")

    def change(self, random: Random) -> str:
        return change_picture(self, self._inputs, random)

    def answer(self) -> str:
        values = preprocess(self.path, SPEC)
        mean, std = np.array(SPEC.mean), np.array(SPEC.std)
        least, most = -mean / std, (1 - mean) / std
        if values.shape != (1, 3, 16, 16) or values.dtype != np.float32:
            raise WrongAnswerError(f"pixel values are {values.dtype} {values.shape}")
        if not ((values[0].min((1, 2)) >= least - 1e-5).all() and (values[0].max((1, 2)) <= most + 1e-5).all()):
            raise WrongAnswerError("pixel values are out of range")
        return "right, consistent"

    def restore(self) -> None:
        self._inputs.restore()


def change_picture(target: Any, inputs: Inputs, random: Random) -> str:
    """Change one picture, which becomes the `path` of the target. Returns what was done."""
    name = random.choice(inputs.names)
    target.path = inputs.root / name
    if random.random() < 0.03:
        return f"{name} {inputs.become(name, random)}"
    suffix = PurePosixPath(name).suffix
    mutator = mutations.IMAGES.get(suffix, mutations.any_bytes) if random.random() < 0.7 else mutations.any_bytes
    inputs.write(name, mutator(inputs.content[name], random))
    return name


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
    if folder == "heads":
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
    probabilities = np.array(prediction.probabilities)
    if not ((probabilities >= 0).all() and abs(probabilities.sum() - 1) <= 1e-5):
        raise WrongAnswerError(f"probabilities of {part} are {probabilities}")
    if len(prediction.labels) != len(probabilities) or (np.diff(probabilities) > 0).any():
        raise WrongAnswerError(f"{part} are not in order")
    weights = np.array(prediction.route.weights)
    if len(weights) and not ((weights >= 0).all() and abs(weights.sum() - 1) <= 1e-5):
        raise WrongAnswerError(f"weights of the route of {part} are {weights}")


TARGETS: tuple[type[Target], ...] = (BundleIndex, BundleFiles, VerifiedBundle, Pictures)
