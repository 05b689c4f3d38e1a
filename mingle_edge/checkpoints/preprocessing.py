"""How a model's images become pixels, from the configuration files of open_clip and Hugging Face.

A bundle prepares images exactly as the library does that the file belongs to (transformers: its processors on Pillow, which is
all a device has). What the runtime does not do is refused, by field and value.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, OPENAI_STD, Interpolation, Preprocess
from mingle_edge_runtime.bundle.rules import fault_in_preprocess

Triple = tuple[float, float, float]

_LARGEST = 1000  # magnitude of means and deviations
_HALF: Triple = (0.5, 0.5, 0.5)
_RESIZE_MODES: dict[object, Literal["shortest_edge", "longest_edge", "squash"]] = {
    "shortest": "shortest_edge",
    "longest": "longest_edge",
    "squash": "squash",
}
_INTERPOLATIONS: dict[object, Interpolation] = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "random": "bicubic",  # in training alone
}
_RESAMPLE: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's codes


@dataclass(frozen=True)
class _Processor:
    """What an image processor of transformers does where its file says nothing."""

    side: int = 224
    squash: bool = False
    numeric_size_squashes: bool = False  # instead of being the shorter side's
    crops: bool = True  # to 224
    interpolation: Interpolation = "bicubic"
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD
    converts: bool = True  # to RGB; the others fail unless an image is


_CROP = 224
_CLIP = _Processor()
_PROCESSORS = {
    "CLIP": _CLIP,
    "ChineseCLIP": _CLIP,
    "Bit": _CLIP,
    "Siglip": _Processor(squash=True, crops=False, mean=_HALF, std=_HALF),
    "ViT": _Processor(
        squash=True, numeric_size_squashes=True, crops=False, interpolation="bilinear", mean=_HALF, std=_HALF, converts=False
    ),
    "DeiT": _Processor(256, squash=True, numeric_size_squashes=True, mean=_HALF, std=_HALF, converts=False),
}
_PROCESSOR_TYPE = re.compile(r"(\w+?)(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")
_PROCESSOR_OF_MODEL = {
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "metaclip_2": "CLIP",
    "metaclip_2_vision_model": "CLIP",
    "chinese_clip": "ChineseCLIP",
    "chinese_clip_vision_model": "ChineseCLIP",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
    "ijepa": "ViT",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
}
_ANY_SIZE = ("dinov2", "dinov2_with_registers")  # their positions are interpolated to the size that the processor gives
_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")  # null is false
_LAYS_ON_WHITE = (5, 21)  # the first release of transformers that does not drop transparency


def open_clip_preprocess(config: ModelConfig, image_size: int) -> Preprocess:
    """Return what `preprocess_cfg` of an open_clip config, or the configuration of a tag, says.

    Args:
        config: the configuration; an empty `preprocess` stands for open_clip's defaults.
        image_size: pixels, of the vision tower; it wins in open_clip, so another `size` is refused.

    Raises:
        CheckpointError: a value that open_clip does not know.
    """
    said = {name: value for name, value in config.preprocess.items() if value is not None}
    for name, allowed in (("mode", ("RGB",)), ("size", (image_size, [image_size] * 2, (image_size,) * 2))):
        if said.get(name, allowed[0]) not in allowed:
            raise _refusal(config, f"preprocess_cfg.{name}", said[name], repr(allowed[0]))
    resize = _choice(said.get("resize_mode", "shortest"), _RESIZE_MODES, "preprocess_cfg.resize_mode", config)
    fill = said.get("fill_color", 0)
    if type(fill) is not int:
        raise _refusal(config, "preprocess_cfg.fill_color", fill, "a whole number from 0 to 255")
    return _checked(
        config,
        Preprocess(
            image_size,
            _triple(said.get("mean", OPENAI_MEAN), "preprocess_cfg.mean", config),
            _triple(said.get("std", OPENAI_STD), "preprocess_cfg.std", config),
            resize,
            interpolation=_choice(
                said.get("interpolation", "bicubic"), _INTERPOLATIONS, "preprocess_cfg.interpolation", config
            ),
            fill=fill if resize == "longest_edge" else 0,
        ),
    )


def hugging_face_preprocess(config: ModelConfig, image_size: int) -> Preprocess:
    """Return what the image processor of a Hugging Face folder does on Pillow.

    Where the folder has no file of a processor, it is the one that transformers has for the model's type, at the model's size.

    Args:
        config: the configuration; its `preprocess` is the processor's file.
        image_size: pixels, as config.json says. A DINOv2 reads images of any size, so the processor's is returned.

    Raises:
        CheckpointError: another processor, or a field that the runtime does not do.
    """
    said = {name: False if value is None and name in _FLAGS else value for name, value in config.preprocess.items()}
    said = {name: value for name, value in said.items() if value is not None}
    processor = _PROCESSORS[_processor_type(config, said)]
    for name, only in (("do_resize", True), ("do_rescale", True), ("do_pad", False)):
        if said.get(name, only) is not only:
            raise _refusal(config, f"{name} of the image processor", said[name], str(only).lower())
    if said.get("rescale_factor", 1 / 255) != 1 / 255:
        raise _refusal(config, "rescale_factor of the image processor", said["rescale_factor"], "1 / 255")
    squash, side, crop = _sizes(config, said, processor, image_size)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(config, said, "do_normalize", default=True):
        mean = _triple(said.get("image_mean", processor.mean), "image_mean of the image processor", config)
        std = _triple(said.get("image_std", processor.std), "image_std of the image processor", config)
    on_white = _flag(config, said, "do_convert_rgb", default=processor.converts) and _lays_on_white(config)
    return _checked(
        config,
        Preprocess(
            crop,
            mean,
            std,
            "squash" if squash else "shortest_edge",
            None if side == crop else side,
            _resample(config, said, processor),
            crop_offset="down",
            rgb="before_resize_on_white" if on_white else "before_resize",
        ),
    )


def preprocess_differences(theirs: Preprocess, ours: Preprocess) -> list[str]:
    """Name what differs between two ways from an image to pixels, as in `interpolation bilinear instead of bicubic`.

    Transparency is no difference where both convert before they resize: it depends on the release of transformers that saved a
    folder, and nothing in a processor's file speaks of it.
    """
    early = {theirs.rgb, ours.rgb} == {"before_resize", "before_resize_on_white"}
    names = [field.name for field in dataclasses.fields(Preprocess) if not (early and field.name == "rgb")]
    different = [name for name in names if getattr(theirs, name) != getattr(ours, name)]
    values = {name: "side" if name == "resized_side" else name for name in different}
    return [f"{name} {getattr(theirs, value)} instead of {getattr(ours, value)}" for name, value in values.items()]


def _processor_type(config: ModelConfig, said: dict[str, Any]) -> str:
    name = said.get("image_processor_type", said.get("feature_extractor_type"))
    if name is None:
        model = config.model.get("model_type")
        if model not in _PROCESSOR_OF_MODEL:
            raise _refusal(config, "the image processor's type", None, f"said for a {shown(model)}: {_known()}")
        return _PROCESSOR_OF_MODEL[model]
    match = _PROCESSOR_TYPE.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[1] not in _PROCESSORS:
        raise _refusal(config, "the image processor", name, _known())
    return match[1]


def _known() -> str:
    return f"one of {', '.join(f'{name}ImageProcessor' for name in _PROCESSORS)}"


def _sizes(config: ModelConfig, said: dict[str, Any], processor: _Processor, image_size: int) -> tuple[bool, int, int]:
    """Return whether the aspect ratio is given up, the resized side, and the side of the crop."""
    any_size = config.model.get("model_type") in _ANY_SIZE
    scale = 1 if said or any_size else image_size / _CROP  # of the defaults
    squash, side = processor.squash, int(processor.side * scale)
    if "size" in said:
        squash, side = _size(config, "size", said["size"], number_squashes=processor.numeric_size_squashes)
    crops = _flag(config, said, "do_center_crop", default=processor.crops)
    if crops and not processor.crops:
        raise _refusal(config, "do_center_crop of the image processor", crops, "false: transformers 4 crops nothing there")
    if not crops and not squash:
        raise _refusal(
            config, "do_center_crop of the image processor", crops, "true, or size a height and a width: images are square"
        )
    crop = side
    if crops:
        crop = int(_CROP * scale)
        if "crop_size" in said:
            square, crop = _size(config, "crop_size", said["crop_size"], number_squashes=True)
            if not square:
                raise _refusal(config, "crop_size of the image processor", said["crop_size"], "a height and a width")
    name = "crop_size" if crops else "size"
    if crop != image_size and not any_size:
        raise _refusal(config, f"{name} of the image processor", said.get(name, crop), f"{image_size}, which the model reads")
    if side < crop:
        raise _refusal(config, "size of the image processor", said.get("size", side), f"at least {crop}, or images are padded")
    return squash, side, crop


def _size(config: ModelConfig, name: str, value: object, *, number_squashes: bool) -> tuple[bool, int]:
    """Return whether a size is that of both sides, and its pixels."""
    squash, side = number_squashes, value
    if isinstance(value, dict) and value.keys() == {"shortest_edge"}:
        squash, side = False, value["shortest_edge"]
    elif isinstance(value, dict) and value.keys() == {"height", "width"} and value["height"] == value["width"]:
        squash, side = True, value["height"]
    elif isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        squash, side = True, value[0]
    if type(side) is not int or side < 1:
        raise _refusal(config, f"{name} of the image processor", value, "a number, a shortest_edge, or equal height and width")
    return squash, side


def _flag(config: ModelConfig, said: dict[str, Any], name: str, *, default: bool) -> bool:
    value = said.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(config, f"{name} of the image processor", value, "true or false")
    return value


def _resample(config: ModelConfig, said: dict[str, Any], processor: _Processor) -> Interpolation:
    code = said.get("resample")
    if code is None:
        return processor.interpolation
    if type(code) is not int or not 0 <= code < len(_RESAMPLE):
        raise _refusal(config, "resample of the image processor", code, f"a code of Pillow, from 0 to {len(_RESAMPLE) - 1}")
    return _RESAMPLE[code]


def _lays_on_white(config: ModelConfig) -> bool:
    """Say whether the folder was saved by a release of transformers that lays transparency on white."""
    release = re.match(r"(\d{1,4})\.(\d{1,4})", str(config.model.get("transformers_version")))
    return release is not None and (int(release[1]), int(release[2])) >= _LAYS_ON_WHITE


def _choice(value: object, choices: dict[object, Any], field: str, config: ModelConfig) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _refusal(config, field, value, f"one of {', '.join(map(str, choices))}")
    return choices[value]


def _triple(value: object, field: str, config: ModelConfig) -> Triple:
    values = value if isinstance(value, list | tuple) else ()
    if len(values) == 3 and all(type(x) in (int, float) and abs(x) <= _LARGEST for x in values):
        return float(values[0]), float(values[1]), float(values[2])
    raise _refusal(config, field, value, f"three numbers from -{_LARGEST} to {_LARGEST}, one per color")


def _checked(config: ModelConfig, preprocess: Preprocess) -> Preprocess:
    if fault := fault_in_preprocess(preprocess):
        raise CheckpointError(f"{config.source}: {fault}")
    return preprocess


def _refusal(config: ModelConfig, field: str, value: object, rule: str) -> CheckpointError:
    return CheckpointError(f"{config.source}: {field} is {shown(value)}, but must be {rule}")
