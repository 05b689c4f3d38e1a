"""The lines of a first task file, with comments where something was not found."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mingle_edge.checking.backbone_source import BackboneLines, backbone_lines
from mingle_edge.checking.found_checkpoints import FoundCheckpoint, find_checkpoints
from mingle_edge.checking.image_places import ImagePlace, find_images, folded
from mingle_edge.checkpoints.class_names import stored_class_names
from mingle_edge.core.errors import CheckpointError, MingleError
from mingle_edge.data.task_file import SEEDS_PER_CLASS

_LONGEST = 64  # characters of a task's name
_CLASS_FILES = ("classes", "class_names", "classnames", "labels")


@dataclass
class TaskFileDraft:
    """The lines of a task file, with paths relative to its folder."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)  # their names
    missing: list[str] = field(default_factory=list)  # sentences on what was not found
    left_out: dict[Path, str] = field(default_factory=dict)  # what looked like a checkpoint of a task and is none -> why

    def add(self, key: str, value: object, comment: str = "") -> None:
        """Add a key with its value."""
        text = json.dumps(value, ensure_ascii=False)
        self.lines.append(f"{key} = {text}" + (f"  # {comment}" if comment else ""))

    def lack(self, where: str, key: str, example: object, comment: str) -> None:
        """Add a comment in place of a key that is needed and was not found."""
        self.lines.append(f"# {key} = {json.dumps(example, ensure_ascii=False)}  # not found: {comment}")
        self.missing.append(f"{where}: {key} was not found; give {comment}")

    def relative(self, path: str | Path) -> str:
        """Return a path as the file names it."""
        return os.path.relpath(path, self.folder).replace(os.sep, "/")


def draft_task_file(given: Sequence[Path], folder: Path, backbone: str | None, backbone_weights: str | None) -> TaskFileDraft:
    """Return the lines of a task file in `folder` for what lies in files and folders, as `init` describes them."""
    found = find_checkpoints(given)
    source = backbone_lines(found.checkpoints, backbone, backbone_weights, folder)
    tasks = _names(found.checkpoints, source)
    if not tasks:
        reasons = "".join(f"; {path} {reason}" for path, reason in list(found.left_out.items())[:3])
        listed = ", ".join(map(str, given))
        raise CheckpointError(f"no fine-tuned checkpoint was found in {listed}; name the folders that hold them{reasons}")
    draft = TaskFileDraft(folder, tasks=list(tasks.values()), left_out=found.left_out)
    _write_backbone(draft, source)
    places = find_images([path for path in given if path.is_dir()], draft.tasks)
    for checkpoint in found.checkpoints:
        if (name := tasks.get(checkpoint.path)) is not None:
            own = [place for place in places if place.task == name]
            _write_task(draft, name, checkpoint, own, _heads_of(name, checkpoint, found.heads, draft.tasks), given)
    return draft


def _names(checkpoints: Sequence[FoundCheckpoint], source: BackboneLines) -> dict[Path, str]:
    """Return the checkpoint of each task with its name: of the file or folder, or of what says more above it."""
    names: dict[Path, str] = {}
    for checkpoint in checkpoints:
        if source.checkpoint is not None and checkpoint.path == source.checkpoint.path:
            continue
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.called).strip("-._")[:_LONGEST] or "task"
        taken = {other.lower() for other in names.values()}
        number = 2
        unique = name
        while unique.lower() in taken:
            unique, number = f"{name[: _LONGEST - 4]}-{number}", number + 1
        names[checkpoint.path] = unique
    return names


def _write_backbone(draft: TaskFileDraft, source: BackboneLines) -> None:
    draft.lines += ["# Paths start from the folder of this file. What was not found is a comment to fill in.", "", "[backbone]"]
    if source.model is None:
        draft.lack("[backbone]", "model", source.example, source.comment)
    else:
        draft.add("model", source.model, source.comment)
    if source.weights is not None:
        draft.add("weights", source.weights)
    elif source.lacks_weights:
        draft.lack("[backbone]", "weights", "openai", "a tag of open_clip, or the file of the pretrained weights")


