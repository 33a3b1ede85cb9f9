"""The workbench: what waits between the stages of one worker, and who may take what.

A monitor without threads or I/O of its own. Threads put things down and take things up; it holds the
bounds, fills batches, and flushes a partial batch when nothing is left that could fill it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from batchrec.pipeline.collecting import Collector


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """An encoded image waiting to be decoded."""

    collector: Collector
    row: int
    data: bytes


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


class Workbench:
    """Bounded queues of one worker.

    Args:
        slab_shape: Shape of a batch, (batch size, height, width, 3).
        max_buffered_bytes: Encoded images waiting to be decoded; fetching pauses above it.
        max_ready_batches: Full batches waiting for the model; decoding pauses at it.
    """

    def __init__(
        self, slab_shape: tuple[int, int, int, int], *, max_buffered_bytes: int, max_ready_batches: int
    ) -> None:
        self._slab_shape = slab_shape
        self._max_buffered_bytes = max_buffered_bytes
        self._max_ready_batches = max_ready_batches
        lock = threading.Lock()
        self._rows_ready = threading.Condition(lock)
        self._work_ready = threading.Condition(lock)  # for who decodes, whether or not it predicts too
        self._batch_ready = threading.Condition(lock)  # for who only predicts: an image must not wake it
        self._lock = lock
        self._sources: deque[tuple[Collector, int]] = deque()
        self._images: deque[FetchedImage] = deque()
        self._batches: deque[Batch] = deque()
        self._free_slabs: list[np.ndarray] = []
        self._open: Batch | None = None
        self._buffered_bytes = 0
        self._num_upstream = 0
        self._closed = False

    def add_shard(self, collector: Collector) -> None:
        """Queue a shard's rows behind those of earlier shards."""
        with self._lock:
            self._sources.append((collector, 0))
            self._rows_ready.notify_all()

    def next_row(self) -> tuple[Collector, int] | None:
        """Take the next row to fetch; waits for rows and for room. None once closed."""
        with self._lock:
            while not self._closed:
                if self._sources and self._buffered_bytes < self._max_buffered_bytes:
                    return self._take_row()
                self._rows_ready.wait()
            return None

    def put_image(self, image: FetchedImage) -> None:
        """Put an encoded image down to be decoded."""
        with self._lock:
            self._buffered_bytes += len(image.data)
            self._images.append(image)
            self._work_ready.notify()

    def next_work(self, *, decodes: bool, predicts: bool) -> FetchedImage | Batch | None:
        """Take a full batch, or else the next image to decode, as the caller can do; None once closed."""
        with self._lock:
            while not self._closed:
                if predicts and self._batches:
                    self._work_ready.notify_all()  # decoders held back by the batches that wait
                    return self._batches.popleft()
                if decodes and self._images and len(self._batches) < self._max_ready_batches:
                    image = self._images.popleft()
                    self._buffered_bytes -= len(image.data)
                    self._rows_ready.notify()
                    return image
                (self._work_ready if decodes else self._batch_ready).wait()
            return None

    def drop(self) -> None:
        """Note that a row taken with :meth:`next_row` ends before it reaches a batch."""
        with self._lock:
            self._num_upstream -= 1
            self._flush_if_idle()

    def place(self, collector: Collector, row: int, pixels: np.ndarray) -> None:
        """Copy a decoded image into the next slot; the batch goes to the model once it is full."""
        with self._lock:
            if self._open is None:
                self._open = Batch(self._free_slabs.pop() if self._free_slabs else np.zeros(self._slab_shape, np.uint8))
            batch, slot = self._open, len(self._open.rows)
            batch.rows.append((collector, row))
            if slot + 1 == self._slab_shape[0]:
                self._open = None
        batch.slab[slot] = pixels
        with self._lock:
            batch.num_copied += 1
            self._num_upstream -= 1
            if batch is not self._open and batch.num_copied == len(batch.rows):
                self._ready(batch)
            self._flush_if_idle()

    def give_back(self, batch: Batch) -> None:
        """Return a batch whose scores are out, so that its slab is used again."""
        with self._lock:
            self._free_slabs.append(batch.slab)

    def close(self) -> None:
        """Wake every waiting thread and give it nothing."""
        with self._lock:
            self._closed = True
            for waiting in (self._rows_ready, self._work_ready, self._batch_ready):
                waiting.notify_all()

    def _take_row(self) -> tuple[Collector, int]:
        collector, row = self._sources.popleft()
        if row + 1 < len(collector.uris) and not collector.future.done():
            self._sources.appendleft((collector, row + 1))
        self._num_upstream += 1
        return collector, row

    def _flush_if_idle(self) -> None:
        if self._open is not None and not self._sources and not self._num_upstream:
            batch, self._open = self._open, None
            self._ready(batch)

    def _ready(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._work_ready.notify_all()
        self._batch_ready.notify_all()
