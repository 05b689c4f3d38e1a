"""The Hugging Face hub's cache as huggingface_hub lays it out, written by hand. Shared by tests that run without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_repository(
    cache: Path, name: str, files: dict[str, Path | bytes], revision: str = "main", commit: str = COMMIT
) -> Path:
    """Put files into the cache as a download of `models/owner/name` or `datasets/owner/name`; returns the snapshot."""
    repository = cache / name.replace("/", "--")
    (repository / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    snapshot = repository / "snapshots" / commit
    for path, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(blob)
    return snapshot


def write_folder(cache: Path, name: str, folder: Path, revision: str = "main") -> Path:
    """Put all files of a folder into the cache."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return write_repository(cache, name, dict(files), revision)