def _write_task(
    draft: TaskFileDraft,
    name: str,
    checkpoint: FoundCheckpoint,
    places: Sequence[ImagePlace],
    heads: Sequence[Path],
    given: Sequence[Path],
) -> None:
    draft.lines += ["", "[[task]]"]
    draft.add("name", name)
    draft.add("weights", draft.relative(checkpoint.path))
    seeds = _first(places, "seeds") or _first(places, None) or _first(places, "tune")
    if seeds is None:
        draft.lack(name, "seeds", f"seeds/{name}", "a folder of a few unlabeled images, or train/<class>/*")
    else:
        draft.add("seeds", draft.relative(seeds.files))
        if seeds.classes and seeds.fewest < SEEDS_PER_CLASS:
            draft.add("seeds_per_class", seeds.fewest, "the smallest class has no more")
    _write_classes(draft, name, checkpoint, places, given)
    if len(heads) == 1:
        draft.add("head", draft.relative(heads[0]))
    elif heads:
        listed = ", ".join(draft.relative(path) for path in heads)
        draft.lines.append(f"# head = {json.dumps(draft.relative(heads[0]), ensure_ascii=False)}  # one of {listed}")
    for key in ("test", "tune"):
        place = next(
            (p for p in places if p.split == key and p is not seeds and (p.classes or p.files.endswith(".parquet"))), None
        )
        if place is not None:
            draft.add(key, draft.relative(place.files))
        elif key == "test":
            example = json.dumps(f"test/{name}/<class>/*")
            draft.lines.append(
                f"# test = {example}  # not found: labeled images; evaluate and compare need them, merge does not"
            )


def _first(places: Sequence[ImagePlace], split: str | None) -> ImagePlace | None:
    return next((place for place in places if place.split == split), None)


def _write_classes(
    draft: TaskFileDraft, name: str, checkpoint: FoundCheckpoint, places: Sequence[ImagePlace], given: Sequence[Path]
) -> None:
    """Write the classes, or where the task's checkpoint tells them."""
    try:
        stored = stored_class_names(checkpoint.path) if checkpoint.path.is_dir() else None
    except MingleError:
        stored = None  # told by a check, with the reason
    if stored:
        draft.lines.append(f"# classes: the {len(stored)} of id2label in {draft.relative(checkpoint.path)}/config.json")
    elif (file := _class_file(name, checkpoint, given)) is not None:
        draft.add("classes", draft.relative(file))
    elif (place := next((place for place in places if place.classes), None)) is not None:
        classes = [folder.replace("_", " ") for folder in place.classes]
        draft.add(
            "classes", classes, "of the class folders in the order of their names; the rows of a head must have this order"
        )
    else:
        draft.lack(name, "classes", ["first", "second"], "the names of the classes, or a text file with one a line")


def _class_file(name: str, checkpoint: FoundCheckpoint, given: Sequence[Path]) -> Path | None:
    """Return the text file of a task's classes: in a folder of its name, or called by its name."""
    own = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    above = [own, own.parent] if folded(own.name) != folded(name) else [own]
    folders = dict.fromkeys([*above, *(path for path in given if path.is_dir())])
    called = [name, *(f"{name}{join}{word}" for word in _CLASS_FILES for join in "_-")]
    candidates = [folder / inner / f"{stem}.txt" for folder in folders for inner in ("", *_CLASS_FILES) for stem in called]
    if folded(own.name) == folded(name):
        candidates = [own / f"{stem}.txt" for stem in _CLASS_FILES] + candidates
    return next((path for path in candidates if path.is_file()), None)


def _heads_of(name: str, checkpoint: FoundCheckpoint, heads: Sequence[Path], tasks: Sequence[str]) -> list[Path]:
    """Return the heads that belong to a task: in its checkpoint's folder, below a folder of its name, or called by its name."""
    word = folded(name)

    def is_own(path: Path) -> bool:
        if checkpoint.path in path.parents or any(folded(parent.name) == word for parent in path.parents):
            return True
        longest = max((folded(task) for task in tasks if folded(task) in folded(path.stem)), key=len, default=None)
        return longest == word

    return [path for path in heads if is_own(path)]
