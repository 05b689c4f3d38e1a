"""The commands for bundles: what they print, and one line with an exit code for what a user can put right."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_bundle import TASKS, Weights, images, relist, write_image_bundle, write_layer_bundle

from mingle_edge.cli import main
from mingle_edge.cli.byte_size import format_bytes
from mingle_edge.cli.progress_bar import ProgressBar
from mingle_edge.cli.run import command
from mingle_edge_runtime import EdgeModel
from mingle_edge_runtime.bundle.bundle import Bundle
from mingle_edge_runtime.ort.processor import read_processor
from mingle_edge_runtime.profile.distribution import latency


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A bundle of each scope, another of the image scope, and a red and a black picture."""
    root = tmp_path_factory.mktemp("cli")
    write_image_bundle(root / "image", Weights())
    write_layer_bundle(root / "layer", Weights())
    write_image_bundle(root / "other", Weights(1))
    (root / "pictures").mkdir()
    for name, picture in zip(("red", "black"), images(0, 3), strict=True):
        Image.fromarray(picture).save(root / f"pictures/{name}.png")
    return root


def call(*arguments: object) -> Result:
    """Run the command line."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_run_shows_route_and_labels(folder) -> None:
    result = call("run", folder / "image", folder / "pictures/red.png", folder / "pictures/black.png", "--top", 2)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"{folder}/pictures/red.png  (experts: red 1.00)"
    assert lines[1].split()[1:] == ["red", "red", "2"]
    assert lines[3] == f"{folder}/pictures/black.png  (experts: none, plain backbone)"
    assert len(lines) == 6


class TestImagesOfARun:
    """What names images: files, folders, patterns, standard input."""

    @pytest.fixture
    def pictures(self, tmp_path, folder) -> Path:
        """A folder with a folder in it, a file that is no image, and a broken one."""
        (tmp_path / "in/deeper").mkdir(parents=True)
        for name in ("in/b.png", "in/deeper/a.png"):
            (tmp_path / name).write_bytes((folder / "pictures/red.png").read_bytes())
        (tmp_path / "in/notes.txt").write_text("no image")
        (tmp_path / "in/photo.heic").write_bytes(b"no format that is read")
        return tmp_path

    def run(self, folder: Path, *arguments: object, stdin: str = "") -> tuple[list[dict], Result]:
        """What `run --json` said of each image, and how it ended."""
        result = CliRunner().invoke(main, ["run", str(folder / "image"), "--json", *map(str, arguments)], input=stdin)
        return [json.loads(line) for line in result.stdout.splitlines()], result

    def test_a_folder_is_all_images_in_it_and_one_that_cannot_be_read_is_named(self, folder, pictures) -> None:
        records, result = self.run(folder, pictures / "in")
        assert [record["image"] for record in records] == [
            f"{pictures}/in/{name}" for name in ("b.png", "deeper/a.png", "photo.heic")
        ]
        assert [record.get("label") for record in records] == ["red 2", "red 2", None]
        assert records[2] == {"image": f"{pictures}/in/photo.heic", "error": records[2]["error"]}
        assert result.stderr == f"error: {records[2]['error']}\n"
        assert result.exit_code == 1

    def test_a_pattern_that_the_shell_left_alone_is_matched(self, folder, pictures) -> None:
        records, result = self.run(folder, f"{pictures}/**/*.png", f"{pictures}/*.jpg")
        assert [record["image"] for record in records[1:]] == [f"{pictures}/in/b.png", f"{pictures}/in/deeper/a.png"]
        assert records[0] == {"image": f"{pictures}/*.jpg", "error": f"no file matches {pictures}/*.jpg; correct the pattern"}
        assert result.exit_code == 1

    def test_a_file_whose_name_looks_like_a_pattern_is_a_file(self, folder, pictures) -> None:
        (pictures / "in/b.png").rename(pictures / "in/[b].png")
        records, _ = self.run(folder, pictures / "in/[b].png")
        assert [record["label"] for record in records] == ["red 2"]

    def test_names_come_from_standard_input(self, folder, pictures) -> None:
        names = [pictures / "in/b.png", folder / "pictures/black.png", pictures / "gone.png", pictures / "in/deeper/a.png"]
        records, result = self.run(folder, "-", stdin=f"{names[0]}\n\n{names[1]}\r\n{names[2]}\n{names[3]}")
        assert [record["image"] for record in records] == list(map(str, names))
        assert ["error" in record for record in records] == [False, False, True, False]
        assert result.exit_code == 1

    def test_no_name_at_all_is_an_error(self, folder, tmp_path) -> None:
        records, result = self.run(folder, "-", stdin="\n")
        assert (records, result.exit_code) == ([], 3)
        assert result.stderr == "error: no image was named on standard input; write one name a line\n"
        (tmp_path / "empty").mkdir()
        records, result = self.run(folder, tmp_path / "empty")
        assert (len(records), result.exit_code) == (1, 3)
        assert f"{tmp_path}/empty holds no image" in result.stderr

    def test_an_answer_does_not_wait_for_the_next_name(self, folder, pictures) -> None:
        """In a process of its own: its standard input stays open, and gives the second name when the first answer is there."""
        command = [sys.executable, "-c", "from mingle_edge.cli import main; main()", "run", folder / "image", "-", "--json"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            for name in ("in/b.png", "in/deeper/a.png"):
                process.stdin.write(f"{pictures / name}\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["image"] == str(pictures / name)
            process.send_signal(signal.SIGINT)
            said = "\ninterrupted; [12] of the 2 images named so far done, and what was printed is complete\n"
            assert re.fullmatch(said, process.stderr.read())  # an answer is done when it was printed, perhaps just now
            assert process.wait(timeout=20) == 130

    def test_doubtful_images_get_no_label(self, folder) -> None:
        records, result = self.run(folder, folder / "pictures", "--reject-below", 0.5)
        assert [(record["label"], record["rejected"]) for record in records] == [(None, True), ("red 2", False)]
        assert result.exit_code == 0
        shown = call("run", folder / "image", folder / "pictures", "--reject-below", 0.5).output
        assert "black.png  (rejected, no label is probable enough; experts: none, plain backbone)\n" in shown

    def test_an_interruption_says_what_is_done(self, folder, pictures, monkeypatch) -> None:
        printed = []

        def echo(text: str, *arguments: object, **options: object) -> None:
            if len(printed) == 2 and not options.get("err"):
                raise KeyboardInterrupt
            printed.append(text)

        monkeypatch.setattr("mingle_edge.cli.run.click.echo", echo)
        _, result = self.run(folder, *[folder / "pictures/red.png"] * 20)
        assert result.exit_code == 130
        assert [json.loads(line)["label"] for line in printed[:2]] == ["red 2"] * 2
        assert printed[2:] == ["\ninterrupted; 2 of 20 images done, and what was printed is complete"]


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_run_json_holds_everything(folder, scope: str) -> None:
    picture = folder / "pictures/red.png"
    options = ["--task", "blue", "--head", "green", "--json", "--threads", 1, "--low-memory"]
    result = call("run", folder / scope, picture, *options)
    record = json.loads(result.output)
    assert record["image"] == str(picture)
    assert set(record["tasks"]) == {"green"}
    assert record["route"]["tasks"] == ["blue"]
    with EdgeModel.open(folder / scope, threads=1, low_memory=True) as model:
        (prediction,) = model.classify(picture, "blue", 3, "green")
    assert record == {"image": str(picture)} | prediction.to_dict()


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_verify_passes_on_what_was_written(folder, scope: str) -> None:
    result = call("verify", folder / scope)
    assert result.stderr == "MB hashed: 1 of 1\n"
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if not line.startswith(("note:", "machine:"))]
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    image, layer = ("expert blue ", "router confidence, pixels ", "classification, claimed "), ("top_k 3 ", "classification ")
    for part in image if scope == "image" else layer:
        assert f"\n  {part}" in result.output
    for line in (
        "heads: 3, every value finite and bounded",
        "labels: 12, none blank or twice in a task",
        "outputs: all as recorded",
    ):
        assert line in lines
    assert f"machine: {read_processor()}, onnxruntime {onnxruntime.__version__}" in result.output
    saturation = "saturate, 64 x 255 by 64 x 127 gives 1048544, not 2072640"
    assert {"8-bit integers: exact", f"8-bit integers: {saturation}"} & set(lines)
    assert re.search(r"^seconds: \d+\.\d$", result.output, re.M)


def test_verify_fails_where_a_part_differs(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights())
    with np.load(bundle / "golden.npz") as file:
        golden = dict(file)
    golden["probabilities"] = np.roll(golden["probabilities"], 1, axis=2)
    np.savez(bundle / "golden.npz", **golden)
    relist(bundle, "golden.npz")
    result = call("verify", bundle)
    assert result.exit_code == 6
    assert "error: the bundle does not compute its golden outputs on this machine, " in result.output
    assert "classification, claimed differs by " in result.output
    assert "outputs: all as recorded" not in result.output


def test_verify_tells_a_damaged_bundle_from_another_device(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights())
    content = bytearray((bundle / "backbone.bin").read_bytes())
    content[100] ^= 1
    (bundle / "backbone.bin").write_bytes(content)
    result = call("verify", bundle)
    assert result.exit_code == 4
    assert "backbone.bin has sha256 " in result.output
    assert result.output.rstrip().endswith("the file is damaged, copy or export it again")


def test_a_bundle_that_is_intact_and_does_not_load_here_is_not_called_damaged(tmp_path) -> None:
    bundle = write_image_bundle(tmp_path / "bundle", Weights())
    graph = onnx.load(bundle / "tower.onnx", load_external_data=False)
    graph.graph.node[-1].op_type = "OfALaterVersion"
    (bundle / "tower.onnx").write_bytes(graph.SerializeToString())
    relist(bundle, "tower.onnx")
    result = call("verify", bundle)
    assert result.exit_code == 6
    assert "tower.onnx does not load in ONNX Runtime " in result.output
    assert ". Every file is as it was exported: try another version of ONNX Runtime or another provider, or " in result.output


def test_an_interrupted_verification_says_that_nothing_was_found(folder, monkeypatch) -> None:
    monkeypatch.setattr(ProgressBar, "__call__", mock.Mock(side_effect=KeyboardInterrupt))
    result = call("verify", folder / "image")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.endswith("interrupted; the bundle was not verified; nothing was changed\n")


def test_verify_says_what_a_provider_leaves_to_the_cpu(folder) -> None:
    result = call("verify", folder / "image", "--provider", "azure")
    assert result.exit_code == 0, result.output
    assert "nodes of tower.onnx run on CPUExecutionProvider instead of AzureExecutionProvider" in result.output


@pytest.mark.parametrize("scope", ["image", "layer"])
def test_inspect_describes_a_bundle(folder, scope: str) -> None:
    result = call("inspect", folder / scope)
    assert result.exit_code == 0, result.output
    index = Bundle.open(folder / scope).index
    assert f"bundle, format {index.format_version}, {scope} scope, top-k 1" in result.output
    for task in TASKS:
        (line,) = [line for line in result.output.splitlines() if line.startswith(f"{task} ")]
        assert line.split()[1:3] == ["4", "2"]
        assert format_bytes(index.tasks[0].expert_bytes) in line


def test_inspect_describes_a_merged_model(image_model) -> None:
    result = call("inspect", image_model.path)
    assert result.exit_code == 0, result.output
    assert "merged model, image scope, rank 8" in result.output
    for task in image_model.tasks:
        (line,) = [line for line in result.output.splitlines() if line.startswith(f"{task.name} ")]
        assert str(task.seeds) in line.split()
        assert task.source_sha256[:16] in line


def test_profile_writes_what_it_shows(folder, tmp_path) -> None:
    options = ["--images", folder / "pictures", "--runs", 3, "--against", "dense,reload", "--threads", 1]
    options += ["--expert-budget", "1MB", "--switch-every", 2, "--operators", "--low-memory"]
    options += ["--sweep", "batch=1,2,top-k", "--sweep", f"precision={folder / 'other'}"]
    result = call("profile", folder / "image", *options, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["settings"]["images"] == 2
    assert report["settings"]["switch_every"] == 2
    assert report["settings"]["low_memory"] is True
    assert report["experts"]["budget"] == 1_000_000
    assert [(row["axis"], row["value"]) for row in report["sweep"]] == [
        *[("batch", "1"), ("batch", "2"), ("top-k", "1"), ("top-k", "2"), ("top-k", "3")],
        *[("precision", str(folder / "image")), ("precision", str(folder / "other"))],
    ]
    assert f"{report['ratios']['reload']['named']['ratio']:.3f}" in result.output
    assert re.search(rf"hits +{report['experts']['hits']}\n", result.output)
    lines = [line for line in result.output.splitlines() if not line.startswith("note:") and "onnxruntime" not in line]
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]
    compared = call("profile", "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert compared.exit_code == 0, compared.output
    assert "named / dense" in compared.output
    assert "regressions beyond the noise: none" in compared.output


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ([], 0, "regressions beyond the noise: named slower"),
        (
            ["--fail-on-regression"],
            5,
            "error: 1 figure got worse beyond the noise and by more than 5%: named 1.500 x, 95% inter",
        ),
        (["--fail-on-regression", "49.9%"], 5, "by more than 49.9%: named 1.500 x, 95% interval 1.500 to 1.500"),
        (["--fail-on-regression", "51"], 0, "no figure got worse beyond the noise and by more than 51%"),
        (["--fail-on-regression", "half"], 2, "'half' is no percentage; write it like 5 or 2.5%"),
    ],
)
def test_a_job_can_end_where_a_bundle_got_worse(profile_of, tmp_path, given: list[str], code: int, said: str) -> None:
    report = replace(profile_of("image")[0], ratios={}, batches=(), sweep=(), residence={})
    for name, seconds in (("before", 1.0), ("after", 1.5)):
        timed = replace(report, latency={"named": latency([seconds] * 40)})
        (tmp_path / f"{name}.json").write_text(json.dumps(timed.to_json()))
    result = call("profile", "--compare", tmp_path / "before.json", tmp_path / "after.json", *given)
    assert result.exit_code == code
    assert said in result.output


def test_an_interrupted_profile_shows_and_writes_what_it_has(folder, tmp_path, monkeypatch) -> None:
    def interrupt(self: object, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "batch 4":
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "__call__", interrupt)
    result = call("profile", folder / "image", "--runs", 2, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert result.exit_code == 130
    assert "INTERRUPTED" in result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["complete"] is False
    assert set(report["latency"]) == {"named", "routed"}
    assert "Interrupted" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (3, ["run", "{image}", "none.png"], "error: none.png cannot be read as an image: No such file or directory"),
        (3, ["run", "{image}", "{red}", "--task", "rde"], "error: task 'rde' is not in the bundle; it has red, green, blue"),
        (7, ["run", "{image}", "{red}", "--provider", "npu"], "error: provider 'npu' is not available; this ONNX Runtime has "),
        (3, ["run", "{image}", "{red}", "--expert-budget", "1kB"], "error: an expert budget of 1000 bytes is too small: "),
        (2, ["run", "{image}", "{red}", "--expert-budget", "1XB"], "'1XB' is no size; write it like 64MB"),
        (2, ["run", "{image}", "{red}", "--top", "0"], "0 is not in the range x>=1"),
        (7, ["verify", "{image}", "--provider", "npu"], "error: provider 'npu' is not available; this ONNX Runtime has "),
        (7, ["profile", "{image}", "--provider", "npu"], "error: provider 'npu' is not available; this ONNX Runtime has "),
        (3, ["profile", "{image}", "--images", "nowhere"], "there is no image folder nowhere"),
        (2, ["profile"], "name a BUNDLE to measure, or two reports of it with --compare A.json B.json"),
        (2, ["profile", "{image}", "--compare", "a", "b", "--runs", "9"], "measures nothing: leave out --runs, BUNDLE"),
        (3, ["profile", "--compare", "a.json", "b.json"], "error: a.json cannot be read: No such file or directory"),
        (
            3,
            ["profile", "{image}", "--against", "dens"],
            "error: there is no baseline 'dens'; choose from dense, all-experts, ",
        ),
        (2, ["profile", "{image}", "--sweep", "2,threads"], "'2' is no axis; choose from threads, batch, top-k, precision, "),
        (2, ["profile", "{image}", "--sweep", "threads,2"], "'2' is no axis; choose from threads, batch, top-k, precision, "),
        (2, ["profile", "{image}", "--sweep", "threads=1,two"], "threads='two' is no whole number; write it like threads=1,2"),
        (2, ["profile", "{image}", "--sweep", "budget=all,1XB"], "'1XB' is no size; write it like 64MB"),
        (2, ["profile", "{image}", "--sweep", "batch="], "batch= has an empty value; write it like batch=1,2"),
        (2, ["profile", "{image}", "--sweep", "batch,batch=1"], "batch is given twice: write it once, with all its values"),
        (3, ["profile", "{image}", "--sweep", "threads", "--threads", "1"], "error: threads is fixed at 1 and swept"),
        (2, ["profile", "{image}", "--fail-on-regression"], "needs two reports: add --compare BEFORE.json AFTER.json"),
        (3, ["profile", "{image}", "--json", "nowhere/a.json"], "nowhere/a.json cannot be written: there is no folder nowhere"),
        (3, ["run", "{image}", "https://a.org/b.png"], "error: https://a.org/b.png is a URL, and nothing is downloaded here; "),
        (3, ["run", "{red}", "{image}"], "the arguments are swapped; run: mingle-edge run {image} {red}"),
        (3, ["run", "{pictures}", "{image}"], "{pictures} is a folder of images, and a bundle is needed in its place: the arg"),
        (3, ["run", "{red}", "{pictures}"], "error: {red} is an image, and run needs a bundle there; name a bundle"),
        (3, ["verify", "{red}"], "error: {red} is an image, and verify needs a bundle there; name a bundle"),
        (3, ["profile", "{red}"], "error: {red} is an image, and profile needs a bundle there; name a bundle"),
        (3, ["inspect", "{red}"], "error: {red} is an image, and inspect needs a bundle or a merged model; name one of them"),
        (
            3,
            ["profile", "--compare", "{image}", "a.json"],
            "is a bundle, and profile --compare needs a report of profile --json",
        ),
        (3, ["profile", "--page", "{image}"], "is a bundle, and profile --page needs a report of profile --json"),
        (2, ["run", "{image}", "{red}", "--reject-below", "7"], "7.0 is not in the range 0<=x<=1"),
        (3, ["run", "{image}", "{red}", "--head", "rde"], "'rde'"),
        (3, ["run", "{image}", "{red}", "--load-head", "none.head"], "none.head"),
        (
            7,
            ["run", "{image}", "{red}", "--provider", "cuda"],
            "cpu; for NVIDIA GPUs, pip install onnxruntime-gpu in place of on",
        ),
    ],
)
def test_mistakes_are_one_line_and_tell_themselves_apart(folder, code: int, arguments, message: str) -> None:
    paths = {"image": folder / "image", "pictures": folder / "pictures", "red": folder / "pictures/red.png"}
    result = call(*[argument.format(**paths) for argument in arguments])
    assert result.exit_code == code
    assert message.format(**paths) in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.000 MB"), (999, "0.001 MB"), (44_123_456, "44.1 MB"), (5 * 10**12, "5000000 MB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(("text", "size"), [("64MB", 64_000_000), ("1.5 MiB", 1_572_864), ("700000", 700_000), ("1gb", 10**9)])
def test_sizes_are_understood(text: str, size: int) -> None:
    context = command.make_context("run", ["bundle", "image", "--expert-budget", text])
    assert context.params["expert_budget"] == size
