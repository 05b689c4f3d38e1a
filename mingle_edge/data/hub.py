"""Files of the Hugging Face hub, named `hf://owner/name` in a task file, through huggingface_hub's own cache."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mingle_edge.core.errors import FileError, HubError, HubUnreachableError, shown
from mingle_edge.data.image_source import CLASS
from mingle_edge.data.weights_folder import (
    HUGGING_FACE_CONFIG,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_FILES,
    SUFFIXES,
    is_open_clip_folder,
)
from mingle_edge.files.file_pattern import braces_expanded, matching_files
from mingle_edge.files.plain_file import refusal

SCHEME = "hf://"
OPEN_CLIP_SCHEME = "hf-hub:"
"""How open_clip and timm write the same."""
FORM = "hf://owner/name[@revision][/path], with datasets/ before the owner for a data set"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(
    rf"hf://(?P<dataset>datasets/)?(?!datasets/)(?P<repo>{_NAME}/{_NAME})(@(?P<revision>refs/(convert|pr)/[^/@]+|[^/@]+))?(/(?P<path>.*))?"
)
_BRACES = re.compile(r"\{[^{}]*\}")
_CONFIGS = (HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG, "preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""One of them holds the vocabulary of a model's tokenizer."""
_BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json")
_HUGGING_FACE_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_OPEN_CLIP_WEIGHTS = tuple((name,) for name in OPEN_CLIP_FILES)
"""What holds the weights, the first that is there."""
_LISTED = 8  # files named in a message


@dataclass(frozen=True)
class HubReference:
    """A model or data set on the hub, or something inside it."""

    dataset: bool
    repo: str  # owner/name
    revision: str | None  # branch, tag or commit; None: the main branch
    path: str  # within the repository, may be a pattern; empty: the whole model or data set

    def __str__(self) -> str:
        return f"{'data set' if self.dataset else 'model'} {self.repo}" + (f"@{self.revision}" if self.revision else "")

    def download_command(self) -> str:
        """Return what a user types to fill the cache by hand."""
        pattern = _BRACES.sub("*", self.path.replace(CLASS, "*"))
        include = f' --include "{pattern}"' if self.path else ""
        kind = " --repo-type dataset" if self.dataset else ""
        return f"hf download {self.repo}{kind}" + (f" --revision {self.revision}" if self.revision else "") + include


def is_hub_reference(text: str) -> bool:
    """Say whether a value of a task file names something on the hub rather than a path."""
    return text.startswith((SCHEME, OPEN_CLIP_SCHEME))


def way_to_path(text: str) -> str:
    """Return the next step where `text` was taken for a path and there is nothing: it may be a model's name on the hub."""
    if re.fullmatch(f"{_NAME}/{_NAME}", text) and not text.endswith(SUFFIXES):
        return f"correct the path, or write {SCHEME}{text} for the model on the Hugging Face hub"
    return "correct the path"


def parse_hub_reference(text: str) -> HubReference:
    """Take a reference apart. A slash in a revision is written `%2F`, except in `refs/convert/parquet` and `refs/pr/1`.

    Raises:
        HubError: not of the form, or a path that leaves the repository.
    """
    if text.startswith(OPEN_CLIP_SCHEME):
        text = SCHEME + text.removeprefix(OPEN_CLIP_SCHEME).removeprefix("//")
    match = _REFERENCE.fullmatch(text)
    if match is None:
        way = "; split and config are keys of their own: { files = ..., split = ..., config = ... }" if "?" in text else ""
        raise HubError(f"{shown(text)} is not of the form {FORM}{way}; correct it")
    path = (match["path"] or "").strip("/")
    if {".", ".."} & set(path.split("/")) or "\\" in path or "\0" in path:
        raise HubError(f"{shown(text)} names a path that leaves its repository; correct it")
    revision = unquote(match["revision"]) if match["revision"] else None
    return HubReference(bool(match["dataset"]), match["repo"], revision, path)


def local_path(name: str, base: Path) -> Path:
    """Return the file or folder that a task file names: on the hub, downloaded when it is not in the cache, or relative to
    `base`.

    Raises:
        HubError: it is not on the hub, needs a login, or is not in the cache and the hub cannot be reached.
    """
    root, path = rooted(name, base)
    return root / path


def rooted(name: str, base: Path) -> tuple[Path, str]:
    """Return the same for a name that may be a pattern, as a folder and the pattern within it."""
    if not is_hub_reference(name):
        return base, name
    from huggingface_hub import constants

    reference = parse_hub_reference(name)
    return _fetch(reference, constants.HF_HUB_CACHE), reference.path


@cache
def _fetch(reference: HubReference, cache_folder: str) -> Path:
    """Return the folder of a snapshot that holds what the reference names, asked of the hub once for a process."""
    if not reference.path:
        return _fetch_model(reference, cache_folder)
    pattern = reference.path.replace(CLASS, "*")
    # In the library's patterns `*` also stands for `/`, but `**/` not for no folder at all.
    patterns = _alternatives(pattern, reference)
    asked = [form for name in patterns for form in (name, f"{name}/*", name.replace("**/", ""))]
    folder = _snapshot(reference, cache_folder, asked)
    if not _has(folder, pattern, reference):
        raise HubError(
            f"the {reference} has no {reference.path} ({_there(reference, folder)}); correct the path, or, if it is the cache "
            f"that lacks it, run: {reference.download_command()}"
        )
    return folder


