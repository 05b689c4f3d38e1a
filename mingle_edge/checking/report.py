"""What a check found: faults for which a merge would refuse, warnings, and the figures of every task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mingle_edge.core.errors import MingleError
from mingle_edge.data.found_images import FoundImages


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or strange."""

    task: str | None  # None: of the file, the settings or the backbone
    part: str  # such as "checkpoint"
    message: str


class Findings(list[Finding]):
    """Findings in the order in which they came, each once."""

    def add(self, task: str | None, part: str, message: object) -> None:
        """Add one."""
        finding = Finding(task, part, str(message))
        if finding not in self:
            self.append(finding)

    @contextmanager
    def of(self, task: str | None, part: str) -> Iterator[None]:
        """Take in the error that ends the block, where it is one a user can act on."""
        try:
            yield
        except MingleError as error:
            self.add(task, part, error)


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint is."""

    path: str
    naming: str  # whose names its parameters have
    container: str  # in words
    dtypes: list[str]
    bytes: int  # of its files
    outside: list[str]  # names of tensors that belong neither to the tower nor to the model around it


@dataclass(frozen=True)
class ImageFacts:
    """What a task's calibration images are."""

    count: int
    per_class: dict[str, int]  # class -> how many were drawn; empty where they have no labels
    found: dict[str, FoundImages | None]  # "seeds", "test", "tune" -> what was read there; None: not looked at
    duplicates: int  # images whose bytes another one before them has
    overlap: dict[str, int | None]  # "test", "tune" -> how many lie among those, byte for byte; None: not looked at


@dataclass(frozen=True)
class WeightFacts:
    """How far fine-tuning moved a tower, and what low rank keeps of that."""

    movement: dict[str, float]  # linear layer -> norm of its task vector over the norm of the backbone's weight
    linear_movement: float  # the same of all linear layers together
    vector_movement: float  # of all other parameters together
    backbone_cosine: float  # of the weights in the blocks
    explained_norm: dict[int, float]  # rank -> share of the squared norm of the task vectors that carry experts


@dataclass(frozen=True)
class TaskFacts:
    """Everything that was found out about a task; None where a fault was in the way."""

    name: str
    classes: int
    checkpoint: CheckpointFacts | None
    head: str | None  # what it comes from
    images: ImageFacts | None
    weights: WeightFacts | None


@dataclass(frozen=True)
class Similarity:
    """Cosines of task vectors, over all layers that carry experts."""

    tasks: list[str]
    cosines: list[list[float]]


@dataclass(frozen=True)
class Confusion:
    """Where the router sends calibration images that it has not seen: leave-one-out."""

    tasks: list[str]
    blocks: int | None  # of the backbone that it reads beside the pixels; None: none
    images: dict[str, int]  # task -> images left out, each with its variations
    routed: dict[str, list[float]]  # task -> the share of these that went to each of `tasks`; none for a task of one image


@dataclass(frozen=True)
class Size:
    """What will be needed at one rank, in bytes of float32."""

    rank: int
    expert: int
    merged_model: int
    bundle: int
    memory: int  # of weights, with the router and one expert resident


@dataclass(frozen=True)
class CheckReport:
    """Everything that `check` found out about a task file."""

    path: Path
    faults: list[Finding]
    warnings: list[Finding]
    settings: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] | None = None
    backbone: CheckpointFacts | None = None
    tasks: list[TaskFacts] = field(default_factory=list)
    spectrum_blocks: list[int] = field(default_factory=list)  # whose layers explained norms are of, with all outside blocks
    similarity: Similarity | None = None
    confusion: Confusion | None = None
    sizes: list[Size] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def refused(self) -> bool:
        """Say whether `merge` would refuse the task file."""
        return bool(self.faults)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {"path": str(self.path), "refused": self.refused} | {
            name: value for name, value in asdict(self).items() if name != "path"
        }
