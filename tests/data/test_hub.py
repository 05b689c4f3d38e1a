"""Models and images named `hf://...`: from the hub's cache without a network, downloaded with one, refused with a next step."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
import torch
from hub_cache import COMMIT, write_folder, write_repository
from hub_parquet import labeled_pairs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_clip import hugging_face_model, write_hugging_face, write_images

from mingle_edge.checkpoints import check_checkpoint, open_checkpoint, read_architecture
from mingle_edge.checkpoints.class_embeddings import class_embeddings
from mingle_edge.checkpoints.text_tower import build_text_tower, logit_scale
from mingle_edge.clip.vision_tower import embed_images
from mingle_edge.core.errors import CheckpointError, HubError, HubUnreachableError
from mingle_edge.data.hub import HubReference, local_path, parse_hub_reference, rooted
from mingle_edge.data.image_source import ImageSource
from mingle_edge.merging.merge import merge

BACKBONE = "openai/clip-vit-base-patch32"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "reference"),
        [
            ("hf://owner/name", HubReference(False, "owner/name", None, "")),
            ("hf-hub:owner/name@v1", HubReference(False, "owner/name", "v1", "")),
            ("hf://o/n@v1.0/weights/model.safetensors", HubReference(False, "o/n", "v1.0", "weights/model.safetensors")),
            ("hf://datasets/o/n/", HubReference(True, "o/n", None, "")),
            ("hf://datasets/o/n/data/test-*.parquet", HubReference(True, "o/n", None, "data/test-*.parquet")),
            (
                "hf://datasets/o/n@refs/convert/parquet/default/test/*.parquet",
                HubReference(True, "o/n", "refs/convert/parquet", "default/test/*.parquet"),
            ),
            ("hf://o/n@refs/pr/12", HubReference(False, "o/n", "refs/pr/12", "")),
            ("hf://o/n@a%2Fb/x.bin", HubReference(False, "o/n", "a/b", "x.bin")),
            ("hf://datasets/o/n/<class>/*.png", HubReference(True, "o/n", None, "<class>/*.png")),
        ],
    )
    def test_parts(self, text: str, reference: HubReference) -> None:
        assert parse_hub_reference(text) == reference

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("hf://", "is not of the form"),
            ("hf://owner", "is not of the form"),
            ("hf://../name", "is not of the form"),
            ("hf://owner/name@", "is not of the form"),
            ("hf://datasets/owner/name?split=train", "split and config are keys of their own: { files = "),
            ("hf://owner/name/../../etc/passwd", "leaves its repository"),
            ("hf://datasets/o/n/a/../b", "leaves its repository"),
        ],
    )
    def test_malformed(self, text: str, message: str) -> None:
        with pytest.raises(HubError, match=message):
            parse_hub_reference(text)

    @given(st.text(alphabet="ab/.@%\\<>*-", max_size=20))
    def test_no_path_leaves_its_repository(self, rest: str) -> None:
        try:
            reference = parse_hub_reference(f"hf://owner/name{rest}")
        except HubError:
            return
        root = Path("/cache/snapshots/commit")
        assert Path(os.path.normpath(root / reference.path)).is_relative_to(root)

    def test_a_path_is_relative_to_the_task_file(self, tmp_path: Path) -> None:
        assert local_path("a/b.pt", tmp_path) == tmp_path / "a/b.pt"
        assert rooted("a/*.parquet", tmp_path) == (tmp_path, "a/*.parquet")


class TestCheckpoints:
    """A task as published: a vision tower alone, config.json and model.safetensors, under a name on the hub."""

    @pytest.fixture
    def models(self, hub: Path, tmp_path: Path) -> Path:
        write_hugging_face(tmp_path / "whole", seed=0)
        write_folder(hub, f"models/{BACKBONE}", tmp_path / "whole")
        for seed, (name, prefix) in enumerate({"sun397": True, "dtd": False}.items(), start=1):
            write_hugging_face(tmp_path / name, seed, "CLIPVisionModel", prefix=prefix)
            write_folder(hub, f"models/tanganke/clip-vit-base-patch32_{name}", tmp_path / name)
        return hub

    def test_a_published_tower_embeds_as_transformers_does(self, models: Path, tmp_path: Path) -> None:
        """With the projection of the backbone, which such a checkpoint lacks."""
        reference = f"hf://{BACKBONE}"
        architecture = read_architecture(reference, Path("nowhere"))
        backbone = open_checkpoint(reference, base=Path("nowhere"), architecture=architecture, model=reference)
        check_checkpoint(backbone, architecture, backbone=True)
        images = torch.randn(3, 3, architecture.image_size, architecture.image_size, generator=torch.Generator().manual_seed(0))
        whole = hugging_face_model(0)
        for seed, name in enumerate(("sun397", "dtd"), start=1):
            task = open_checkpoint(
                f"hf://tanganke/clip-vit-base-patch32_{name}", base=Path("nowhere"), architecture=architecture
            )
            check_checkpoint(task, architecture, backbone=False)
            parameters = dict(backbone.tensors()) | dict(task.tensors())
            with torch.no_grad():
                pooled = hugging_face_model(seed, "CLIPVisionModel")(images).pooler_output
                expected = whole.visual_projection(pooled)
            torch.testing.assert_close(embed_images(images, parameters, architecture), expected, rtol=1e-4, atol=1e-5)

    def test_text_tower_and_scale_come_from_the_hub(self, models: Path, tmp_path: Path) -> None:
        reference = f"hf://{BACKBONE}"
        ours = class_embeddings(build_text_tower(reference, None, Path("nowhere")), ["cat"], ["a {}."])
        theirs = class_embeddings(build_text_tower(str(tmp_path / "whole"), None, Path()), ["cat"], ["a {}."])
        assert torch.equal(ours, theirs)
        assert logit_scale(reference, None, Path("nowhere")) == logit_scale("whole", None, tmp_path)

    def test_merging_by_names_alone_equals_merging_folders(self, models: Path, tmp_path: Path) -> None:
        write_images(tmp_path / "seeds", count=6, seed=0)
        images = {f"seeds/{path.name}": path for path in (tmp_path / "seeds").iterdir()}
        write_repository(models, "datasets/owner/few", dict(images))

        def task_file(name: str, model: str, task: str, seeds: str) -> Path:
            path = tmp_path / f"{name}.toml"
            path.write_text(
                f'[backbone]\nmodel = "{model}"\n[settings]\nrank = 4\n[[task]]\nname = "a"\nweights = "{task}"\n'
                f'seeds = "{seeds}"\nclasses = ["cat", "dog"]\n'
            )
            return path

        named = task_file(
            "named", f"hf://{BACKBONE}", "hf://tanganke/clip-vit-base-patch32_dtd", "hf://datasets/owner/few/seeds"
        )
        local = task_file("local", "whole", "dtd", "seeds")
        ours, theirs = (merge(path, tmp_path / "merged" / path.stem) for path in (named, local))
        assert ours.tasks[0].source == "hf://tanganke/clip-vit-base-patch32_dtd"
        assert ours.tasks[0].source_sha256 == theirs.tasks[0].source_sha256
        for name in ("backbone", "router", "experts/a", "heads/a"):
            assert (ours.path / f"{name}.safetensors").read_bytes() == (theirs.path / f"{name}.safetensors").read_bytes()

    def test_a_file_and_a_revision(self, hub: Path, tmp_path: Path) -> None:
        write_repository(hub, "models/o/n", {"sub/a.safetensors": b"old"})
        other = "f" * 40
        write_repository(hub, "models/o/n", {"sub/a.safetensors": b"new"}, revision="v2", commit=other)
        for revision, content in {"": b"old", "@main": b"old", "@v2": b"new", f"@{other}": b"new"}.items():
            assert local_path(f"hf://o/n{revision}/sub/a.safetensors", tmp_path).read_bytes() == content

    def test_pytorch_weights_serve_where_there_are_no_others(self, hub: Path, tmp_path: Path) -> None:
        write_repository(hub, "models/o/n", {"config.json": b"{}", "pytorch_model.bin": b"x"})
        assert (local_path("hf://o/n", tmp_path) / "pytorch_model.bin").read_bytes() == b"x"


class TestImages:
    def test_folders_of_classes(self, hub: Path, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            write_images(tmp_path / "set/test" / name, count=2, seed=0)
        write_folder(hub, "datasets/owner/pets", tmp_path / "set")
        source = ImageSource("hf://datasets/owner/pets/test/<class>/*.png")
        found = labeled_pairs(source, Path("nowhere"), ["dog", "cat"])
        assert [(path.parent.name, path.name, label) for path, label in found] == [
            ("dog", "000.png", 0),
            ("dog", "001.png", 0),
            ("cat", "000.png", 1),
            ("cat", "001.png", 1),
        ]
        with Image.open(found[0][0]) as image:
            assert image.size == (40, 36)


class TestRefusedWithoutNetwork:
    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("hf://o/gone", "hf download o/gone$"),
            ("hf://o/gone/model.safetensors", 'hf download o/gone --include "model.safetensors"$'),
            ("hf://datasets/o/gone@v1/t/<class>/*.png", 'hf download o/gone --repo-type dataset --revision v1 --include "t/'),
            ("hf://o/n@v9", "HF_HUB_OFFLINE is set"),
        ],
    )
    def test_not_in_the_cache(self, hub: Path, tmp_path: Path, reference: str, message: str) -> None:
        write_repository(hub, "models/o/n", {"config.json": b"{}"})
        with pytest.raises(HubUnreachableError, match=message):
            local_path(reference, tmp_path)

    def test_a_part_of_a_model_is_not_taken_for_it(self, hub: Path, tmp_path: Path) -> None:
        write_repository(hub, "models/o/n", {"config.json": b"{}", "tokenizer.json": b"{}"})
        with pytest.raises(HubError, match=r"model o/n lacks config\.json or .*, or weights .*hf download o/n"):
            local_path("hf://o/n", tmp_path)
        with pytest.raises(HubError, match=r"has no x\.bin \(the cache has config\.json, tokenizer\.json\)"):
            local_path("hf://o/n/x.bin", tmp_path)

    def test_a_pattern_that_is_none(self, hub: Path, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set/a.parquet").touch()
        write_folder(hub, "datasets/o/n", tmp_path / "set")
        with pytest.raises(HubError, match=r"the path 'a\*\*\.parquet' is malformed"):
            rooted("hf://datasets/o/n/a**.parquet", tmp_path)

    def test_a_cache_that_may_not_be_read_is_no_missing_network(
        self, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def locked(*arguments: object, **options: object) -> str:
            raise PermissionError(13, "Permission denied", str(hub / "models--o--n"))

        monkeypatch.setattr(huggingface_hub, "snapshot_download", locked)
        with pytest.raises(
            HubError, match=r"models--o--n may not be read \(permission denied\).*, or name another cache"
        ) as raised:
            local_path("hf://o/n/a.safetensors", tmp_path)
        assert "network" not in str(raised.value)

    def test_a_configuration_is_still_compared(self, hub: Path, tmp_path: Path) -> None:
        write_hugging_face(tmp_path / "whole")
        write_folder(hub, "models/o/n", tmp_path / "whole")
        architecture = read_architecture("hf://o/n", tmp_path)
        config = json.loads((tmp_path / "whole/config.json").read_text())
        config["vision_config"]["hidden_act"] = "gelu"
        (tmp_path / "whole/config.json").write_text(json.dumps(config))
        write_folder(hub, "models/o/gelu", tmp_path / "whole")
        with pytest.raises(CheckpointError, match="activation gelu instead of quick_gelu"):
            open_checkpoint("hf://o/gelu", base=tmp_path, architecture=architecture)


CONTENT = {
    "config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same again, which nobody needs",
    "flax_model.msgpack": b"and again",
}


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download asks for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append(path)
        if "/gated" in path:
            self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
        elif "/gone" in path:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.endswith("/revision/v9"):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif "/broken" in path:
            self.send(500, b"")
        elif "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in CONTENT.items()
            ]
            self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/"):
            record = {"id": "o/n", "sha": COMMIT, "siblings": [{"rfilename": name} for name in CONTENT]}
            self.send(200, json.dumps(record).encode(), {"Content-Type": "application/json"})
        else:
            data = CONTENT[path.rsplit("/", 1)[-1]]
            self.send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def online(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process whose hub is a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    FakeHub.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    yield environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    server.shutdown()
    server.server_close()


def resolved(references: list[str], environment: dict[str, str]) -> list[str]:
    """The path that each reference is found at, or what is said of it, in a process of its own."""
    code = """
