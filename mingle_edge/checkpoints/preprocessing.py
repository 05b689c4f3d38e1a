"""How a model's images become pixels, from the configuration files of open_clip and Hugging Face."""

from __future__ import annotations

from mingle_edge.checkpoints.model_config import ModelConfig
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge_runtime.bundle.index import OPENAI_MEAN, OPENAI_STD, Preprocess

_LARGEST = 1 << 16  # of means and deviations
LEAST_DEVIATION = 1e-6  # of pixel values from 0 to 1, which are divided by it


def open_clip_preprocess(config: ModelConfig, image_size: int) -> Preprocess:
    """Return what `preprocess_cfg` of an open_clip config says. Raises `CheckpointError` for what is not done here."""
    preprocess = config.preprocess
    said = (("interpolation", ("bicubic",)), ("resize_mode", ("shortest",)), ("mode", ("RGB",)))
    for name, allowed in (*said, ("size", (image_size, [image_size] * 2, (image_size, image_size)))):
        if preprocess.get(name, allowed[0]) not in allowed:
            raise _refusal(config.source, f"preprocess_cfg.{name}", preprocess[name], f"{allowed[0]!r}")
    return Preprocess(
        image_size,
        _triple(preprocess.get("mean", OPENAI_MEAN), "preprocess_cfg.mean", config.source),
        _triple(preprocess.get("std", OPENAI_STD), "preprocess_cfg.std", config.source, deviation=True),
    )


def hugging_face_preprocess(config: ModelConfig, image_size: int) -> Preprocess:
    """Return what the image processor of a Hugging Face folder does. Raises `CheckpointError` for what is not done here."""
    preprocess = config.preprocess
    square = {"height": image_size, "width": image_size}
    said: dict[str, tuple[object, ...]] = {
        "do_resize": (True,),
        "size": (image_size, {"shortest_edge": image_size}),
        "resample": (3,),  # bicubic
        "do_center_crop": (True,),
        "crop_size": (image_size, square),
        "do_rescale": (True,),
        "rescale_factor": (1 / 255,),
        "do_normalize": (True,),
    }
    for name, allowed in said.items():
        if preprocess.get(name) is not None and preprocess[name] not in allowed:
            raise _refusal(config.source, f"{name} of the image processor", preprocess[name], f"{allowed[0]!r}")
    return Preprocess(
        image_size,
        _triple(preprocess.get("image_mean", OPENAI_MEAN), "image_mean of the image processor", config.source),
        _triple(preprocess.get("image_std", OPENAI_STD), "image_std of the image processor", config.source, deviation=True),
    )


def _triple(value: object, field: str, source: str, *, deviation: bool = False) -> tuple[float, float, float]:
    if isinstance(value, list | tuple) and len(value) == 3 and all(type(x) in (int, float) for x in value):
        least = LEAST_DEVIATION if deviation else -_LARGEST
        if all(least <= x <= _LARGEST for x in value):
            return float(value[0]), float(value[1]), float(value[2])
    rule = f"three positive numbers, from {LEAST_DEVIATION:g}" if deviation else f"three numbers, from -{_LARGEST}"
    raise _refusal(source, field, value, f"{rule} to {_LARGEST}, one per color")


def _refusal(source: str, field: str, value: object, rule: str) -> CheckpointError:
    return CheckpointError(f"{source}: {field} is {shown(value)}, but must be {rule}")
