"""What waits between the stages of one worker: rows to fetch, encoded images, batches for the model."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.jpeg import JpegHeader


@dataclass(slots=True, eq=False)
class Source:
    """Rows of one shard that wait to be fetched; ``stays`` says that no other process may be asked to."""

    collector: Collector
    rows: range
    stays: bool = False


@dataclass(slots=True)
class FetchedImage:
    """An encoded image waiting to be decoded, or being decoded.

    Attributes:
        jpeg: Its header, where the model's device may decode it as well as a core.
    """

    collector: Collector
    row: int
    data: bytes
    jpeg: JpegHeader | None = None

    def let_go(self) -> int:
        """Forget the bytes, and return how many there were, once."""
        num_bytes, self.data = len(self.data), b""
        return num_bytes

    @property
    def num_pixels(self) -> int:
        """Of what a device would decode."""
        return self.jpeg.size[0] * self.jpeg.size[1] if self.jpeg else 0


class WaitingImages:
    """Two queues: what only cores can decode, and what a device may decode too. Whoever uses it brings a lock.

    A core takes of the first as long as it has any, so that the split between the two settles by itself: a device
    takes what the cores leave.
    """

    def __init__(self) -> None:
        self._for_cores: deque[FetchedImage] = deque()
        self._for_either: deque[FetchedImage] = deque()

    def __len__(self) -> int:
        return len(self._for_cores) + len(self._for_either)

    @property
    def num_for_device(self) -> int:
        """How many a device may decode."""
        return len(self._for_either)

    def put(self, image: FetchedImage) -> None:
        """Queue an image."""
        (self._for_cores if image.jpeg is None else self._for_either).append(image)

    def take(self) -> FetchedImage:
        """Take the image a core decodes next; there must be one."""
        return (self._for_cores or self._for_either).popleft()

    def take_together(self, most: int, most_pixels: int) -> list[FetchedImage]:
        """Take up to so many images of a device, and of so many pixels; at least one, where there is one."""
        taken: list[FetchedImage] = []
        num_pixels = 0
        while self._for_either and len(taken) < most:
            num_pixels += self._for_either[0].num_pixels
            if taken and num_pixels > most_pixels:
                break
            taken.append(self._for_either.popleft())
        return taken


@dataclass(slots=True, eq=False)
class Batch:
    """A slab of images for one forward pass.

    Attributes:
        slab: uint8 (batch size, height, width, 3); slots behind the last are whatever was there before.
        rows: Whose image lies in each slot.
        num_copied: Slots whose pixels are in place.
    """

    slab: np.ndarray
    rows: list[tuple[Collector, int]] = field(default_factory=list)
    num_copied: int = 0

    def abort(self, error: Exception) -> None:
        """End the shards of its images."""
        for collector, _ in self.rows:
            collector.abort(error)
