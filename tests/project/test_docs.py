"""The documentation: it builds, leads nowhere that is not there, loads nothing from outside, and says what the code does."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from click.testing import CliRunner

import mingle_edge
import mingle_edge_export
import mingle_edge_runtime
import mingle_edge_server
from mingle_edge.cli import COMMANDS, main
from mingle_edge.cli.exit_codes import ExitCode
from mingle_edge.data import task_file, task_file_images
from mingle_edge.data.settings import OFFICIAL, Settings
from mingle_edge_export import ExportOptions, export_bundle

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
AT_ROOT = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src"}
"""Elements that load what their attribute names; `link` loads by some of its relations alone."""
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def hook(name: str) -> ModuleType:
    """Import a module of docs/hooks as its scripts do."""
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS / "hooks"))


class Loads(HTMLParser):
    """Everything that a page loads, every element's id, and every link."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        self.classes |= set(given.get("class", "").split())
        if tag == "link" and not set(given.get("rel", "").split()) & {"prev", "next", "canonical"}:
            self.loaded.append(given["href"])
        elif LOADING.get(tag, "") in given:
            self.loaded.append(given[LOADING[tag]])
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Loads]:
    """Build the site as `make docs` does, and return its pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert built.returncode == 0, built.stderr
    return {path: Loads(path.read_text()) for path in folder.rglob("*.html")}


def test_no_page_loads_anything_from_outside(site) -> None:
    assert len(site) > len(PAGES)
    for path, page in site.items():
        outside = [url for url in page.loaded if re.match(r"([a-z]+:)?//", url)]
        assert not outside, path
        assert "mermaid" not in page.classes, f"{path}: the theme fetches a script to draw it"
        assert any(url.endswith("iframe-worker.js") for url in page.loaded), f"{path}: its search runs on a server alone"


def test_the_site_read_from_a_disk_in_a_browser(site, chromium) -> None:
    """Without a server nothing is asked of a network, no page is wider than a phone, and the search finds."""
    folder = next(path.parent for path in site if path.name == "index.html")
    names = [str(path.relative_to(folder)) for path in site]
    told = chromium(Path(__file__).with_name("site.mjs"), folder, *names)
    assert (told["asked"], told["wide"]) == ([], [])
    assert told["found"].partition("#")[0].endswith("choose.html?h=rank")


def test_every_link_of_the_site_leads_to_an_element_that_is_there(site) -> None:
    seen = 0
    for path, page in site.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target) or path.name == "404.html":
                continue
            there = (path.parent / target).resolve() if target else path
            assert there.exists(), f"{path.name}: {link}"
            if anchor and there in site:
                seen += 1
                assert anchor in site[there].ids, f"{path.name}: {link}"
    assert seen > 100


@pytest.mark.parametrize("page", [*AT_ROOT, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_of_the_repository(page: Path) -> None:
    """As on GitHub, where nothing builds the site."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        name = target.partition("#")[0]
        if name and not re.match(r"[a-z]+:", name):
            assert (page.parent / name).exists(), target


