"""How images become pixels is read from a checkpoint's files as its library reads them, bit for bit, or refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pictures
import pytest
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from pictures import MODES, noise, picture
from PIL import Image
from tiny_clip import write_hugging_face
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from mingle_edge.checkpoints import open_checkpoint, read_architecture
from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.checkpoints.preprocessing import (
    hugging_face_preprocess,
    open_clip_preprocess,
    preprocess_differences,
)
from mingle_edge.core.errors import CheckpointError
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, Preprocess
from mingle_edge_runtime.images.preprocess import preprocess

PICTURES = [Image.fromarray(noise(height, width)) for height, width in ((40, 31), (24, 24), (7, 90), (331, 500))]
SIZED = {"size": 24, "crop_size": 24}

PROCESSORS = {  # as the files of published models have them, at 24 pixels
    "CLIP of 2021": SIZED
    | {"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "image_mean": list(OPENAI_MEAN), "do_normalize": True},
    "CLIP": {
        "image_processor_type": "CLIPImageProcessorFast",
        "size": {"shortest_edge": 29},
        "crop_size": {"height": 24, "width": 24},
        "image_std": [0.5, 0.25, 0.125],
        "do_convert_rgb": True,
        "rescale_factor": 0.00392156862745098,
    },
    "CLIP squashed": {"image_processor_type": "CLIPImageProcessor", "size": [24, 24], "do_center_crop": False, "resample": 1},
    "SigLIP": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 24, "width": 24}, "do_convert_rgb": None},
    "SigLIP 2": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 24, "width": 24},
        "resample": 2,
        "do_convert_rgb": True,
    },
    "ViT of 2021": {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, "do_normalize": True},
    "ViT": {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "do_convert_rgb": True},
    "ViT in [0, 1]": {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "do_normalize": False},
    "DINOv2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 27},
        "crop_size": {"height": 24, "width": 24},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
    },
    "DeiT": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 27, "crop_size": 24, "resample": 3},
    "Chinese CLIP": {"image_processor_type": "ChineseCLIPImageProcessor", "size": {"height": 24, "width": 24}, "crop_size": 24},
}

ONLY_RGB = ("SigLIP", "ViT of 2021", "ViT in [0, 1]", "DeiT")  # they do not convert, so that transformers fails on other modes


def config(
    processor: dict[str, Any], model_type: str = "clip_vision_model", version: str | None = transformers.__version__
) -> ModelConfig:
    """What a Hugging Face folder says."""
    return ModelConfig("config.json", "hugging_face", {"model_type": model_type, "transformers_version": version}, processor)


def library_pixels(folder: Path, processor: dict[str, Any], image: Image.Image) -> np.ndarray:
    """Pixel values of the processor that transformers makes of the file, on Pillow."""
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="np")["pixel_values"]


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processors_file_means_what_transformers_makes_of_it(tmp_path: Path, name: str) -> None:
    processor = PROCESSORS[name]
    spec = hugging_face_preprocess(config(processor), 24)
    others = () if name in ONLY_RGB else MODES
    for image in (*PICTURES, *map(picture, others)):
        np.testing.assert_array_equal(preprocess(image, spec), library_pixels(tmp_path, processor, image))
    assert spec.rgb == ("before_resize_on_white" if others else "before_resize")


TRANSFORMERS_4 = """
import sys
import numpy as np
import transformers
from pictures import MODES, picture

for folder, *modes in (line.split() for line in sys.stdin):
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    values = {mode: processor(picture(mode), return_tensors="np")["pixel_values"] for mode in modes}
    np.savez(f"{folder}/values.npz", version=transformers.__version__, **values)
