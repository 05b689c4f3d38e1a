"""Which files of a whole data set belong to one of its splits, found as the `datasets` library does.

What its `README.md` says of configurations goes first. Otherwise splits are told by the names of folders, or of files where
no folder says so. https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from mingle_edge.core.errors import ImageFolderError, shown
from mingle_edge.data.class_matching import suggestion
from mingle_edge.data.image_folder import suffixes
from mingle_edge.files.file_pattern import is_pattern

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders, and words in names of files -> the split that they say."""
KINDS: dict[str, Literal["parquet", "webdataset"]] = {".parquet": "parquet", ".tar": "webdataset"}
"""Suffixes of files that hold many images; without any of them a data set is one of image files."""
_UNREAD = (
    ".zip",
    ".gz",
    ".tgz",
    ".bz2",
    ".xz",
    ".zst",
    ".7z",
    ".rar",
    ".arrow",
    ".feather",
    ".tfrecord",
    ".h5",
    ".npz",
    ".mat",
)
_LISTED = 10  # names in a message
_NUMBERED = re.compile(r"[-_.]\d+(-of-\d+)?(-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Layout:
    """The part of a data set that is read."""

    kind: Literal["parquet", "webdataset", "image folder"]
    names: list[str]  # relative to the data set; of an image folder all files in it
    folder: str  # image folder: where the folders of classes, or tables, are; empty: the data set's own
    said: str  # what was taken, in words


def find_layout(
    names: Iterable[str], split: str | None, usual: str | None, config: str | None, card: dict[str, Any], where: str
) -> Layout:
    """Choose files of a data set.

    Args:
        names: of all its files, relative, with `/` between folders.
        split: the one to read; None: `usual`, or everything where the data set is not divided.
        usual: the split to read where there are several and none is named.
        config: the configuration to read; None: the only one, or the one called default.
        card: what its `README.md` says in the beginning, in YAML.
        where: the data set, for messages.

    Raises:
        ImageFolderError: no such split or configuration, or several that may be meant; those that there are are named.
    """
    visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    if chosen := _by_card(visible, split, usual, config, card, where):
        return chosen
    suffix = next((suffix for suffix in KINDS if any(name.endswith(suffix) for name in visible)), None)
    if suffix is None:
        _check_images(visible, where)
        return _image_folder(visible, split, usual, config, where)
    group, config = _of_config([name for name in visible if name.endswith(suffix)], config, where)
    found: dict[str, list[str]] = {}
    for name in group:
        found.setdefault(split_of(name, split) or "", []).append(name)
    if list(found) == [""] and split in (None, "train"):  # what is not divided is for training
        return Layout(KINDS[suffix], group, "", _said(None, found, config))
    taken, split = _of_split(found, split, usual, where)
    return Layout(KINDS[suffix], taken, "", _said(split, found, config))


def split_of(name: str, asked: str | None = None) -> str | None:
    """Return the split that the name of a file says, one asked for by its own name before the usual ones; None if none."""
    *folders, file = name.split("/")
    stem = _NUMBERED.sub("", PurePosixPath(file).stem)
    if asked is not None and asked.lower() not in SPLITS and asked in (*folders, stem):
        return asked
    for part in folders:
        if part.lower() in SPLITS:
            return SPLITS[part.lower()]
    words = {SPLITS[word] for word in re.split(r"[-._ \d]+", file.lower()) if word in SPLITS}
    return words.pop() if len(words) == 1 else None


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """Return split -> folder, of folders that all are called as splits; empty where one is not, or two say the same."""
    names = list(names)
    found = {SPLITS[name.lower()]: name for name in names if name.lower() in SPLITS}
    return found if len(found) == len(names) else {}


def _by_card(
    names: Sequence[str], split: str | None, usual: str | None, config: str | None, card: dict[str, Any], where: str
) -> Layout | None:
    """Choose files by the configurations in a data set's card; None where it has none."""
    entries = card.get("configs")
    configs: dict[str, dict[str, Any]] = {}
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("config_name", "default") if isinstance(entry, dict) else None
        if isinstance(name, str | int) and ("data_files" in entry or "data_dir" in entry):
            configs[str(name)] = entry
    if not configs:
        return None
    marked = [name for name, entry in configs.items() if entry.get("default") is True]
    name = _one_config(list(configs), config, where, marked)
    below = configs[name].get("data_dir")
    prefix = f"{below.strip('/')}/" if isinstance(below, str) and below.strip("./") else ""
    patterns = _data_files(configs[name].get("data_files"))
    if not patterns:
        inside = [path.removeprefix(prefix) for path in names if path.startswith(prefix)]
        layout = find_layout(inside, split, usual, None, {}, where)
        return Layout(layout.kind, [prefix + path for path in layout.names], prefix + layout.folder, layout.said)
    taken, split = _of_split(patterns, split, usual, where)
    found = [path for path in names if any(_matches(path, prefix + pattern) for pattern in taken)]
    kinds = {KINDS.get(PurePosixPath(path).suffix) for path in found}
    folders = {_folder_of(prefix + pattern) for pattern in taken}
    rule = "no file" if not found else "files of several kinds" if len(kinds) > 1 else ""
    if not rule and None in kinds and (len(folders) > 1 or _images_below(min(folders), names) - set(found)):
        rule = "images of several folders, or a part of those in one,"
    if rule:
        raise ImageFolderError(
            f"{where}: its README.md names {rule} for split {shown(split)} of configuration {shown(name)} "
            f"({', '.join(shown(pattern) for pattern in taken[:_LISTED])}); name the files, as in {where}/data/*.parquet"
        )
    kind = kinds.pop() or "image folder"
    return Layout(kind, found, folders.pop() if kind == "image folder" else "", _said(split, patterns, name))


def _images_below(folder: str, names: Iterable[str]) -> set[str]:
    return {n for n in names if n.startswith(f"{folder}/" if folder else "") and PurePosixPath(n).suffix.lower() in suffixes()}


def _data_files(value: Any) -> dict[str, list[str]]:
    """Return split -> patterns, of what a card says in any of its forms."""
    if isinstance(value, dict):
        value = [{"split": split, "path": path} for split, path in value.items()]
    found: dict[str, list[str]] = {}
    for entry in value if isinstance(value, list) else [value]:
        split, path = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        patterns = [text for text in (path if isinstance(path, list) else [path]) if isinstance(text, str)]
        if isinstance(split, str) and patterns:
            found.setdefault(split, []).extend(pattern.removeprefix("./") for pattern in patterns)
    return found


def _matches(path: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatch.fnmatchcase(path, pattern.replace("**/", "*"))
    return PurePosixPath(f"/{path}").match(f"/{pattern}")


def _image_folder(names: Sequence[str], split: str | None, usual: str | None, config: str | None, where: str) -> Layout:
    prefix = ""
    if config is not None:
        prefix = f"{config.strip('/')}/"
        names = [name for name in names if name.startswith(prefix)]
    if not names:
        rule = "holds no file" if config is None else f"has no configuration {shown(config)}, a folder of this name"
        raise ImageFolderError(f"{where} {rule}; correct it")
    folders = sorted({name.removeprefix(prefix).split("/")[0] for name in names if "/" in name.removeprefix(prefix)})
    divided = split_folders(folders)
    if split is None and not divided:  # a class may be called test
        return Layout("image folder", list(names), prefix.rstrip("/"), _said(None, {}, config))
    found = divided or {folder: folder for folder in folders}
    if split in folders:
        found = found | {split: split}
    (folder,), split = _of_split({name: [folder] for name, folder in found.items()}, split, usual, where)
    inside = [name for name in names if name.startswith(f"{prefix}{folder}/")]
    return Layout("image folder", inside, prefix + folder, _said(split, found, config))


def _check_images(names: Sequence[str], where: str) -> None:
    """Refuse a data set that is neither images nor files of them that are read."""
    unread = [name for name in names if PurePosixPath(name).suffix.lower() in _UNREAD]
    if unread and not any(PurePosixPath(name).suffix.lower() in suffixes() for name in names):
        listed = ", ".join(shown(name) for name in unread[:_LISTED])
        way = "unpack archives, or write it as parquet (to_parquet of the datasets library)"
        if where.startswith("hf://") and "@" not in where:
            way = f"read the hub's own conversion, where it has one: {where.rstrip('/')}@refs/convert/parquet"
        raise ImageFolderError(f"{where} has no images, parquet or tar files, but {listed}, which are not read; {way}")


def _of_config(names: Sequence[str], config: str | None, where: str) -> tuple[list[str], str | None]:
    """Return the files of one configuration: those in a folder that is neither data nor a split's."""

    def group(name: str) -> str:
        first = name.split("/")[0]
        return first if "/" in name and first != "data" and first.lower() not in SPLITS else ""

    groups = sorted({group(name) for name in names})
    if config is None and len(groups) == 1:
        return list(names), groups[0] or None
    chosen = _one_config(groups, config, where)
    return [name for name in names if group(name) == chosen], chosen


def _one_config(there: Sequence[str], config: str | None, where: str, marked: Sequence[str] = ()) -> str:
    listed = ", ".join(shown(name) for name in there[:_LISTED] if name) or "none"
    if config is not None:
        if config in there:
            return config
        raise ImageFolderError(
            f"{where} has no configuration {shown(config)}{suggestion(config, there)}; it has {listed}; correct config"
        )
    usual = there if len(there) == 1 else [name for name in there if name == "default"] or marked
    if len(usual) == 1:
        return usual[0]
    raise ImageFolderError(
        f"{where} has {len(there)} configurations ({listed}), and none is named; add one: config = {shown(there[-1])}"
    )


def _of_split(found: dict[str, list[str]], split: str | None, usual: str | None, where: str) -> tuple[list[str], str]:
    """Return what belongs to a split, and its name as it is written there; one may be asked for by another word for it."""
    wanted = split or usual
    alike = [name for name in found if wanted and SPLITS.get(name.lower(), name) == SPLITS.get(wanted.lower(), wanted)]
    if wanted in found:
        alike = [wanted]
    if split is None and len(found) == 1:
        alike = list(found)
    if len(alike) == 1:
        return found[alike[0]], alike[0]
    there = [name for name in found if name]
    listed = ", ".join(shown(name) for name in sorted(there)[:_LISTED]) or "none by name"
    if wanted is None:
        raise ImageFolderError(f"{where} is divided into {listed}; name the split to read: split = ...")
    raise ImageFolderError(
        f"{where} has no split {shown(wanted)}{suggestion(wanted, there)}; it has {listed}; name one of them: split = ..., or "
        "name the files themselves"
    )


def _said(split: str | None, there: Iterable[str], config: str | None) -> str:
    names = ", ".join(sorted(name for name in there if name))
    parts = [f"split {split} of {names}"] if split else []
    return ", ".join([*parts, *([f"configuration {config}"] if config else [])])


def _folder_of(pattern: str) -> str:
    """Return the folder that a pattern names before its first wildcard."""
    folders = pattern.split("/")[:-1]
    plain = next((place for place, part in enumerate(folders) if is_pattern(part)), len(folders))
    return "/".join(folders[:plain])
