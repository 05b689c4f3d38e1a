"""The checkpoints below folders, as trainings leave them, and which of them is the pretrained model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mingle_edge.checkpoints.model_config import read_json_object
from mingle_edge.checkpoints.peft_adapter import CONFIG, is_adapter
from mingle_edge.checkpoints.stored_tensors import TensorFiles, open_tensors
from mingle_edge.checkpoints.tower_names import NamedTower, find_towers
from mingle_edge.core.errors import MingleError
from mingle_edge.data.weights_folder import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG, SUFFIXES, weights_files
from mingle_edge.files.plain_file import refusal

PRETRAINED = {"backbone", "base", "pretrained", "zeroshot", "original"}
"""Words that a pretrained model is called by."""
RIGHT_ANGLE, SHARP = 0.15, 0.35
"""Mean cosines of the differences from a model: at most the first from where all others came from, and at least the second from
any of those."""
_GENERIC = re.compile(
    r"(model|pytorch_model|open_clip_(pytorch_)?model|finetuned|fine_?tuned|best|last|latest|final|weights|checkpoints?|ckpt|output|"
    r"adapter(_model)?|visual|vision|encoder|image_encoder|state_dict|(checkpoint|step|epoch)[-_]?\d*)([-_](best|last|final|\d+))*",
    re.IGNORECASE,
)
"""Names that say nothing of a task; the folder above says it."""
_STEP = re.compile(r"(?:checkpoint|step|epoch)[-_]?(\d+)", re.IGNORECASE)
_BESIDE = ("optimizer", "scheduler", "scaler", "random_states", "rng_state", "training_args")
_HEADS = (*SUFFIXES, ".npz")
_DEEPEST = 6  # folders below one that was given
_MOST_HEAD = 3  # tensors in the file of a head


@dataclass(frozen=True)
class FoundCheckpoint:
    """A file or folder with a vision tower, or a folder with an adapter of one."""

    path: Path
    tensors: TensorFiles
    tower: NamedTower | None  # None: an adapter

    @property
    def called(self) -> str:
        """Return the name of its file without suffixes, of its folder, or of what says more above it."""
        path, says = self.path, self.path.name if self.path.is_dir() else self.path.name.split(".")[0]
        while _GENERIC.fullmatch(says) and path.parent != path:
            path = path.parent
            says = path.name
        return says

    @property
    def called_pretrained(self) -> bool:
        """Say whether its name has a word of pretrained models."""
        names = f"{self.path.name} {self.called}".lower().replace("zero-shot", "zeroshot").replace("zero_shot", "zeroshot")
        return bool(PRETRAINED & set(re.split(r"[^a-z0-9]+", names)))

    @property
    def base_model(self) -> str | None:
        """Return what it says it was fine-tuned from, a path or an id of the hub; None where it says nothing."""
        for name, key in ((CONFIG, "base_model_name_or_path"), (HUGGING_FACE_CONFIG, "_name_or_path")):
            if (self.path / name).is_file():
                value = read_json_object(self.path / name).get(key)
                if isinstance(value, str) and value.strip():
                    return value
        return None

    @cached_property
    def probe(self) -> Tensor | None:
        """Return one weight in the middle of the tower, by which copies of a model are told apart; None for an adapter."""
        if self.tower is None:
            return None
        names = [name for name in self.tower.parameters if re.fullmatch(r"blocks\.\d+\.fc1\.weight", name)]
        return self.tower.parameters[names[len(names) // 2]].read(self.tensors) if names else None


@dataclass(frozen=True)
class FoundFiles:
    """Everything that was found below some folders."""

    checkpoints: list[FoundCheckpoint]
    heads: list[Path]  # files that hold a matrix and no vision tower
    left_out: dict[Path, str]  # path -> why it is neither


def find_checkpoints(paths: Sequence[Path]) -> FoundFiles:
    """Look for checkpoints in files and folders and below these.

    A folder that is a checkpoint is one, whatever lies below it; of `checkpoint-100`, `checkpoint-200` ... of one training the
    last is taken. What looks like a checkpoint and cannot be read as one is left out with the reason.
    """
    files = FoundFiles([], [], {})
    seen: set[Path] = set()  # what lies below two of the paths, or is linked to, is one checkpoint
    for given in paths:
        for path in _candidates(given, files.left_out):
            if (real := path.resolve()) in seen:
                continue
            seen.add(real)
            try:
                _sort_in(path, files)
            except MingleError as error:
                files.left_out[path] = str(error).removeprefix(str(path)).lstrip(": ")
    return files


def middle_one(checkpoints: Sequence[FoundCheckpoint]) -> FoundCheckpoint | None:
    """Return the checkpoint that all others came from; None where none is so clearly.

    What fine-tuning changed for different tasks is nearly at right angles, seen from where it began; seen from a fine-tuned
    model all others lie in the direction of the beginning, at 60 degrees and less from one another.
    """
    weights = [(checkpoint, checkpoint.probe) for checkpoint in checkpoints]
    alike = [(checkpoint, probe) for checkpoint, probe in weights if probe is not None and probe.shape == _shape(weights)]
    if len(alike) < 3:
        return None
    probes = torch.stack([probe.flatten() for _, probe in alike])
    cosines = []
    for number, probe in enumerate(probes):
        directions = F.normalize(probes - probe, dim=1)[[other for other in range(len(probes)) if other != number]]
        pairs = torch.triu(directions @ directions.T, diagonal=1)
        cosines.append(float(pairs.sum()) / (len(directions) * (len(directions) - 1) / 2))
    first, second = sorted(range(len(alike)), key=cosines.__getitem__)[:2]
    return alike[first][0] if cosines[first] <= RIGHT_ANGLE and cosines[second] >= SHARP else None


def _shape(weights: Sequence[tuple[FoundCheckpoint, Tensor | None]]) -> torch.Size | None:
    return next((probe.shape for _, probe in weights if probe is not None), None)


def _sort_in(path: Path, files: FoundFiles) -> None:
    """Add a candidate to what it is. Raises `MingleError` where it cannot be read."""
    if path.is_dir() and is_adapter(path):
        files.checkpoints.append(FoundCheckpoint(path, TensorFiles([]), None))
        return
    if path.suffix == ".npz":
        files.heads.append(path)
        return
    tensors = open_tensors(path)
    names = tensors.names()
    if towers := find_towers(names):
        files.checkpoints.append(FoundCheckpoint(path, tensors, towers[0]))
    elif len(names) <= _MOST_HEAD and any(len(tensors.shape(name)) == 2 for name in names):
        files.heads.append(path)
    else:
        files.left_out[path] = "holds no vision tower in names that are read"


def _candidates(given: Path, left_out: dict[Path, str], depth: int = 0) -> Iterator[Path]:
    """Yield files and folders that may be checkpoints or heads, sorted by name."""
    if not given.is_dir():
        yield given
        return
    try:
        entries = sorted(path for path in given.iterdir() if not path.name.startswith("."))
    except OSError as error:
        left_out[given] = refusal(error)
        return
    if is_adapter(given) or any((given / name).is_file() for name in (HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG)):
        yield given
        own = _files_of(given)
        yield from (path for path in entries if path.suffix in _HEADS and path.is_file() and path not in own and _is_head(path))
        return
    yield from (path for path in entries if path.is_file() and path.name.endswith(_HEADS) and not path.name.startswith(_BESIDE))
    folders = [path for path in entries if path.is_dir()]
    if steps := {path: int(match[1]) for path in folders if (match := _STEP.fullmatch(path.name))}:
        last = max(steps, key=steps.__getitem__)
        left_out |= {path: f"is an earlier step of the training that wrote {last.name}" for path in steps if path != last}
        folders = [path for path in folders if path == last or path not in steps]
    if depth < _DEEPEST:
        for folder in folders:
            yield from _candidates(folder, left_out, depth + 1)


def _files_of(folder: Path) -> list[Path]:
    try:
        return weights_files(folder)
    except MingleError:
        return []


def _is_head(path: Path) -> bool:
    """Say whether a file beside a model's weights is called a head, as optimizers' states and shards are not."""
    return any(word in path.stem.lower() for word in ("head", "classifier", "probe", "linear"))
