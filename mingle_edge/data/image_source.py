"""What a task file says about where images are. Reading it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

CLASS = "<class>"
"""The component of a pattern that stands for the folder of one class."""

WHOLE = (0.0, 1.0)

Kind = Literal["class folders", "parquet", "webdataset", "list", "folder"]
_BY_SUFFIX: dict[str, Kind] = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".csv": "list",
    ".tsv": "list",
    ".jsonl": "list",
}


@dataclass(frozen=True)
class ImageSource:
    """Images by class, or the unlabeled images of a folder."""

    files: str  # `dir/<class>/*.png`, a folder, `data/test-*.parquet` ...; on the hub or relative to the task file
    image: str | None = None  # the column of images; None: the only one of that form
    label: str | None = None  # the column of labels; None: the only one of that form
    share: tuple[float, float] = WHOLE  # of the images of every class, in an order that is random but always the same
    split: str | None = None  # of a folder or data set: train, validation, test, or its own name for one
    config: str | None = None  # of a folder or data set that has several: the one that is read
    usual_split: str | None = None  # what is read of a folder or data set that is divided where no split is named

    @property
    def kind(self) -> Kind:
        """Return the form of the images, as the name of the files says it; a folder may be laid out in many ways."""
        if CLASS in PurePath(self.files).parts:
            return "class folders"
        return _BY_SUFFIX.get(PurePath(self.files).suffix, "folder")

    @property
    def labeled(self) -> bool:
        """Say whether each image has a class; of a folder of which no split is read all images are used, without labels."""
        return self.kind != "folder" or self.split is not None or self.usual_split is not None
