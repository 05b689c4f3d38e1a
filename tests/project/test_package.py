"""The package: what is in it, that it runs alone, that it can be released, and that nothing says it is on an index already."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from trove_classifiers import classifiers

import mingle_edge

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "mingle_edge": ROOT / "mingle_edge",
    "mingle_edge_export": ROOT / "export/mingle_edge_export",
    "mingle_edge_runtime": ROOT / "runtime/mingle_edge_runtime",
    "mingle_edge_server": ROOT / "server/mingle_edge_server",
}
BINARY = {".png", ".onnx", ".npz", ".safetensors", ".gif", ".jpg", ".ico", ".wasm"}
ADDRESS = "https://example.org/someone/mingle-edge"


def build(source: Path, target: Path, *options: str) -> Path:
    """Build what a folder of source holds, and return where it is."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *options]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return target


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder that people write, relative to it."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        made = any(part in ("__pycache__", "node_modules") or part.startswith(".") for part in name.parts)
        if path.is_file() and not made:
            yield name


def release_check() -> ModuleType:
    """`.ci/check_release.py`."""
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci/check_release.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source, as `make wheel` leaves them."""
    return build(ROOT, tmp_path_factory.mktemp("built") / "dist")


@pytest.fixture(scope="module")
def source(built, tmp_path_factory) -> Path:
    """What the source unpacks to."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(built) -> Message:
    """Of the wheel."""
    return release_check().read_metadata(next(built.glob("*.whl")))


def test_the_wheel_holds_the_four_packages_whole_and_nothing_else(built) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = archive.namelist()
    parts: dict[str, set[str]] = {}
    for name in names:
        first, _, rest = name.partition("/")
        parts.setdefault(first, set()).add(rest)
    assert parts.pop(f"mingle_edge-{mingle_edge.__version__}.dist-info") >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}
    assert parts == {name: {path.as_posix() for path in files(folder)} for name, folder in PACKAGES.items()}
    assert all("py.typed" in parts[name] for name in PACKAGES)
    assert any(name.endswith(".html") for name in parts["mingle_edge"])


def test_the_source_builds_the_same_wheel_and_holds_docs_and_examples(built, source, tmp_path) -> None:
    (again,) = build(source, tmp_path, "--target", "wheel").iterdir()
    assert again.read_bytes() == (built / again.name).read_bytes()
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"} <= {path.name for path in source.iterdir()}
    for folder in ("docs", "examples"):
        assert (written := set(files(ROOT / folder)))
        assert set(files(source / folder)) == written


def test_the_wheel_alone_serves_a_bundle(built, image_bundle, tmp_path) -> None:
    """In an environment that has what it depends on, and neither this clone nor anything installed from it."""
    venv.create(tmp_path / "fresh", symlinks=True)
    python = tmp_path / "fresh/bin/python"
    wheel = next(built.glob("*.whl"))
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True, timeout=120)
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}  # whose .pth files count for nothing there

    def said(*command: object) -> str:
        command = tuple(map(str, command))
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    assert said(tmp_path / "fresh/bin/mingle-edge", "--version") == f"mingle-edge, version {mingle_edge.__version__}\n"
    where = said(python, "-c", "import mingle_edge_runtime; print(mingle_edge_runtime.__file__)")
    assert where.startswith(f"{tmp_path}/fresh/")
    assert "outputs: all as recorded" in said(tmp_path / "fresh/bin/mingle-edge", "verify", image_bundle)


def test_classifiers_are_real_and_the_license_is_said_once(metadata) -> None:
    said = metadata.get_all("Classifier")
    assert set(said) <= classifiers
    assert said == sorted(set(said))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not [name for name in said if name.startswith("License")]  # PEP 639
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tried = workflow["jobs"]["device"]["strategy"]["matrix"]["python"]
    assert [name.rpartition(" ")[2] for name in said if re.search(r":: 3\.\d+$", name)] == tried


