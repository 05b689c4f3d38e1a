"""Adapter folders of PEFT: low-rank updates (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353) of the backbone's own tensors.

An adapter is read as the checkpoint that it makes of the backbone, under the backbone's names, so that everything else takes it
for one; where an update has low rank, its factors are handed on as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mingle_edge.checkpoints.model_config import read_json_object
from mingle_edge.checkpoints.stored_parameters import StoredParameter
from mingle_edge.checkpoints.stored_tensors import TensorFiles, open_tensors
from mingle_edge.checkpoints.tensor_location import TensorLocation
from mingle_edge.core.errors import CheckpointError, shown
from mingle_edge.files.plain_file import find_file

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(\.weight)?)")
_PATTERN = re.compile(r"(?!(.*\*){4})[\w.*^$|\\]{1,200}")  # nothing that would take a matcher of patterns ages
# Members of adapter_config.json that say how the training was done, or what is read here.
_READ = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "lora_bias")
_FREE = (
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "modules_to_save", "layers_to_transform",
    "layers_pattern", "eva_config", "runtime_config", "ensure_weight_tying", "init_lora_weights",
    "megatron_core", "qalora_group_size",
)  # fmt: skip
_UNCHANGING = (True, False, None, "gaussian", "eva", "orthogonal", "true", "false")
"""Initial values of an adapter that leave the backbone as it was; others take a part of it into the adapter."""


@dataclass(frozen=True)
class _Update:
    """What an adapter does to one linear layer or convolution: `W + B A`, or that with rows of length `magnitude`."""

    B: Tensor  # [d_out, r], the scale included
    A: Tensor  # [r, d_in]
    magnitude: Tensor | None  # [d_out], of DoRA

    def apply(self, weight: Tensor) -> Tensor:
        """Return the weight `[d_out, ...]` that the adapted layer has."""
        changed = weight + (self.B @ self.A).reshape(weight.shape)
        if self.magnitude is None:
            return changed
        lengths: Tensor = torch.linalg.vector_norm(changed.flatten(1), dim=1)  # [d_out]
        return changed * (self.magnitude / lengths).reshape(-1, *[1] * (weight.ndim - 1))


def is_adapter(folder: Path) -> bool:
    """Say whether a folder is a PEFT adapter. Raises `FileError` where it may not be looked at."""
    return find_file(folder / CONFIG) is not None


class AdaptedTensors:
    """The tensors of the backbone's file as an adapter changes them, and those that the adapter brings whole."""

    def __init__(self, folder: Path, backbone: ModelTensors) -> None:
        """Read the adapter in `folder`; the backbone's tensors are read when they are asked for.

        Raises:
            CheckpointError: a kind of adapter that is no low-rank update, an option that is not read, a tensor that fits
                nothing in the backbone's file.
        """
        weights = next((folder / name for name in WEIGHTS if find_file(folder / name) is not None), folder / WEIGHTS[0])
        stored = open_tensors(weights)
        self.files = [folder / CONFIG, *stored.files]
        self.others: dict[str, str] = backbone.others
        self._backbone = backbone
        self._folder = folder
        self._config = _read_config(folder)
        self._whole: dict[str, Tensor] = {}
        self._added_bias: dict[str, Tensor] = {}
        self._updates: dict[str, _Update] = {}
        parts: dict[str, dict[str, Tensor]] = {}
        for name in stored.names():
            tensor = stored.read(name).float()
            if match := _PART.fullmatch(name):
                parts.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = tensor
            else:
                own = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".original_module.", ".")
                self._whole[self._find(own) or own] = tensor
        for module, tensors in parts.items():
            if module.endswith(".base_layer.out_proj"):
                raise CheckpointError(
                    f"{folder} adapts torch.nn.MultiheadAttention, whose out_proj PEFT changes twice up to version 0.21 and "
                    "once later (its pull request 3774), and the file does not tell which; merge the adapter with the "
                    f"version it was trained with: {_merging(folder)}"
                )
            self._add(module.removeprefix(_PREFIX), tensors)

    def names(self) -> list[str]:
        """Return the names of the backbone's tensors, then those of tensors it has not, such as a classifier."""
        return [*self._backbone.names(), *(name for name in self._whole if name not in set(self._backbone.names()))]

    def location(self, name: str) -> TensorLocation:
        """Return where the values of the backbone's tensor are."""
        return self._backbone.location(name)

    def changes(self, name: str) -> bool:
        """Say whether the adapter changes a tensor."""
        return name in self._whole or name in self._updates or name in self._added_bias

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return tuple(self._whole[name].shape) if name in self._whole else self._backbone.shape(name)

    def dtype(self, name: str) -> str:
        """Return the element type of one tensor."""
        return "float32" if name in self._whole else self._backbone.dtype(name)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read one tensor, or some of its rows, with what the adapter changes. Raises `CheckpointError` like the backbone's."""
        tensor = self._whole[name] if name in self._whole else self._backbone.read(name)
        if name in self._added_bias:
            tensor = tensor.float() + self._added_bias[name]
        if name in self._updates:
            tensor = self._updates[name].apply(tensor.float())
        return tensor if rows is None else tensor[rows]

    def factors(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return B `[d_out, r]` and A `[r, d_in]` whose product is what the adapter adds to a tensor; r is 0 where that is
        nothing. None where it is no product of such factors.
        """
        if name in self._whole:
            return None
        if name not in self._updates:
            shape = self._backbone.shape(name)
            return torch.zeros(shape[0], 0), torch.zeros(0, math.prod(shape[1:]))
        update = self._updates[name]
        return None if update.magnitude is not None else (update.B, update.A)

    def _add(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        """Take the update of one module."""
        weight = self._find(f"{module}.weight")
        if weight is None:
            raise CheckpointError(
                f"{self._folder} adapts {module}, which the backbone's file has not (it begins with "
                f"{self._backbone.names()[0]}); name the backbone in the form that the adapter was trained on"
            )
        if missing := {"lora_A", "lora_B"} - tensors.keys():
            raise CheckpointError(f"{self._folder}: {module} has no {' and no '.join(sorted(missing))}; save the adapter again")
        A, B = tensors["lora_A"].flatten(1), tensors["lora_B"].flatten(1)
        shape = self._backbone.shape(weight)
        if B.shape[1] != len(A) or len(B) != shape[0] or A.shape[1] != math.prod(shape[1:]) or not len(A):
            raise CheckpointError(
                f"{self._folder}: the factors of {module} are {list(B.shape)} and {list(A.shape)}, and the backbone's {weight} "
                f"is {list(shape)}; name the backbone that the adapter was trained on, and save the adapter whole"
            )
        rank = len(A)
        alpha = _by_pattern(self._config["alpha_pattern"], module, self._config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if self._config["use_rslora"] else rank)
        magnitude = tensors.get("lora_magnitude_vector")
        self._updates[weight] = _Update(scale * B, A, None if magnitude is None else magnitude.flatten())
        if "lora_B.bias" in tensors:
            bias = self._find(f"{module}.bias")
            if bias is None:
                raise CheckpointError(
                    f"{self._folder} adds a bias to {module}, which has none in the backbone; train it again without lora_bias"
                )
            self._added_bias[bias] = scale * tensors["lora_B.bias"]

    def _find(self, name: str) -> str | None:
        """Return what the backbone's file calls a tensor; a vision tower may be saved with and without its prefix."""
        names = set(self._backbone.names())
        return next((own for own in (name, f"vision_model.{name}", name.removeprefix("vision_model.")) if own in names), None)


ModelTensors = TensorFiles | AdaptedTensors


def adapted_factors(parameter: StoredParameter, tensors: AdaptedTensors) -> tuple[Tensor, Tensor] | None:
    """Return B `[d_out, r]` and A `[r, d_in]` of what an adapter adds to an internal weight `[d_out, d_in]`; None where that is
    no such product.

    The weight may be rows of a tensor, or its rows times what is stored beside it, which then happens to B.
    """
    weight, *scales = parameter.sources
    factors = tensors.factors(weight.key)
    if factors is None or any(tensors.changes(scale.key) for scale in scales):
        return None
    B, A = factors
    if weight.parts > 1:
        B = B.chunk(weight.parts)[weight.part]
    if scales:
        B = parameter.function(B, *(scale.read(tensors) for scale in scales))
    shape = parameter.shape(tensors)
    if (len(B), A.shape[1]) != shape:  # stored the other way around
        B, A = A.T, B.T
    return (B, A) if (len(B), A.shape[1]) == shape else None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config = {"alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False, "lora_alpha": 8} | {
        name: value for name, value in read_json_object(path).items() if value is not None
    }
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path}: peft_type is {shown(config.get('peft_type'))}, but only LORA, with DoRA and rsLoRA, is read; merge the "
            f"adapter into the model: {_merging(folder)}"
        )
    for name, value in config.items():
        if name not in (*_READ, *_FREE) and value not in (False, [], {}):
            raise CheckpointError(f"{path}: {name} is {shown(value)}, which is not read; merge the adapter: {_merging(folder)}")
    if config.get("init_lora_weights", True) not in _UNCHANGING:
        raise CheckpointError(
            f"{path}: init_lora_weights is {shown(config['init_lora_weights'])}, which took a part of the backbone into the "
            f"adapter; merge it: {_merging(folder)}"
        )
    alpha, patterns = config["lora_alpha"], config["alpha_pattern"]
    if not isinstance(patterns, dict) or not all(_is_number(value) for value in (alpha, *patterns.values())):
        raise CheckpointError(f"{path}: lora_alpha and alpha_pattern must be numbers, and are {shown([alpha, patterns])}")
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise CheckpointError(
                f"{path}: alpha_pattern names modules by {shown(pattern)}, and only names with '.', '|', '^' and '.*' are "
                f"read; merge the adapter into the model: {_merging(folder)}"
            )
    return config


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _by_pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Return the value of the first pattern that the end of a module's name matches, as PEFT does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _merging(folder: Path) -> str:
    return f'PeftModel.from_pretrained(model, "{folder.name}").merge_and_unload().save_pretrained("merged")'
