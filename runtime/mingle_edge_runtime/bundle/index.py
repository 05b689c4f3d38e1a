"""`bundle.json` as dataclasses, written by the exporter and read by the runtime through the same code.

`docs/bundle-format.md` is the specification; `bundle_rules` checks what types cannot say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mingle_edge_runtime.bundle.json_record import RecordError, read_record, write_record
from mingle_edge_runtime.errors import BundleError

FORMAT = "mingle-edge bundle"
FORMAT_VERSION = 7
INDEX_NAME = "bundle.json"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
LARGEST_CODE = 64
"""Magnitude of an int8 weight's code: two products with activation codes, 2 x 255 x 64, fit 16 bits, to which processors
without VNNI cut their sum."""
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int4"]
StageName: TypeAlias = Literal["pixels", "blocks", "embedding"]
Interpolation: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True)
class FileRecord:
    """What `bundle.json` says about one file."""

    size: int
    """bytes"""
    sha256: str
    """64 lower-case hexadecimal digits"""

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Return size and hash of an existing file."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Architecture:
    """The vision tower's shape, for information."""

    image_size: int
    """pixels, square"""
    patch_size: int
    """pixels, square"""
    width: int
    layers: int
    heads: int
    output_dim: int
    """of the embedding; in CLIP of the shared image-text space"""
    normalized: bool = True
    """whether embeddings have unit length"""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes `pixel_values`: conversion to RGB, resizing, cropping (or padding) at the center, normalization.

    Where nothing else is said, as OpenAI's models and open_clip do it.
    """

    image_size: int
    """pixels, square: of the crop, which the model reads"""
    mean: tuple[float, float, float] = OPENAI_MEAN
    """per RGB channel, of values scaled to [0, 1]"""
    std: tuple[float, float, float] = OPENAI_STD
    """per RGB channel, of values scaled to [0, 1]"""
    resize: Literal["shortest_edge", "longest_edge", "squash"] = "shortest_edge"
    """which side becomes `side`; squash: both, whatever the image's aspect ratio"""
    resized_side: int | None = None
    """pixels; None: image_size"""
    interpolation: Interpolation = "bicubic"
    """Pillow's filter"""
    fill: int = 0
    """value of every channel where an image resized to its longest edge is padded"""
    crop_offset: Literal["half_to_even", "down"] = "half_to_even"
    """how half of an odd margin is rounded: as torchvision does, or transformers"""
    rgb: Literal["after_crop", "before_resize", "before_resize_on_white"] = "after_crop"
    """when an image becomes RGB, transparency dropped or laid on white: open_clip, transformers before 5.21 and since"""

    @property
    def side(self) -> int:
        """Return the pixels of the resized side."""
        return self.resized_side or self.image_size


@dataclass(frozen=True)
class Source:
    """Where the weights came from: sha256 of the checkpoints."""

    backbone_sha256: str
    tasks: dict[str, str]
    """task name -> sha256 of its fine-tuned checkpoint"""


@dataclass(frozen=True)
class SizedForm:
    """A form that a task's expert can be exported in, with what it takes and what it keeps of the fine-tuned model."""

    rank: int
    """directions of each layer; a layer that has fewer keeps those"""
    precision: Precision
    bytes: int
    """at most, of its file"""
    points_lost: float
    """points of accuracy that the fine-tuned model itself expects this form to lose"""
    agreement: float
    """share of left-out images that get the fine-tuned model's label"""


@dataclass(frozen=True)
class Task:
    """One task: its labels, its head, its expert."""

    name: str
    labels: tuple[str, ...]
    """in the order of the head's rows"""
    head: str
    """path of the head's weight `[labels, output_dim]`, float32; of unit rows where it is zero-shot"""
    logit_scale: float
    """multiplier of the weight's products with an embedding"""
    expert_bytes: int
    """bytes: the adapter file (image scope), or the task's pages (layer scope)"""
    rank: int
    """largest rank among the layers"""
    precision: Precision
    """of its expert"""
    expert: str | None = None
    """path of the adapter (image scope)"""
    bias: str | None = None
    """path of the head's bias `[labels]`, float32; zeros where there is none"""
    points_lost: float | None = None
    """points of accuracy that the fine-tuned model expects this expert to lose, on left-out images; None: not measured"""
    agreement: float | None = None
    """share of left-out images that get the fine-tuned model's label with this expert; None: not measured"""
    smaller: SizedForm | None = None
    """the next step down: what its expert could be exported in that takes less and loses more"""
    larger: SizedForm | None = None
    """the next step up: what takes more and loses less"""


@dataclass(frozen=True)
class Stage:
    """One stage of the image scope's router: it settles an image, or leaves it to the next stage."""

    name: StageName
    """what it reads beside the features of the stages before it"""
    file: str
    blocks: int
    """blocks of the plain backbone it reads; 0 but in the stage `blocks`"""
    precision: Precision
    """of their weights"""
    doubt: float
    """an image whose smallest expected loss is larger goes on to the next stage, at the last to the judge"""
    confidence_bound: float
    """an image below it goes on to the next stage; at the last it runs on the plain backbone"""


@dataclass(frozen=True)
class Judge:
    """What decides between two experts, for images that are claimed and in doubt after the last stage: both run."""

    typical: tuple[float, ...]
    """by task, the mean of the largest logit of its own images under its own expert and head"""
    deviation: tuple[float, ...]
    """by task, of that logit"""
    trust: float
    """weight of the logarithm of the posterior"""
    unsure: float
    """an image with less confidence is in doubt after the last stage, whatever it is expected to lose"""
    bound: float
    """an image whose confidence and how typical its chosen expert is, in deviations, add to less runs on the plain backbone"""