class TestRelease:
    def test_one_that_nobody_filled_in_is_refused(self, built, metadata) -> None:
        version = mingle_edge.__version__
        tag, changelog, address, links = release_check().faults(built, "v99", "# Changelog\n\n## [Unreleased]\n")
        assert (
            tag == f"the tag is v99 and the version {version}: set __version__ in mingle_edge/__init__.py, then tag v{version}"
        )
        assert changelog.startswith(f"CHANGELOG.md has no section '## [{version}]'")
        assert address.startswith("the package does not name its repository: write Repository under [project.urls]")
        assert links.startswith("README's links lead nowhere from an index page: ")
        assert "docs/method.md" in links

    def test_no_wheel_is_refused(self, tmp_path) -> None:
        assert "must hold one wheel and one source, and holds nothing" in release_check().faults(tmp_path, "v1", "")[0]

    def test_with_the_address_every_link_leads_to_a_file_there(self, source, tmp_path) -> None:
        shutil.copytree(source, tmp_path / "clone")
        (tmp_path / "clone/PKG-INFO").unlink()  # in which the README is there already
        project = tmp_path / "clone/pyproject.toml"
        text, filled_in = re.subn(r"^# Repository = .*$", f'Repository = "{ADDRESS}"', project.read_text(), flags=re.M)
        assert filled_in == 1
        project.write_text(text)
        build(tmp_path / "clone", tmp_path / "dist")
        version, check = mingle_edge.__version__, release_check()
        assert check.faults(tmp_path / "dist", f"v{version}", f"\n## [{version}] - 2030-01-01\n") == []
        text = str(check.read_metadata(next((tmp_path / "dist").glob("*.whl"))).get_payload())
        links = re.findall(rf"(!?)\[[^\]]*\]\({ADDRESS}/(blob|raw)/v{re.escape(version)}/([^)#]+)", text)
        assert len(links) > 20
        for image, how, name in links:
            assert how == ("raw" if image else "blob")
            assert (ROOT / name).exists(), name

    @pytest.mark.parametrize("name", ["ci", "release"])
    def test_workflows_take_actions_at_a_commit_and_ask_for_no_more_than_they_need(self, name: str) -> None:
        text = (ROOT / f".github/workflows/{name}.yml").read_text()
        workflow = yaml.safe_load(text)
        used = re.findall(r"uses: (.*)", text)
        assert used
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used), used
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                for program in re.findall(r"(?:^| )(\.ci/\S+)", step.get("run", ""), re.M):
                    assert (ROOT / program).exists(), program

    def test_what_was_tested_is_what_is_published(self) -> None:
        jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
        runs = [step.get("run", "") for step in jobs["build"]["steps"]]
        assert (
            runs.index("make wheel") < runs.index('python .ci/check_release.py dist "$GITHUB_REF_NAME"') < runs.index(".ci/run")
        )
        publish = jobs["publish"]
        assert (publish["needs"], publish["environment"], publish["permissions"]) == ("build", "pypi", {"id-token": "write"})
        assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
            "actions/download-artifact",
            "pypa/gh-action-pypi-publish",
        ]


def test_nothing_says_that_the_package_is_on_an_index() -> None:
    """Until it is, somebody else may take the name, and whoever follows such a line installs what they put there."""
    from_index = re.compile(
        r"(pip3?|uv|pipx) (install|add)\b[^\n#`&;|]*[\s\"']mingle[-_]edge(?![-.*\w/]*\.whl)|mingle[-_]edge\["
    )
    assert from_index.search("pip install mingle-edge")
    assert from_index.search("pip install --upgrade 'mingle-edge[cpu]'")
    assert not from_index.search('pip install ".[cpu]"  # the device side of mingle-edge')
    assert not from_index.search('pip install "$(ls mingle_edge-*.whl)[cpu]"')
    folders = ("docs", "examples", "devices", "benchmarks", "research", ".github", ".ci", *map(str, PACKAGES.values()))
    texts = [*ROOT.glob("*.*"), *(ROOT / folder / path for folder in folders for path in files(ROOT / folder))]
    texts = [path for path in texts if path.is_file() and path.suffix not in BINARY]
    assert len(texts) > 300
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if from_index.search(line)
    ]
    assert wrong == []
