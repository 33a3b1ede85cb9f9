"""A stream that ends before the model: it fetches and decodes for another process, and answers in slabs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batchrec.models.backends import Scores
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.lending import Slab
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.stream import Stream
from batchrec.pipeline.waiting import FetchedImage
from batchrec.storage import ImageReader


class Feed(Stream):
    """Fetches and decodes lots of images. Safe to use from several threads; their lots overlap.

    Args:
        reader: Fetches one image.
        decoder: Decodes and resizes one image.
        num_threads: Cores to decode on.
        crop: Side of the model's input, in pixels.
        hands: What its threads are at.
    """

    def __init__(self, reader: ImageReader, decoder: Decoder, *, num_threads: int, crop: int, hands: Hands) -> None:
        super().__init__(reader, decoder, _NO_MODEL, num_threads=num_threads, top_k=0, hands=hands)
        self._crop = crop

    def decode(self, uris: Sequence[str | None]) -> Slab:
        """Return what can be decoded of some images.

        Raises:
            RuntimeError: The feed was closed.
        """
        lot = _FilledLot(uris, self._crop)
        self._admit(lot)
        return lot.slab()

    def _place(self, image: FetchedImage, pixels: Pixels) -> None:
        assert isinstance(image.collector, _FilledLot), "a feed has no other"
        self._bench.drop(image.let_go())
        image.collector.fill(image.row, pixels)


class _FilledLot(Collector):
    """Gathers the pixels of a lot, in the order in which they come."""

    def __init__(self, uris: Sequence[str | None], crop: int) -> None:
        super().__init__(uris, 0)
        self._pixels = np.empty((len(uris), crop, crop, 3), np.uint8)
        self._places: list[int] = []

    def fill(self, row: int, pixels: Pixels) -> None:
        """Keep an image."""
        with self._lock:
            slot = len(self._places)
            self._places.append(row)
        self._pixels[slot] = pixels
        self._end(1)

    def slab(self) -> Slab:
        """Wait for the last image and return those there are."""
        found = self.future.result()
        places = np.array(self._places, np.int32)
        return Slab(
            self._pixels[: len(places)],
            places,
            found.width[places],
            found.height[places],
            found.num_bytes[places],
            found.stats.decode_s,
        )


@dataclass(slots=True)
class _NoModel:
    """Takes the place of a backend, and no batch; see :class:`batchrec.models.backends.Backend`."""

    name: str = "none"
    device: str = "none"
    precision: str = "none"
    batch_size: int = 1
    concurrency: int = 0

    def new_slab(self) -> NDArray[np.uint8]:
        raise AssertionError("images do not come this far")

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        raise AssertionError("images do not come this far")


_NO_MODEL: Final = _NoModel()
