"""The images of one task: files, and the number of each one's class where it is known. Listing them needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mingle_edge.clip.architecture import VisionArchitecture
    from mingle_edge.data.corruptions import Corruption
    from mingle_edge.data.found_images import FoundImages

BATCH = 64  # images; what batch-pooled gates are pooled over, as in the paper's evaluation


@dataclass
class ImageSet:
    """Images that are read when they are asked for.

    A set of at most `kept_bytes` of preprocessed ones is then held in memory; a larger one is decoded again each time.
    """

    paths: Sequence[Path]
    labels: Sequence[int] = ()  # class numbers, one per image; empty for unlabeled images
    kept_bytes: int = 0
    found: FoundImages | None = field(default=None, repr=False, compare=False)  # where they are from; None: of no task file
    _kept: dict[tuple[VisionArchitecture, Corruption | None], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.paths)

    def kept(self, kept_bytes: int) -> ImageSet:
        """Return the same images as a set that holds up to so many bytes of them in memory for as long as it lives."""
        return replace(self, kept_bytes=kept_bytes)

    def load(self, numbers: Sequence[int], architecture: VisionArchitecture, corruption: Corruption | None = None) -> Tensor:
        """Return the images with these numbers as the tower takes them, `[len(numbers), 3, H, W]`.

        Raises:
            ImageFolderError: an image cannot be decoded.
        """
        from mingle_edge.data.images import load_images

        if len(self) * 3 * architecture.image_size**2 * 4 > self.kept_bytes:
            return load_images([self.paths[n] for n in numbers], architecture, corruption)
        if (architecture, corruption) not in self._kept:
            self._kept[architecture, corruption] = load_images(self.paths, architecture, corruption)
        return self._kept[architecture, corruption][list(numbers)]

    def batches(
        self,
        architecture: VisionArchitecture,
        numbers: Sequence[int] | None = None,
        corruption: Corruption | None = None,
        size: int = BATCH,
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield numbers of images, of all or of those given, and the images; the next batch is decoded while one is used."""
        numbers = range(len(self)) if numbers is None else numbers
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = [pool.submit(self.load, part, architecture, corruption) for part in parts[:1]]
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                images = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self.load, following, architecture, corruption))
                yield part, images

    def evenly(self, count: int) -> Sequence[int]:
        """Return numbers of `count` images spread over the set, whose classes follow one another; all if there are no more."""
        if count >= len(self):
            return range(len(self))
        return [i * len(self) // count for i in range(count)]
