"""What the site adds to the pages of docs/: the pages at the repository's root, links that leave docs/, every error message."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # a hook is loaded by its path, without its folder

from error_messages import error_tables

LOG = logging.getLogger("mkdocs.hooks.site_pages")
ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""File at the root -> its page of the site."""
LONG_CELL = 40
"""A table with a cell of more characters is one of prose."""
ERROR_MESSAGES = "<!-- every error message: filled in by make docs -->"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^()\s#]*)(#[^()\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the repository's address from pyproject.toml, which has one once there is a public repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    config.repo_url = project.get("urls", {}).get("Repository")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the root, where GitHub looks for them."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=linked((ROOT / name).read_text(), ROOT, config.repo_url)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ into what a reader of the site can follow, and fill in the error messages."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    folder = (ROOT / "docs" / page.file.src_uri).parent
    markdown = linked(markdown, folder, config.repo_url, page.file.src_uri)
    if ERROR_MESSAGES in markdown:
        markdown = markdown.replace(ERROR_MESSAGES, error_tables())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark tables of prose, and give each cell the name of its column: on a phone their rows become cards."""
    return re.sub(r"<table>.*?</table>", lambda match: _prose(match[0]), html, flags=re.DOTALL)


def _prose(table: str) -> str:
    table = re.sub(r"<code>[^<]*</code>", lambda match: match[0].replace("\\|", "|"), table)  # as GitHub shows it
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    texts = [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows]
    if max((len(cell) for row in texts[1:] for cell in row), default=0) <= LONG_CELL:
        return table
    columns = itertools.cycle(texts[0])
    marked = re.sub(r"<td", lambda _: f'<td data-column="{next(columns).replace(chr(34), "&quot;")}"', table)
    return marked.replace("<table>", "<table data-prose>", 1)


def linked(markdown: str, folder: Path, repository: str | None, page: str = "") -> str:
    """Return a page with its links as they are from `page` of the site.

    A link into docs/ stays one, to the root's pages as well. A link to any other file of the repository leads to `repository`
    where the site knows one, and else is its text alone; one to nothing is warned of, which fails a strict build.
    """

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return match.group()
        path = Path(os.path.normpath(folder / target))
        if path.is_relative_to(ROOT / "docs"):
            inside = path.relative_to(ROOT / "docs").as_posix()
        elif path.parent == ROOT and path.name in ROOT_PAGES:
            inside = ROOT_PAGES[path.name]
        elif path == ROOT / "README.md":
            inside = "index.md"
        elif not path.exists():
            LOG.warning("%s: there is no %s", page or folder, target)
            return text
        elif repository:
            return f"{image}[{text}]({repository.rstrip('/')}/blob/main/{path.relative_to(ROOT).as_posix()}{anchor or ''})"
        else:
            return text
        return f"{image}[{text}]({os.path.relpath(inside, Path(page).parent)}{anchor or ''})"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else LINK.sub(link, part) for index, part in enumerate(parts))
