"""The untouched inputs of the fuzz, all tiny: bundles, pictures, merged models, a task file, parquet, checkpoints.

Written with the workstation's libraries, so that an interpreter with nothing but the runtime can be given them.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import hub_parquet
import numpy as np
import tiny_bundle
import tiny_clip
import torch
from measured_forms import with_forms
from PIL import Image
from safetensors.torch import load_file
from tiny_merged import write_merged

from mingle_edge.experts.expert_form import ExpertForm
from mingle_edge.merging.merged_model import MergedModel
from mingle_edge_export import ExportOptions, export_bundle

CLASSES = ["sea", "river", "lake"]
KINDS = ("image", "layer")
"""of merged models: a route for an image, a route for a layer"""


def write_corpus(root: Path, exported: bool = True) -> Path:
    """Write every input into a new folder.

    exported: bundles that the export wrote, in every precision, and a Hugging Face folder as well; seconds, not milliseconds.
    """
    tiny_bundle.write_kinds(root / "bundles", tiny_bundle.Weights())
    write_pictures(root / "pictures")
    for kind in KINDS:
        write_merged(root / "merged" / kind, scope=kind)
    forms = {f"task{t}": [ExpertForm(3, precision, 0.5, 0.9)] for t, precision in enumerate(("int8", "int4", "int4"))}
    with_forms(MergedModel.open(root / "merged" / "image"), root / "merged" / "measured", forms)
    write_task_file(root / "tasks")
    write_parquet(root / "parquet")
    write_tars(root / "tars")
    write_tables(root / "tables")
    write_checkpoints(root / "checkpoints")
    if exported:
        write_exported(root)
        tiny_clip.write_hugging_face(root / "checkpoints/folder", kind="CLIPVisionModelWithProjection")
    return root


def write_exported(root: Path) -> None:
    """Write bundles of every kind and precision."""
    bounds = {"min_cosine": 0.0, "min_route_agreement": 0.0}  # random weights of few channels keep little in few bits
    for kind, (backbone, experts) in itertools.product(KINDS, (("fp32", "fp32"), ("int8", "int8"), ("fp32", "int4"))):
        options = ExportOptions(precision=backbone, expert_precision=experts, **bounds)
        export_bundle(root / "merged" / kind, root / "bundles" / f"exported-{kind}-{experts}", options)
    export_bundle(root / "merged" / "image", root / "bundles" / "exported-folded", ExportOptions(fold="task1"))
    export_bundle(root / "merged" / "measured", root / "bundles" / "exported-image-forms", ExportOptions(keep=1.0, **bounds))


def write_pictures(folder: Path) -> None:
    """Write small pictures of every format and mode that is read, and of some that are not."""
    folder.mkdir(parents=True)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = coarse.resize((24, 20), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    picture.save(folder / "photo.jpg", exif=exif, quality=90)
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "rgb.png", exif=exif)
    picture.quantize(8).save(folder / "palette.png", transparency=b"\x80\xff")
    for mode in ("L", "1", "LA", "RGBA", "I;16"):
        picture.convert("L" if mode == "I;16" else mode).convert(mode).save(folder / f"{mode.lower().replace(';', '')}.png")
    picture.save(folder / "animated.png", save_all=True, append_images=[picture.rotate(90)])
    picture.save(folder / "plain.webp")
    picture.save(folder / "lossless.webp", lossless=True, exif=exif)
    picture.save(folder / "plain.bmp")
    picture.save(folder / "plain.tif")
    picture.save(folder / "lzw.tif", compression="tiff_lzw")
    picture.convert("1").save(folder / "fax.tif", compression="group4")
    picture.quantize(16).save(folder / "plain.gif")


def write_task_file(folder: Path) -> None:
    """Write a task file that says all that one may say, and what it names; nothing that it names is read."""
    for name in ("seeds/a", "seeds/b/sea", "seeds/b/lake", "test/sea", "tune/sea", "hub"):
        (folder / name).mkdir(parents=True)
    for name in ("backbone.safetensors", "a.safetensors", "b.pt", "head.safetensors", "model.json"):
        (folder / name).write_bytes(b"{}")
    (folder / "classes.txt").write_text("sea\nriver\nlake\n")
    (folder / "TASKS.toml").write_text(
        """\
[backbone]
model = "model.json"
weights = "backbone.safetensors"
[settings]
scope = "image"
rank = 8
seed = 1
router_blocks = "auto"
steps = 6
learning_rate = 0.003
temperature = 2.0
relaxation = 0.5
[[task]]
name = "a"
weights = "a.safetensors"
seeds = "seeds/a"
classes = ["sea", "lake"]
templates = ["a photo of a {}.", "{}"]
test = "test/<class>/*.png"
tune = "tune/<class>/*.png"
[[task]]
name = "b"
weights = "b.pt"
seeds = "seeds/b/<class>/*.png"
seeds_per_class = 2
classes = "classes.txt"
head = "head.safetensors"
test = {files = "data/test-*.parquet", image = "img", label = "y", share = [0.0, 0.5]}
[[task]]
name = "c"
weights = "hf://owner/name/file.pt"
seeds = "hf://datasets/owner/name/data/*.parquet"
classes = ["sea"]
"""
    )


def write_parquet(folder: Path) -> None:
    """Write files with labels by number and by name."""
    pictures = [hub_parquet.encoded(n) for n in range(7)]
    hub_parquet.write_shard(folder / "numbers.parquet", pictures, [n % 3 for n in range(7)], CLASSES)
    hub_parquet.write_shard(folder / "names.parquet", pictures, [CLASSES[n % 3] for n in range(7)])


def write_tars(folder: Path) -> None:
    """Write samples with labels by number, by name and in JSON."""
    folder.mkdir(parents=True)
    for suffix, labels in {"cls": range(3), "txt": CLASSES, "json": [f'{{"label": {n}}}' for n in range(3)]}.items():
        with tarfile.open(folder / f"{suffix}.tar", "w") as archive:
            for number, label in enumerate(labels):
                for name, data in (("png", hub_parquet.encoded(number)), (suffix, str(label).encode())):
                    member = tarfile.TarInfo(f"{number}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def write_tables(folder: Path) -> None:
    """Write tables of pictures beside them, and a data set's card."""
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(hub_parquet.encoded(number))
    (folder / "all.csv").write_text("file_name,label\n" + "".join(f"{n}.png,{name}\n" for n, name in enumerate(CLASSES)))
    (folder / "metadata.jsonl").write_text("".join(f'{{"file_name": "{n}.png", "label": {n}}}\n' for n in range(3)))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n    path: '*.png'\n---\n"
    )


def write_checkpoints(folder: Path) -> None:
    """Write the tower of a tiny open_clip model as safetensors and as PyTorch's files of all kinds, and its configuration."""
    folder.mkdir(parents=True)
    tiny_clip.write_open_clip(folder / "tower.safetensors", visual_only=True)
    torch.save(load_file(folder / "tower.safetensors"), folder / "tower.pt")
    torch.save({"model": tiny_clip.tiny_model().visual}, folder / "module.pt")
    torch.save(load_file(folder / "tower.safetensors"), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    tiny_clip.write_config(folder / "model.json")