"""


def test_transformers_4_which_drops_transparency(tmp_path: Path) -> None:
    lines = []
    for number, (name, processor) in enumerate(PROCESSORS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        lines.append(f"{folder} {' '.join(('RGB',) if name in ONLY_RGB else MODES)}\n")
    paths = os.pathsep.join([os.environ["MINGLE_TRANSFORMERS_4"], str(Path(pictures.__file__).parent)])
    command = [sys.executable, "-W", "ignore", "-c", TRANSFORMERS_4]
    subprocess.run(command, input="".join(lines), text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    for number, processor in enumerate(PROCESSORS.values()):
        with np.load(tmp_path / str(number) / "values.npz") as stored:
            values = dict(stored)
        spec = hugging_face_preprocess(config(processor, version=str(values.pop("version"))), 24)
        for mode, expected in values.items():
            np.testing.assert_array_equal(preprocess(picture(mode), spec), expected)


@pytest.mark.parametrize("version", ["5.20.0", None])
def test_releases_that_drop_transparency(tmp_path: Path, version: str | None) -> None:
    processor = PROCESSORS["CLIP"]
    spec = hugging_face_preprocess(config(processor, version=version), 24)
    for mode in ("RGBA", "LA", "PA"):
        image = picture(mode)
        np.testing.assert_array_equal(preprocess(image, spec), library_pixels(tmp_path, processor, image.convert("RGB")))


@pytest.mark.parametrize(
    "model_type", ["clip", "metaclip_2", "chinese_clip", "siglip", "vit", "vit_mae", "ijepa", "deit", "dinov2"]
)
def test_a_folder_without_a_processor_has_its_models(tmp_path: Path, model_type: str) -> None:
    theirs = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"])()
    spec = hugging_face_preprocess(config({}, model_type), 224)
    assert spec == hugging_face_preprocess(config(json.loads(theirs.to_json_string()), model_type), 224)
    for image in PICTURES:
        np.testing.assert_array_equal(preprocess(image, spec), theirs(image, return_tensors="np")["pixel_values"])


def test_defaults_follow_the_models_size() -> None:
    assert hugging_face_preprocess(config({}), 336) == replace(hugging_face_preprocess(config({}), 224), image_size=336)
    deit = hugging_face_preprocess(config({}, "deit"), 384)
    assert (deit.image_size, deit.side) == (384, 438)  # as the file of facebook/deit-base-distilled-patch16-384 says
    # A DINOv2 is configured for 518 pixels and interpolates its positions to those that it gets.
    assert hugging_face_preprocess(config({}, "dinov2"), 518).image_size == 224
    assert hugging_face_preprocess(config(PROCESSORS["DINOv2"], "dinov2"), 518).image_size == 24


def test_a_nested_processor_comes_first(tmp_path: Path) -> None:
    write_hugging_face(tmp_path, kind="CLIPVisionModel")
    sized = {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sized | {"resample": 0}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert read_architecture(".", tmp_path).preprocess.interpolation == "nearest"
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": sized | {"resample": 5}}))
    assert read_architecture(".", tmp_path).preprocess.interpolation == "hamming"
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil").resample == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_processor_type": "ConvNextImageProcessor"},
            "the image processor is 'ConvNextImageProcessor', but must be one of",
        ),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor', but must be one of CLIPImageProcessor, "),
        ({"feature_extractor_type": 3}, "the image processor is 3"),
        ({"do_resize": False}, "do_resize of the image processor is False, but must be true"),
        ({"do_rescale": False}, "do_rescale of the image processor is False, but must be true"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor of the image processor is 0.00784.*, but must be 1 / 255"),
        ({"do_pad": True}, "do_pad of the image processor is True, but must be false"),
        ({"do_center_crop": False}, "do_center_crop .* must be true, or size a height and a width: images are square"),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "must be false: transformers 4 crops nothing"),
        ({"do_convert_rgb": "yes"}, "do_convert_rgb .* must be true or false"),
        ({"size": {"shortest_edge": 20}}, "size .* must be at least 24, or images are padded"),
        ({"size": {"longest_edge": 24}}, "size .* must be a number, a shortest_edge, or equal height and width"),
        ({"size": {"height": 24, "width": 32}}, "size .* must be a number, a shortest_edge, or equal"),
        ({"size": 10**6}, "resized_side is 1000000, must be between image_size, 24, and 4096"),
        ({"crop_size": 20}, "crop_size of the image processor is 20, but must be 24, which the model reads"),
        ({"crop_size": {"shortest_edge": 24}}, "crop_size .* must be a height and a width"),
        ({"resample": 6}, "resample of the image processor is 6, but must be a code of Pillow, from 0 to 5"),
        ({"image_mean": [0.5, 0.5]}, "image_mean .* must be three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, r"preprocess.std is \(0.5, 0.0, 0.5\), must be positive"),
    ],
)
def test_processors_that_are_not_done(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^config.json: .*{message}"):
        hugging_face_preprocess(config(SIZED | changes), 24)


def test_an_unknown_model_needs_a_processor() -> None:
    with pytest.raises(
        CheckpointError, match="the image processor's type is None, but must be said for a 'swin': one of CLIPIm"
    ):
        hugging_face_preprocess(config({}, "swin"), 24)


def test_every_tag_of_open_clip() -> None:
    tags = {json.dumps(open_clip.get_pretrained_cfg(*tag) | {"url": "", "hf_hub": ""}) for tag in open_clip.list_pretrained()}
    for said in [
        *map(json.loads, tags),
        {"resize_mode": "longest", "fill_color": 7},
        {"interpolation": "random"},
        {"mean": None},
    ]:
        known = {name: value for name, value in said.items() if value is not None and hasattr(PreprocessCfg(), name)}
        spec = open_clip_preprocess(ModelConfig("tag", "open_clip", {}, said), 24)
        transform = image_transform_v2(PreprocessCfg(**known | {"size": 24}), is_train=False)
        for image in PICTURES:
            np.testing.assert_array_equal(preprocess(image, spec)[0], transform(image).numpy())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mode": "L"}, "preprocess_cfg.mode is 'L', but must be 'RGB'"),
        ({"size": 32}, "preprocess_cfg.size is 32, but must be 24"),
        ({"resize_mode": "crop"}, "preprocess_cfg.resize_mode is 'crop', but must be one of shortest, longest, squash"),
        (
            {"interpolation": "lanczos"},
            "preprocess_cfg.interpolation is 'lanczos', but must be one of bilinear, bicubic, random",
        ),
        ({"fill_color": 0.5}, "preprocess_cfg.fill_color is 0.5, but must be a whole number from 0 to 255"),
        ({"resize_mode": "longest", "fill_color": 256}, "preprocess.fill is 256, must be between 0 and 255"),
    ],
)
def test_what_open_clip_does_not_know(said: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^model.json: {message}"):
        open_clip_preprocess(ModelConfig("model.json", "open_clip", {}, said), 24)


def test_differences_are_named() -> None:
    clip, vit = (hugging_face_preprocess(config(PROCESSORS[name]), 24) for name in ("CLIP of 2021", "ViT"))
    assert preprocess_differences(clip, clip) == []
    assert preprocess_differences(replace(clip, rgb="before_resize"), clip) == []  # another release of transformers
    assert preprocess_differences(replace(clip, resized_side=32), clip) == ["resized_side 32 instead of 24"]
    assert [difference.split()[0] for difference in preprocess_differences(vit, clip)] == [
        "mean",
        "std",
        "resize",
        "interpolation",
    ]
    assert preprocess_differences(Preprocess(24), clip) == [
        "crop_offset half_to_even instead of down",
        "rgb after_crop instead of before_resize_on_white",
    ]


def test_a_task_that_was_trained_on_other_pixels_is_refused(tmp_path: Path) -> None:
    for name in ("backbone", "task"):
        write_hugging_face(tmp_path / name, kind="CLIPVisionModel")
    processor = tmp_path / "task" / "preprocessor_config.json"
    for backbone in (
        read_architecture("backbone", tmp_path),
        replace(read_architecture("backbone", tmp_path), preprocess=Preprocess(32)),
    ):
        open_checkpoint("task", base=tmp_path, architecture=backbone)  # says nothing of images
        processor.write_text('{"size": 40, "crop_size": 32, "resample": 2}')
        with pytest.raises(
            CheckpointError, match=r"another model .*: resized_side 40 instead of 32, interpolation bilinear instead of"
        ):
            open_checkpoint("task", base=tmp_path, architecture=backbone)
        processor.unlink()
    processor.write_text('{"size": 32, "crop_size": 32}')
    open_checkpoint("task", base=tmp_path, architecture=read_architecture("backbone", tmp_path))
    with pytest.raises(
        CheckpointError, match=r"another model .*: crop_offset down instead of half_to_even, rgb before_resize_on"
    ):
        open_checkpoint("task", base=tmp_path, architecture=backbone)


@pytest.mark.parametrize("kind", ["CLIP", "ViT", "Siglip"])
def test_how_far_the_torchvision_backend_of_transformers_is(kind: str) -> None:
    """What docs/bundle-format.md says of it, for images of 375 x 500 pixels resized to 224."""
    on_torchvision, on_pillow = (getattr(transformers, f"{kind}ImageProcessor{suffix}")() for suffix in ("", "Pil"))
    smooth = [Image.fromarray(noise(5, 7, seed=seed)).resize((500, 375), Image.Resampling.BICUBIC) for seed in range(4)]
    for image in (*smooth, *(Image.fromarray(noise(375, 500, seed=seed)) for seed in range(4))):
        theirs, ours = (
            np.asarray(processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0], np.int64)
            for processor in (on_torchvision, on_pillow)
        )
        levels = abs(theirs - ours)  # of 8 bits
        assert levels.max() <= 2
        assert (levels > 0).mean() < 0.01
