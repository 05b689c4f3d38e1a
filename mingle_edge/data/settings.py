"""Every setting of a merge, with its default and its allowed values."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mingle_edge.clip.architecture import VisionArchitecture
from mingle_edge.core.errors import TaskFileError, shown

Pooling = Literal["image", "batch"]
"""Over what a gate value is averaged besides the tokens of an image: nothing more, or the batch."""
CONSTANT_START = 0.3
"""A constant gate at the scale of static experts in the paper's ablation."""
AUTOMATIC: Literal["auto"] = "auto"
LARGEST_AUTOMATIC_RANK = 64
"""The most that is tried, and the rank where nothing can be tried: in the layer scope, and with few seeds."""


@dataclass(frozen=True)
class Settings:
    """Settings of a merge. Paper sections are those of MINGLE, arXiv 2505.11883.

    Attributes:
        scope: `image`: a router chooses one expert for the whole network. `layer`: the paper's gates choose experts in every
            layer.
        rank: how many directions of a linear layer's change an expert keeps. A higher rank is closer to the fine-tuned model,
            larger and slower. A layer keeps at most the smaller of its two sides. `auto` takes, task by task, the smallest up
            to 64 that keeps what `keep` asks for; 64 in the layer scope, and where a task has fewer than ten seeds.
        layers: which linear layers of a block carry experts: all six, or without the attention's output and the MLP's second
            layer, as MINGLE* has it.
        seed: of everything random: which seed images are drawn, their variations, and the gates' adaptation.
        semantics: which defaults the other settings have: this project's, or those of the published code.
        keep: image scope. With `rank = "auto"`, how many points of accuracy an expert may lose, as its fine-tuned model expects
            it on seeds left out of the adaptation.
        expert_steps: image scope. How many steps an expert is adapted for, on the seeds and without labels, towards its
            fine-tuned model. 0 keeps it as the rank cuts it. 150 pays where experts must be small, of less than a tenth of the
            tower's width, and takes minutes a task.
        expert_learning_rate: image scope. Of the Adam optimizer that adapts an expert; it falls to 0.
        router_blocks: image scope. How many blocks of the plain backbone the router reads where the pixels leave it in doubt.
            `auto` chooses none, or 0 to 3, by leaving out one seed image after the other; 0 reads the embedded image.
        router_augmentations: image scope. How many variations of each seed image the router learns from. 0 takes the seed
            images alone, and routes worse.
        refused: image scope. What share of their own images, at most, the tasks may refuse as foreign, as seeds that the router
            has not seen tell. Refused images run on the plain backbone. More finds more of the images that belong to no task.
        interference_projection: layer scope. Keep a new expert out of the leading directions of earlier ones (section 3.1).
        gate_pooling: layer scope. What a gate's value is averaged over: the tokens of one image, or those of a batch, as
            published (section 3.2).
        gate_start: layer scope. Where a new gate starts: at a small constant inside the null space, or at random, N(0, 0.01).
        steps: layer scope. How many steps a new gate is adapted for.
        learning_rate: layer scope. Of the Adam optimizer that adapts a gate.
        batch_size: layer scope. Images per step of a gate's adaptation.
        temperature: layer scope. Of the distillation from the fine-tuned model; a higher one makes its answers softer.
        projected: layer scope. What is kept in the null space: Adam's updates, or the gradients that go into it (section 3.3).
        subspace_inputs: layer scope. What counts as an input of earlier tasks: a gate's own, the mean token, or all tokens.
        subspace_basis: layer scope. How new directions are made orthogonal; `rank-checked` leaves out dependent ones.
        subspace_directions: layer scope. How many directions each task adds to what later gates may not react to.
        relaxation: layer scope. Gamma of the paper. The more a gate's updates pushed along a protected direction, the less of
            it is taken out of them. 0 takes out everything.
        relaxation_decay: layer scope. Beta of the paper: what share of that record is kept from one step to the next.
    """

    scope: Literal["image", "layer"] = "image"
    rank: int | Literal["auto"] = AUTOMATIC
    layers: Literal["attn+mlp", "qkv+fc1"] = "attn+mlp"
    seed: int = 0
    semantics: Literal["mingle-edge", "official"] = "mingle-edge"
    keep: float = 0.3
    expert_steps: int = 0
    expert_learning_rate: float = 5e-4
    router_blocks: int | Literal["auto"] = "auto"
    router_augmentations: int = 16
    refused: float = 0.02
    interference_projection: bool = True
    gate_pooling: Pooling = "image"
    gate_start: Literal["null-space", "random"] = "null-space"
    steps: int = 50
    learning_rate: float = 1e-4
    batch_size: int = 16
    temperature: float = 2.0
    projected: Literal["update", "gradient"] = "update"
    subspace_inputs: Literal["mean", "tokens"] = "mean"
    subspace_basis: Literal["rank-checked", "qr"] = "rank-checked"
    subspace_directions: int = 3
    relaxation: float = 0.0
    relaxation_decay: float = 0.99

    @property
    def largest_rank(self) -> int:
        """Return the rank, or the largest that is tried."""
        return self.rank if isinstance(self.rank, int) else LARGEST_AUTOMATIC_RANK

    def carrying(self) -> tuple[str, ...]:
        """Return the linear layers of a block that carry experts."""
        return ("q", "k", "v", "out", "fc1", "fc2") if self.layers == "attn+mlp" else ("q", "k", "v", "fc1")

    def idle(self) -> list[str]:
        """Return the names of settings that were changed and do nothing in this scope."""
        defaults = OFFICIAL if self.semantics == "official" else Settings()
        names = LAYER_SCOPE if self.scope == "image" else IMAGE_SCOPE
        return [name for name in names if getattr(self, name) != getattr(defaults, name)]

    def of_experts(self) -> tuple[int | str | float, ...]:
        """Return all that an expert of the image scope depends on."""
        return self.rank, self.layers, self.keep, self.expert_steps, self.expert_learning_rate, self.seed

    def expert_layers(self, architecture: VisionArchitecture) -> list[str]:
        """Return the linear layers of a tower that carry experts, by depth; in the image scope all outside the blocks, too."""
        inside = {layer for layer in architecture.block_linears() if layer.rsplit(".", 1)[-1] in self.carrying()}
        carrying = inside | set(architecture.outer_linears() if self.scope == "image" else ())
        return [layer for layer in architecture.linear_layers() if layer in carrying]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_mapping` turns back into equal settings."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], where: str = "[settings]") -> Settings:
        """Read settings from a TOML table; `semantics = "official"` changes defaults, never given values.

        Raises `TaskFileError` naming the setting, the rule and the value.
        """
        hints = get_type_hints(cls)
        for name, value in values.items():
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"settings are: {', '.join(hints)}"
                raise TaskFileError(f"{where}: there is no setting {shown(name)}; {hint}")
            _check_type(where, name, value, hints[name])
            _check_range(where, name, value)
        defaults = OFFICIAL if values.get("semantics") == "official" else cls()
        given: dict[str, Any] = {name: float(v) if hints[name] is float else v for name, v in values.items()}
        return replace(defaults, **given)

    def difference(self, other: Settings) -> list[str]:
        """Return the settings in which two merges differ, readable: `name: mine, theirs`."""
        names = [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]
        return [f"{name}: {getattr(self, name)!r}, {getattr(other, name)!r}" for name in names]


OFFICIAL = Settings(
    semantics="official",
    scope="layer",
    gate_pooling="batch",
    gate_start="random",
    projected="gradient",
    subspace_inputs="tokens",
    subspace_basis="qr",
    relaxation=1.0,
)
"""The published configuration: batch-pooled gates, relaxed gradient projection, QR basis of all tokens."""

IMAGE_SCOPE = ("keep", "expert_steps", "expert_learning_rate", "router_blocks", "router_augmentations", "refused")
LAYER_SCOPE = (
    *("interference_projection", "gate_pooling", "gate_start", "steps", "learning_rate", "batch_size", "temperature"),
    *("projected", "subspace_inputs", "subspace_basis", "subspace_directions", "relaxation", "relaxation_decay"),
)
"""Settings that do something in one scope alone."""

RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 1 << 16),
    "seed": (0, (1 << 63) - 1),
    "keep": (0.0, 100.0),
    "expert_steps": (0, 1 << 20),
    "expert_learning_rate": (1e-12, 10.0),
    "router_blocks": (0, 1 << 16),
    "router_augmentations": (0, 1 << 16),
    "refused": (0.0, 0.5),
    "steps": (1, 1 << 20),
    "learning_rate": (1e-12, 10.0),
    "batch_size": (1, 1 << 16),
    "temperature": (1e-3, 1e3),
    "subspace_directions": (1, 1 << 16),
    "relaxation": (0.0, 1e6),
    "relaxation_decay": (0.0, 1 - 1e-9),
}
"""Least and most of every setting that is a number: beyond them sums overflow, or the work never ends."""


def _check_range(where: str, name: str, value: Any) -> None:
    """Compare before anything is made a float, as an integer may be larger than any float. NaN is in no range."""
    if name not in RANGES or isinstance(value, str):
        return
    least, most = RANGES[name]
    if value < least:
        rule = f"must not be negative, and is {shown(value)}" if least == 0 else f"must be at least {least}, not {shown(value)}"
        raise TaskFileError(f"{where}: {name} {rule}")
    if not value <= most:
        raise TaskFileError(f"{where}: {name} must be at most {most}, not {shown(value)}")


def _check_type(where: str, name: str, value: Any, hint: Any) -> None:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is_of(value, kind) for kind in kinds):
        raise TaskFileError(f"{where}: {name} must be {' or '.join(map(_described, kinds))}, not {shown(value)}")


def _is_of(value: Any, kind: Any) -> bool:
    if choices := get_args(kind):
        return value in choices
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _described(kind: Any) -> str:
    if choices := get_args(kind):
        return f"one of {', '.join(map(repr, choices))}" if len(choices) > 1 else repr(choices[0])
    return {int: "a whole number", float: "a number", bool: "true or false"}[kind]
