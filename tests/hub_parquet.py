"""Parquet files of images as the `datasets` library uploads them, written with pyarrow alone. Shared by several tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mingle_edge.data.image_source import ImageSource
from mingle_edge.data.labeled_images import read_labeled

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # what the feature Image is stored as


def encoded(number: int, kind: str = "PNG") -> bytes:
    """A small image that its number determines."""
    pixels = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_shard(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any],
    names: list[str] | None = None,
    *,
    image: str = "image",
    label: str = "label",
    label_type: Any = None,
    rows_per_group: int = 3,
    others: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
) -> None:
    """Write one file with an image column, a label column whose class names the schema's metadata holds, and others."""
    columns = {
        image: pa.array([{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)], type=IMAGE),
        label: pa.array(labels, type=label_type or (pa.string() if isinstance(labels[0], str) else pa.int64())),
    } | (others or {})
    described = {image: {"_type": "Image"}} | (features or {})
    if names is not None:
        described[label] = {"names": names, "_type": "ClassLabel"}
    table = pa.table(columns)
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows_per_group)


def labeled_pairs(source: ImageSource, base: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return every image of a labeled source with the number of its class."""
    images = read_labeled(source, base, classes)
    return list(zip(images.paths, images.labels, strict=True))