@dataclass(frozen=True)
class Router:
    """The image scope's router."""

    stages: tuple[Stage, ...]
    """in the order that an image goes through them"""
    judge: Judge | None = None
    groups: dict[str, tuple[str, ...]] | None = None
    """tasks by the name of their group, a task in one at most; only experts of the most probable group may answer an image"""

    @property
    def one_by_one(self) -> bool:
        """Return whether images must run one at a time: int8 activations share one scale with all that is in the run.

        In all stages: codes of 8 bits would make much of how the one before rounds in a batch.
        """
        return any(stage.precision == "int8" for stage in self.stages)

    def group_of(self, task: str) -> str | None:
        """Return the name of a task's group; None where tasks have none."""
        return next((group for group, tasks in (self.groups or {}).items() if task in tasks), None)


@dataclass(frozen=True)
class DefaultTensor:
    """A float32 tensor inside a file."""

    offset: int
    """bytes, a multiple of 4096"""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Defaults:
    """The plain backbone's vectors, by internal name: what an expert's vectors replace (image scope)."""

    file: str
    tensors: dict[str, DefaultTensor]


@dataclass(frozen=True)
class LayerPages:
    """The pages one layer owns within each task's pages."""

    name: str
    """internal name of the layer"""
    first_page: int
    pages: int


@dataclass(frozen=True)
class PageBank:
    """The layer scope's experts: one tensor `[tasks * pages_per_task, page]`, task after task."""

    file: str
    initializer: str
    """name of the tower's initializer that the bank is"""
    dtype: Literal["float32", "float16", "int8", "uint8"]
    """of the tensor's elements; uint8: two values of 4 bits each"""
    page: int
    """elements per page"""
    pages_per_task: int
    layers: tuple[LayerPages, ...]
    """in the order of `route_tasks`"""


@dataclass(frozen=True)
class Fidelity:
    """How closely the bundle computes what the merged model computes in PyTorch, and must compute the golden outputs."""

    golden_cosine: float
    """at least, between an output of any machine and the golden one"""
    golden_difference: float
    """at most, between a probability or expected loss on any machine and the golden one; of a confidence, relative to itself"""
    cosine: float | None = None
    """the smallest between an embedding and PyTorch's"""
    route_agreement: float | None = None
    """share of routes that are PyTorch's"""


@dataclass(frozen=True)
class BundleIndex:
    """Everything in `bundle.json`."""

    format: str
    format_version: int
    scope: Literal["image", "layer", "folded"]
    precision: Precision
    """of the backbone's weights"""
    exact_layers: tuple[str, ...]
    """layers whose weights are fp32 whatever the precision"""
    fidelity: Fidelity
    minimum_onnxruntime: str
    """dotted version"""
    producer: dict[str, str]
    """package -> version"""
    source: Source
    architecture: Architecture
    preprocess: Preprocess
    logit_scale: float
    """the backbone's, for heads computed later from text: multiplier of cosines before the softmax"""
    top_k: int
    """experts per route"""
    tasks: tuple[Task, ...]
    tower: str
    dense: str
    golden: str
    files: dict[str, FileRecord]
    """path -> size and hash, of every file but `bundle.json`"""
    router: Router | None = None
    """image scope"""
    defaults: Defaults | None = None
    """image scope"""
    page_bank: PageBank | None = None
    """layer scope"""
    tower_required_inputs: str | None = None
    """the tower for languages that cannot feed optional inputs: the same graph without their defaults (not folded)"""

    @property
    def one_by_one(self) -> bool:
        """Return whether images must run one at a time: int8 activations share one scale with all that is in the run."""
        return self.precision == "int8" or any(task.precision == "int8" or self.expands(task) for task in self.tasks)

    def expands(self, task: Task) -> bool:
        """Return whether a task's expert is stored in 4 bits and multiplied in 8, so that it is expanded when it is opened."""
        return self.scope == "image" and task.precision == "int4"

    @property
    def expert_precision(self) -> str:
        """Return the precisions of experts, as in `int8` or `int8, int4`."""
        return ", ".join(dict.fromkeys(task.precision for task in self.tasks))

    @property
    def golden_top_k(self) -> tuple[int, ...]:
        """Return the numbers of experts that golden outputs are recorded for: as exported, and all of them (layer scope)."""
        return tuple(sorted({self.top_k, len(self.tasks)}))

    @property
    def task_names(self) -> tuple[str, ...]:
        """Return the names in the order of the router's columns and of the page bank."""
        return tuple(task.name for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `bundle.json` holds."""
        record: dict[str, Any] = write_record(self)
        return record

    @classmethod
    def from_json(cls, value: object) -> BundleIndex:
        """Read what `to_json` wrote. Raises `BundleError` naming the offending member by its JSON path."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise BundleError(f'{INDEX_NAME}: format must be "{FORMAT}"; this is not a bundle')
        version = value.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(
                f"{INDEX_NAME}: format_version is {version}, this runtime reads up to {FORMAT_VERSION}: "
                "upgrade mingle-edge or export again"
            )
        if isinstance(version, int) and version < FORMAT_VERSION:
            raise BundleError(
                f"{INDEX_NAME}: format_version is {version}, this runtime reads {FORMAT_VERSION}: export again (older bundles "
                "have a router of one stage)"
            )
        try:
            return read_record(cls, value)
        except RecordError as error:
            raise BundleError(f"{INDEX_NAME}: {error}") from error
