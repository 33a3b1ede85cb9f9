"""The workbench: what waits between the stages of one worker, and who may take what.

A monitor without threads or I/O of its own. Threads put things down and take things up; it holds the
bounds, fills batches, and flushes a partial batch when nothing is left that could fill it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf

import numpy as np

from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.waiting import Batch, FetchedImage, Source, WaitingImages

#: Batches given to the model or waiting for it, below which its device has time for something else.
_STARVING_BELOW = 2


class Room:
    """What one read holds of the bytes that may be under way; one thread at a time.

    Attributes:
        num_bytes: Held now.
        waited_s: Time spent waiting for room, which is no time of reading.
    """

    __slots__ = ("_bench", "num_bytes", "waited_s")

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.num_bytes = 0
        self.waited_s = 0.0

    def reserve(self, num_bytes: int, patience_s: float | None) -> bool:
        """Wait for room and hold it instead of what was held before; see :data:`batchrec.storage.Reserve`."""
        returned, self.num_bytes = self.num_bytes, 0
        granted, waited_s = self._bench.exchange(returned, num_bytes, patience_s)
        self.waited_s += waited_s
        if granted:
            self.num_bytes = num_bytes
        return granted


class Workbench:
    """Bounded queues of one worker.

    Args:
        new_slab: Makes room for one batch, uint8 (batch size, height, width, 3), in the memory its reader likes best.
        max_buffered_bytes: Encoded images from before they are read until they are decoded. One larger than
            all of it gets through alone.
        max_ready_batches: Full batches waiting for the model; decoding pauses at it.
        max_reads: How many rows may be taken at once that are not read yet; asked each time, as it may change.
    """

    def __init__(
        self,
        new_slab: Callable[[], np.ndarray],
        *,
        max_buffered_bytes: int,
        max_ready_batches: int,
        max_reads: Callable[[], float] = lambda: inf,
    ) -> None:
        self._max_reads = max_reads
        self._new_slab = new_slab
        self._max_buffered_bytes = max_buffered_bytes
        self._max_ready_batches = max_ready_batches
        lock = threading.Lock()
        self._rows_ready = threading.Condition(lock)
        self._room_ready = threading.Condition(lock)
        self._work_ready = threading.Condition(lock)  # for who decodes, whether or not it predicts too
        self._batch_ready = threading.Condition(lock)  # for who only predicts: an image must not wake it
        self._device_idle = threading.Condition(lock)  # for who decodes on the model's device
        self._lock = lock
        self._sources: deque[Source] = deque()
        self._images = WaitingImages()
        self._batches: deque[Batch] = deque()
        self._free_slabs: list[np.ndarray] = []
        self._open: Batch | None = None
        self._held_bytes = 0
        self._num_wanting_room = 0
        self._num_reads = 0
        self._num_upstream = 0
        self._num_predicting = 0
        self._closed = False

    def add_shard(self, collector: Collector) -> None:
        """Queue a shard's rows behind those of earlier shards."""
        with self._lock:
            self._sources.append(Source(collector, range(len(collector.uris))))
            self._rows_ready.notify()

    def next_row(self, *, again: bool = False) -> tuple[Collector, int] | None:
        """Take the next row to fetch; waits for rows, for room and for its turn. None once closed.

        Args:
            again: Whether the caller has read the row it took before.
        """
        with self._lock:
            self._num_reads -= again
            while not self._closed:
                if self._may_take():
                    taken = self._take_row()
                    if self._may_take():
                        self._rows_ready.notify()  # one wakes the next: many may wait where few can begin
                    return taken
                self._rows_ready.wait()
            return None

    def exchange(self, returned: int, wanted: int, patience_s: float | None) -> tuple[bool, float]:
        """Give bytes back and hold others instead, waiting for room.

        Args:
            returned: Bytes held until now.
            wanted: Bytes to hold.
            patience_s: How long to wait at most; None for as long as it takes.

        Returns:
            Whether they are held now, and the seconds waited.

        Raises:
            RuntimeError: The stream was closed.
        """
        with self._lock:
            self._release(returned)
            waited_s = 0.0 if self._fits(wanted) else self._wait_for_room(wanted, patience_s)
            if self._closed:
                raise RuntimeError("the stream was closed")
            granted = self._fits(wanted)
            if granted:
                self._held_bytes += wanted
            return granted, waited_s

    def put_image(self, image: FetchedImage) -> None:
        """Put an encoded image, whose bytes are held already, down to be decoded."""
        with self._lock:
            self._images.put(image)
            self._work_ready.notify()
            self._device_idle.notify()

    def next_work(self, *, decodes: bool, predicts: bool) -> FetchedImage | Batch | None:
        """Take a full batch, or else the next image to decode, as the caller can do; None once closed."""
        with self._lock:
            while not self._closed:
                if predicts and self._batches:
                    self._work_ready.notify_all()  # decoders held back by the batches that wait
                    self._num_predicting += 1
                    return self._batches.popleft()
                if decodes and self._images and len(self._batches) < self._max_ready_batches:
                    return self._images.take()
                (self._work_ready if decodes else self._batch_ready).wait()
            return None

    def next_together(self, least: int, most: int, most_pixels: int) -> list[FetchedImage] | None:
        """Take images for the model's device, which has nothing better to do; None once closed.

        Args:
            least: How many must wait: fewer are left to the cores.
            most: How many are taken.
            most_pixels: Of all of them together.
        """
        with self._lock:
            while not self._closed:
                is_starving = len(self._batches) + self._num_predicting < _STARVING_BELOW
                if is_starving and self._images.num_for_device >= least:
                    return self._images.take_together(most, most_pixels)
                self._device_idle.wait()
            return None

    def drop(self, num_bytes: int) -> None:
        """Note that a row taken with :meth:`next_row` ends before it reaches a batch, and what it held."""
        with self._lock:
            self._release(num_bytes)
            self._num_upstream -= 1
            self._flush_if_idle()

    def give_up(self, image: FetchedImage, error: Exception) -> None:
        """End the shard of an image taken from here, by a fault that is not the image's."""
        self.drop(image.let_go())
        image.collector.abort(error)

    def place(self, image: FetchedImage, pixels: np.ndarray) -> None:
        """Copy a decoded image into the next slot, let its bytes go; the batch goes to the model once it is full."""
        with self._lock:
            batch = self._open = self._open or self._new_batch()
            slot = len(batch.rows)
            batch.rows.append((image.collector, image.row))
            if slot + 1 == len(batch.slab):
                self._open = None
        batch.slab[slot] = pixels
        with self._lock:
            batch.num_copied += 1
            self._release(image.let_go())
            self._num_upstream -= 1
            if batch is not self._open and batch.num_copied == len(batch.rows):
                self._ready(batch)
            self._flush_if_idle()

    def give_back(self, batch: Batch) -> None:
        """Return a batch whose scores are out, so that its slab is used again."""
        with self._lock:
            self._free_slabs.append(batch.slab)
            self._num_predicting -= 1
            self._device_idle.notify()

    def num_reading(self) -> int:
        """Return how many rows were taken to be fetched and are not read yet."""
        with self._lock:
            return self._num_reads

    def fill(self) -> dict[str, float]:
        """Return how full the queues are, from 0 to 1: encoded images waiting, and batches waiting for the model."""
        with self._lock:
            return {
                "images": min(1.0, self._held_bytes / self._max_buffered_bytes),
                "batches": len(self._batches) / self._max_ready_batches,
            }

    def close(self) -> None:
        """Wake every waiting thread and give it nothing."""
        with self._lock:
            self._closed = True
            for waiting in (self._rows_ready, self._room_ready, self._work_ready, self._batch_ready, self._device_idle):
                waiting.notify_all()

    def _may_take(self) -> bool:
        # While a read waits for room no other begins, so that a large image gets its turn.
        has_room = not self._num_wanting_room and self._held_bytes < self._max_buffered_bytes
        return has_room and bool(self._sources) and self._num_reads < self._max_reads()

    def _take_row(self) -> tuple[Collector, int]:
        source = self._sources[0]
        row, source.rows = source.rows[0], source.rows[1:]
        if not source.rows or source.collector.future.done():
            self._sources.popleft()
        self._num_upstream += 1
        self._num_reads += 1
        return source.collector, row

    def _fits(self, num_bytes: int) -> bool:
        return not self._held_bytes or self._held_bytes + num_bytes <= self._max_buffered_bytes

    def _wait_for_room(self, num_bytes: int, patience_s: float | None) -> float:
        began = time.perf_counter()
        self._num_wanting_room += 1
        self._room_ready.wait_for(lambda: self._closed or self._fits(num_bytes), patience_s)
        self._num_wanting_room -= 1
        if not self._num_wanting_room:
            self._rows_ready.notify()
        return time.perf_counter() - began

    def _release(self, num_bytes: int) -> None:
        if not num_bytes:
            return
        self._held_bytes -= num_bytes
        if self._num_wanting_room:
            self._room_ready.notify_all()
        else:
            self._rows_ready.notify()

    def _new_batch(self) -> Batch:
        return Batch(self._free_slabs.pop() if self._free_slabs else self._new_slab())

    def _flush_if_idle(self) -> None:
        if self._open is not None and not self._sources and not self._num_upstream:
            batch, self._open = self._open, None
            self._ready(batch)

    def _ready(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._work_ready.notify_all()
        self._batch_ready.notify_all()