@pytest.mark.parametrize("page", ["settings.md", "commands.md"])
def test_tables_are_those_that_the_code_gives(page: str) -> None:
    assert hook("reference").written(page) == (DOCS / page).read_text(), "run make docs, and commit the page"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the first table under a heading, by its first cell."""
    section = (DOCS / page).read_text().split(f"{heading}\n", 1)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| ")]
    return {row[0].strip("`| "): row for row in cells[1:] if not row[0].startswith("---")}


def test_every_setting_and_key_is_in_the_reference() -> None:
    settings = rows("settings.md", "### `[settings]`")
    assert set(settings) == set(Settings.__dataclass_fields__)
    assert settings["rank"][1:3] == ['whole number or `"auto"`, 1 to 2^16', '`"auto"`']
    assert settings["relaxation"][3] == f"`{OFFICIAL.relaxation}`"
    assert set(rows("settings.md", "### `[backbone]`")) == set(task_file._BACKBONE_KEYS)
    assert set(rows("settings.md", "### `[[task]]`, once for each fine-tuned model")) == set(task_file._TASK_KEYS)
    assert set(rows("settings.md", "### Images: `seeds`, `test` and `tune`")) == set(task_file_images._KEYS)
    assert len(rows("settings.md", "## Options of an export")) >= len(ExportOptions.__dataclass_fields__)
    assert all(f"\n## {name}\n" in (DOCS / "commands.md").read_text() for name in COMMANDS)


def test_the_reference_has_every_public_name(site) -> None:
    for package in (mingle_edge, mingle_edge_export, mingle_edge_runtime, mingle_edge_server):
        (page,) = (page for path, page in site.items() if path.name == f"{package.__name__}.html")
        missing = [name for name in package.__all__ if not any(id.endswith(f".{name}") for id in page.ids)]
        assert not missing


def error_names() -> Iterator[str]:
    """Every public error class of the packages."""
    for package in (mingle_edge, mingle_edge_export, mingle_edge_runtime, mingle_edge_server):
        yield from (name for name in package.__all__ if name.endswith("Error"))


def test_troubleshooting_names_every_error_and_only_messages_that_the_code_has() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    assert [name for name in error_names() if f"`{name}`" not in text] == []
    packages = hook("error_messages").PACKAGES
    sources = (ast.parse(path.read_text()) for package in packages for path in (ROOT / package).rglob("*.py"))
    constants = (node.value for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Constant))
    said = "\n".join(" ".join(value.split()) for value in constants if isinstance(value, str))
    quoted = [
        part.strip()
        for line in text.split("## No error")[0].splitlines()
        if line.startswith("| `")
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
        if not re.fullmatch(r"\w+Error|mingle-edge \w+", message)
        for part in message.split("…")
    ]
    assert len(quoted) > 100
    assert [part for part in quoted if part.strip(" .:;,") not in said] == []


def test_every_message_is_read_from_the_source(tmp_path, monkeypatch) -> None:
    messages = hook("error_messages")
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text('''
class EdgeError(Exception):
    """All errors."""
class CutError(EdgeError):
    """A file is cut."""
class _InnerError(Exception):
    """Nobody sees it."""
def refusal(path, rule) -> CutError:
    return CutError(f"{path} must be {rule}; copy it again")
def read(path):
    if path == "a":
        raise CutError(f"{path} has {len(path)} bytes: export the bundle again")
    if path == "b":
        raise CutError(f"{path} ends within a picture")
    raise refusal(path, f"one of {1, 2} things")
''')
    monkeypatch.setattr(messages, "ROOT", tmp_path)
    monkeypatch.setattr(messages, "PACKAGES", ("package",))
    table = [line for line in messages.error_tables().splitlines() if line.startswith("| …")]
    assert sorted(table) == [
        "| … ends within a picture | mend what the message names |",
        "| … has … bytes | export the bundle again |",
        "| … must be one of … things | copy it again |",
    ]


def test_the_drawings_of_the_rooms_have_the_arrows_of_the_code() -> None:
    """Those of `tests/project/test_rooms.py`, without the ones that a longer path implies."""
    for folder in ("mingle_edge", "export/mingle_edge_export", "runtime/mingle_edge_runtime", "server/mingle_edge_server"):
        package = folder.split("/")[-1]
        rooms = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        arrows = {
            (room, other)
            for room in rooms
            for path in (ROOT / folder / room).rglob("*.py")
            for other in re.findall(rf"(?:from|import) {package}\.(\w+)", path.read_text())
            if other in rooms - {room}
        }

        def reached(room: str, arrows: set[tuple[str, str]]) -> set[str]:
            found: set[str] = set()
            ahead = {room}
            while ahead := {other for start, other in arrows if start in ahead} - found:
                found |= ahead
            return found

        needed = {(room, other) for room, other in arrows if other not in reached(room, arrows - {(room, other)})}
        drawing = (DOCS / "images" / "rooms" / f"{package}.svg").read_text()
        drawn = set(re.findall(r'"L_([a-z]+)_+([a-z]+)_+0"', drawing))
        assert drawn == needed, f"correct docs/images/rooms/{package}.mmd, and draw it again"


def test_a_bundle_is_updated_by_the_files_that_fleet_names(image_model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_bundle(image_model.path, "v1", ExportOptions(tasks=["task0", "task1"]))
    export_bundle(image_model.path, "v2")
    page = (DOCS / "fleet.md").read_text()
    Path("changed.py").write_text(re.search(r"```python\n(# changed.py.*?)```", page, re.DOTALL)[1])
    steps = re.findall(r"^(python changed.py.*|tar -cf .*)$", page, re.MULTILINE)
    assert len(steps) == 2
    shell = " && ".join(steps).replace("python ", f"{sys.executable} ")
    subprocess.run(shell, shell=True, check=True, timeout=60)
    Path("device").mkdir()
    Path("v1").rename("device/v1")
    Path("update.tar").rename("device/update.tar")
    (on_device,) = re.findall(r"^(cp -r v1 v2 && tar .*)$", page, re.MULTILINE)
    subprocess.run(on_device, shell=True, check=True, timeout=60, cwd="device")
    sent = Path("update.txt").read_text().split()
    assert {"bundle.json", "experts/task2.onnx_adapter", "heads/task2.npy"} <= set(sent)
    assert not {"backbone.bin", "tower.onnx", "dense.onnx", "experts/task0.onnx_adapter"} & set(sent)
    for path in Path("v2").rglob("*.*"):
        assert (Path("device") / path).read_bytes() == path.read_bytes()
    with mingle_edge_runtime.EdgeModel.open("device/v2", verify=True) as model:
        assert model.tasks == ("task0", "task1", "task2")


def test_what_is_deployed_is_there() -> None:
    dockerfile = (ROOT / "examples/deploy/Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY ([^-].*)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    built = re.search(r"packages = (\[.*\])", (ROOT / "pyproject.toml").read_text())[1]
    assert {"pyproject.toml", *(package.split("/")[0] for package in ast.literal_eval(built))} <= set(copied)
    container = json.loads(re.search(r"^CMD (.*)$", dockerfile, re.MULTILINE)[1])
    unit = (ROOT / "examples/deploy/mingle-edge.service").read_text()
    service = re.search(r"^ExecStart=\S+/mingle-edge (.*)$", unit, re.MULTILINE)[1].split()
    for command, *arguments in (container, service):
        said = CliRunner().invoke(main, [command, "--help"])
        assert said.exit_code == 0, command
        assert all(option in said.output for option in arguments if option.startswith("-")), arguments
    never_mended = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)[1].split()
    assert set(map(int, never_mended)) == {ExitCode.USAGE, ExitCode.INPUT, ExitCode.DAMAGED, ExitCode.DIFFERS}


def test_the_citation_names_this_release() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mingle_edge.__version__
    assert citation["references"][0]["title"] in (DOCS / "citation.md").read_text().replace("{MINGLE}", "MINGLE")
