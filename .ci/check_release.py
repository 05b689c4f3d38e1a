"""Refuse a release that an index page, or a user, could not follow.

    python .ci/check_release.py dist v1.2.0

Looks at the source and the wheel in a folder: their version is the tag's, CHANGELOG.md has a section of it, the address of the
repository is filled in, and every link of the README leads somewhere from an index page. docs/release.md says what to do.
"""

import re
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def faults(dist: Path, tag: str, changelog: str) -> list[str]:
    """Return what keeps the files in `dist` from being released as `tag`, a sentence each."""
    names = sorted(path.name for path in dist.iterdir())
    wheels = sorted(dist.glob("*.whl"))
    if len(names) != 2 or len(wheels) != 1 or len(list(dist.glob("*.tar.gz"))) != 1:
        return [f"{dist} must hold one wheel and one source, and holds {', '.join(names) or 'nothing'}: run `make wheel`"]
    metadata = read_metadata(wheels[0])
    version = metadata["Version"]
    found = []
    if tag != f"v{version}":
        found.append(
            f"the tag is {tag} and the version {version}: set __version__ in mingle_edge/__init__.py, then tag v{version}"
        )
    if f"\n## [{version}]" not in changelog:
        found.append(f"CHANGELOG.md has no section '## [{version}]': rename '## [Unreleased]', with the date")
    if not any(url.startswith("Repository, https://") for url in metadata.get_all("Project-URL", [])):
        found.append("the package does not name its repository: write Repository under [project.urls] of pyproject.toml")
    if links := RELATIVE_LINK.findall(str(metadata.get_payload())):
        found.append(f"README's links lead nowhere from an index page: {', '.join(sorted(set(links)))}")
    return found


def read_metadata(wheel: Path) -> Message:
    """Return the core metadata of a wheel; the README is its payload."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    found = faults(Path(sys.argv[1]), sys.argv[2], (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    sys.exit("\n".join(f"error: {fault}" for fault in found) or 0)
