"""The README as an index page shows it: its links to files of the repository lead to the repository, at this release."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Reads README.md into the metadata; without an address of the repository its links stay as they are."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README of `metadata`, the table `project` of pyproject.toml."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        if repository:
            text = absolute_links(text, repository.rstrip("/"), f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to files at a tag of a repository, and images to what these files hold."""
    return _LINK.sub(lambda link: f"{link[1]}{link[2]}({repository}/{'raw' if link[1] else 'blob'}/{tag}/{link[3]})", text)
