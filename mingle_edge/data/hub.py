"""Files of the Hugging Face hub, named `hf://owner/name` in a task file, through huggingface_hub's own cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mingle_edge.core.errors import FileError, HubError, shown
from mingle_edge.data.image_source import CLASS
from mingle_edge.files.file_pattern import matching_files
from mingle_edge.files.plain_file import refusal

SCHEME = "hf://"
FORM = "hf://owner/name[@revision][/path], with datasets/ before the owner for a data set"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REFERENCE = re.compile(
    rf"hf://(?P<dataset>datasets/)?(?P<repo>{_NAME}/{_NAME})(@(?P<revision>refs/(convert|pr)/[^/@]+|[^/@]+))?(/(?P<path>.*))?"
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_OLD_WEIGHTS = "pytorch_model.bin"
_CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_LISTED = 8  # files named in a message


@dataclass(frozen=True)
class HubReference:
    """A model or data set on the hub, or something inside it."""

    dataset: bool
    repo: str  # owner/name
    revision: str | None  # branch, tag or commit; None: the main branch
    path: str  # within the repository, may be a pattern; empty: the whole model

    def __str__(self) -> str:
        return f"{'data set' if self.dataset else 'model'} {self.repo}" + (f"@{self.revision}" if self.revision else "")

    def download_command(self) -> str:
        """Return what a user types to fill the cache by hand."""
        include = f' --include "{self.path.replace(CLASS, "*")}"' if self.path else ""
        kind = " --repo-type dataset" if self.dataset else ""
        return f"hf download {self.repo}{kind}" + (f" --revision {self.revision}" if self.revision else "") + include


def is_hub_reference(text: str) -> bool:
    """Say whether a value of a task file names something on the hub rather than a path."""
    return text.startswith(SCHEME)


def parse_hub_reference(text: str) -> HubReference:
    """Take a reference apart. A slash in a revision is written `%2F`, except in `refs/convert/parquet` and `refs/pr/1`.

    Raises:
        HubError: not of the form, or a path that leaves the repository.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise HubError(f"{shown(text)} is not of the form {FORM}; correct it")
    path = (match["path"] or "").strip("/")
    if {".", ".."} & set(path.split("/")) or "\\" in path or "\0" in path:
        raise HubError(f"{shown(text)} names a path that leaves its repository; correct it")
    if match["dataset"] and not path:
        raise HubError(f"{shown(text)} names a whole data set; add the files, such as /data/test-*.parquet")
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
    folder = _snapshot(reference, cache_folder, [pattern, f"{pattern}/*", pattern.replace("**/", "")])
    if not _has(folder, pattern, reference):
        raise HubError(
            f"the {reference} has no {reference.path} ({_there(reference, folder)}); correct the path, or, if it is the cache "
            f"that lacks it, run: {reference.download_command()}"
        )
    return folder


def _has(folder: Path, pattern: str, reference: HubReference) -> bool:
    """Say whether a snapshot has a folder or files that a pattern names."""
    try:
        return (folder / pattern).is_dir() or any(True for _ in matching_files(folder, pattern))
    except (FileError, OSError) as error:
        raise HubError(f"the {reference} is in the cache, but {error}") from error
    except ValueError as error:
        raise HubError(f"the path {shown(reference.path)} is malformed ({error}); correct it") from error


def _there(reference: HubReference, folder: Path) -> str:
    """List files there are instead, those of the same kind first: on the hub, or in the cache where it cannot be reached."""
    from huggingface_hub import HfApi

    kind = "dataset" if reference.dataset else "model"
    try:
        names = HfApi().list_repo_files(reference.repo, repo_type=kind, revision=reference.revision)
        where = "it has"
    except Exception:  # no more than a hint is lost
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        where = "the cache has"
    suffix = PurePosixPath(reference.path).suffix
    names = sorted(names, key=lambda name: (not name.endswith(suffix), name))
    return f"{where} {', '.join(names[:_LISTED]) or 'nothing'}" + (" ..." if len(names) > _LISTED else "")


def _fetch_model(reference: HubReference, cache_folder: str) -> Path:
    folder = _snapshot(reference, cache_folder, [*_CONFIGS, *_WEIGHTS])
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        _snapshot(reference, cache_folder, [_OLD_WEIGHTS])
    weights = (*_WEIGHTS, _OLD_WEIGHTS)
    if not (folder / _CONFIGS[0]).is_file() or not any(any(folder.glob(pattern)) for pattern in weights):
        raise HubError(
            f"the {reference} lacks {_CONFIGS[0]}, or weights in {_WEIGHTS[0]} or {_OLD_WEIGHTS}, in the hub or in the cache "
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
        raise HubError(
            f"the {reference} is not, or not all, in the cache {cache_folder}, and the hub cannot be reached (the network is "
            f"down, or HF_HUB_OFFLINE is set); where there is network, run: {reference.download_command()}"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"the hub cannot have the {reference} ({error}); correct the name") from error
    except PermissionError as error:
        raise HubError(f"{error.filename or cache_folder} {refusal(error)}, or name another cache in HF_HUB_CACHE") from error
    except Exception as error:  # the library's HTTP client, and so its errors, changes between versions
        raise HubError(f"the {reference} could not be downloaded ({error!r:.200}); check the network and run again") from error
    return Path(folder)