import sys
from pathlib import Path
from mingle_edge.core.errors import HubError
from mingle_edge.data.hub import local_path
for reference in sys.argv[1:]:
    try:
        print(local_path(reference, Path()))
    except HubError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, *references], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return result.stdout.splitlines()


def test_downloads_what_is_needed_once_and_then_needs_no_network(online: dict[str, str], tmp_path: Path) -> None:
    first, file = resolved(["hf://o/n", "hf://o/n/model.safetensors"], online)
    assert {path.name for path in Path(first).iterdir()} == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert Path(file).read_bytes() == b"weights"
    asked = len(FakeHub.asked)
    assert resolved(["hf://o/n"], online | {"HF_HUB_OFFLINE": "1"}) == [first]
    assert len(FakeHub.asked) == asked


def test_what_the_hub_refuses_is_said_with_a_next_step(online: dict[str, str]) -> None:
    references = ["hf://o/gated", "hf://datasets/o/gone/a.parquet", "hf://o/n@v9", "hf://o/broken", "hf://o/n/x.bin"]
    gated, gone, revision, broken, path = resolved(references, online)
    assert gated.startswith(
        "the model o/gated is gated; ask for access on https://huggingface.co/o/gated, log in with `hf auth"
    )
    assert gone.startswith("the hub has no data set o/gone, or it is private; correct the name, or log in with `hf auth login`")
    assert revision == "the hub has no revision 'v9' of o/n; correct it"
    assert broken.startswith("the model o/broken ")
    assert "hf download o/broken" in broken
    assert path.startswith(
        "the model o/n has no x.bin (it has pytorch_model.bin, config.json, flax_model.msgpack, model.safetensors, "
    )
