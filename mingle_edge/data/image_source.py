"""What a task file says about where images are. Reading it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

CLASS = "<class>"
"""The component of a pattern that stands for the folder of one class."""

WHOLE = (0.0, 1.0)


@dataclass(frozen=True)
class ImageSource:
    """Images by class, or the unlabeled images of a folder."""

    files: (
        str  # `dir/<class>/*.png`, a folder without labels, or `data/test-*.parquet`; on the hub or relative to the task file
    )
    image: str | None = None  # parquet: the column of encoded images; None: the only one of that form
    label: str | None = None  # parquet: the column of class numbers; None: the only one of that form
    share: tuple[float, float] = WHOLE  # of the images of every class, in an order that is random but always the same

    @property
    def parquet(self) -> bool:
        """Say whether the images are rows of parquet files."""
        return PurePath(self.files).suffix == ".parquet"

    @property
    def labeled(self) -> bool:
        """Say whether each image has a class; a plain folder is used whole, without labels."""
        return self.parquet or CLASS in PurePath(self.files).parts