def list_data_set(reference: HubReference) -> tuple[list[str], Path]:
    """Return the names of all files of a data set, or of the part of it that the reference names, and the folder of what is in
    the cache, which now holds its `README.md`. Where the hub cannot be reached, they are those in the cache.

    Raises:
        HubError: as `local_path`.
    """
    from huggingface_hub import constants

    folder = _snapshot(reference, constants.HF_HUB_CACHE, ["README.md"])
    names, _ = _names(reference, folder)
    prefix = f"{reference.path}/" if reference.path else ""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)], folder


def fetch_files(reference: HubReference, names: Sequence[str], folder: str | None = None) -> Path:
    """Return where files of a data set are, with their names below, downloaded where they are not in the cache; and with them
    all below `folder`.

    Raises:
        HubError: as `local_path`.
    """
    from huggingface_hub import constants

    prefix = f"{reference.path}/" if reference.path else ""
    asked = [glob.escape(f"{prefix}{name}") for name in names]
    if folder is not None:
        asked.append(glob.escape(f"{prefix}{folder}/" if folder else prefix) + "*")
    root = _snapshot(reference, constants.HF_HUB_CACHE, asked) / prefix
    for name in names:
        if not (root / name).is_file():
            raise HubError(
                f"the {reference} has no {prefix}{name} in the cache {root}; where there is network, run: "
                f"{reference.download_command()}"
            )
    return root


def _alternatives(pattern: str, reference: HubReference) -> list[str]:
    """Return patterns without braces, which the library does not know."""
    try:
        return braces_expanded(pattern)
    except ValueError as error:
        raise _malformed(reference, error) from error


def _malformed(reference: HubReference, error: ValueError) -> HubError:
    return HubError(f"the path {shown(reference.path)} is malformed ({error}); correct it")


def _has(folder: Path, pattern: str, reference: HubReference) -> bool:
    """Say whether a snapshot has a folder or files that a pattern names."""
    try:
        return (folder / pattern).is_dir() or any(True for _ in matching_files(folder, pattern))
    except (FileError, OSError) as error:
        raise HubError(f"the {reference} is in the cache, but {error}") from error
    except ValueError as error:
        raise _malformed(reference, error) from error


def _there(reference: HubReference, folder: Path) -> str:
    """List files there are instead, those of the same kind first."""
    names, where = _names(reference, folder)
    suffix = PurePosixPath(reference.path).suffix
    names = sorted(names, key=lambda name: (not name.endswith(suffix), name))
    return f"{where} has {', '.join(names[:_LISTED]) or 'nothing'}" + (" ..." if len(names) > _LISTED else "")


def _names(reference: HubReference, folder: Path) -> tuple[list[str], str]:
    """Return the files on the hub or, where it cannot be reached, in the cache; and which of the two."""
    from huggingface_hub import HfApi

    kind = "dataset" if reference.dataset else "model"
    try:
        return HfApi().list_repo_files(reference.repo, repo_type=kind, revision=reference.revision), "it"
    except Exception:  # no network is no fault where the cache has what is needed
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], "the cache"


def _fetch_model(reference: HubReference, cache_folder: str) -> Path:
    folder = _snapshot(reference, cache_folder, [*_CONFIGS, *TOKENIZER_FILES, *_BESIDE_TOKENIZER])
    kinds = _OPEN_CLIP_WEIGHTS if is_open_clip_folder(folder) else _HUGGING_FACE_WEIGHTS
    for patterns in kinds:
        _snapshot(reference, cache_folder, list(patterns))
        if any(any(folder.glob(pattern)) for pattern in patterns):
            break
    else:
        kinds = ()
    if not kinds or not any((folder / name).is_file() for name in (HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG)):
        raise HubError(
            f"the {reference} lacks {HUGGING_FACE_CONFIG} or {OPEN_CLIP_CONFIG}, or weights beside it in one of "
            f"{', '.join(names[0] for names in (*_HUGGING_FACE_WEIGHTS, *_OPEN_CLIP_WEIGHTS))}, in the hub or in the cache "
            f"{folder}; name a CLIP model or a file within it, or fill the cache: {reference.download_command()}"
        )
    return folder


def _snapshot(reference: HubReference, cache_folder: str, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    kind = "dataset" if reference.dataset else "model"
    login = f"https://huggingface.co/{'datasets/' if reference.dataset else ''}{reference.repo}"
    try:
        folder = snapshot_download(
            reference.repo,
            repo_type=kind,
            revision=reference.revision,
            allow_patterns=patterns,
            cache_dir=cache_folder,
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"the {reference} is gated; ask for access on {login}, log in with `hf auth login`, and run the command again"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"the hub has no revision {reference.revision!r} of {reference.repo}; correct it") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"the hub has no {reference}, or it is private; correct the name, or log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubUnreachableError(
            f"the {reference} is not, or not all, in the cache {cache_folder}, and the hub cannot be reached (the network is "
            f"down, or HF_HUB_OFFLINE is set); where there is network, run: {reference.download_command()}"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"the hub cannot have the {reference} ({error}); correct the name") from error
    except PermissionError as error:
        raise HubError(f"{error.filename or cache_folder} {refusal(error)}, or name another cache in HF_HUB_CACHE") from error
    except Exception as error:  # the library's HTTP client, and so its errors, changes between versions
        raise HubUnreachableError(
            f"the {reference} could not be downloaded ({error!r:.200}); check the network and run again"
        ) from error
    return Path(folder)
