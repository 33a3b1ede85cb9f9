"""Rows of a workbench in other hands: lent as lots, taken in as pixels, taken back as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import inf

import numpy as np

from batchrec.pipeline.batching import Workbench
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import ImageFacts
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.waiting import Batch, Source


@dataclass(frozen=True, slots=True, eq=False)
class Lot:
    """Rows of one shard that are decoded elsewhere."""

    collector: Collector
    rows: range

    @property
    def uris(self) -> Sequence[str | None]:
        """Their images, in order."""
        return self.collector.uris[self.rows.start : self.rows.stop]


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """What became of a lot: the images that could be decoded. Whoever lent it decides about the others.

    Attributes:
        pixels: uint8 (images, side, side, 3), in any order.
        places: Of each image, its place in the lot, int32 (images,).
        width: Of each upright image, int32 (images,), in pixels.
        height: As ``width``.
        num_bytes: Size of each encoded image, int64 (images,).
        decode_s: Thread-seconds spent on decoding the lot.
    """

    pixels: Pixels
    places: np.ndarray
    width: np.ndarray
    height: np.ndarray
    num_bytes: np.ndarray
    decode_s: float

    def note(self, lot: Lot) -> list[int]:
        """Tell the shard what is known of its images, and return their rows.

        Without the time they took: stage times are measured against the worker's own threads and cores.
        """
        rows: list[int] = (lot.rows.start + self.places).tolist()
        facts = zip(rows, self.width.tolist(), self.height.tolist(), self.num_bytes.tolist(), strict=True)
        for row, width, height, num_bytes in facts:
            lot.collector.fetched(row, num_bytes, 0.0)
            lot.collector.decoded(row, ImageFacts(width, height), 0.0)
        return rows


class LendingBench(Workbench):
    """A workbench whose rows others may decode too. Rows that are lent count as under way."""

    #: Encoded images waiting to be decoded, beyond which no more rows are fetched here.
    _most_waiting = inf

    def bound_waiting(self, most: float) -> None:
        """Fetch no further ahead than so many images, and leave the other rows to whom they can be lent."""
        with self._lock:
            self._most_waiting = most
            self._rows_ready.notify_all()

    def lend(self, most: int) -> Lot | None:
        """Take the next rows of a shard, at most so many; None where there are none now that may leave this process."""
        with self._lock:
            for source in () if self._closed else self._sources:
                if lot := _lot_of(source, most):
                    source.rows = source.rows[len(lot.rows) :]
                    if not source.rows:
                        self._sources.remove(source)
                    self._num_upstream += len(lot.rows)
                    return lot
            return None

    def take_in(self, lot: Lot, slab: Slab) -> int:
        """Copy what came of a lot into batches and take the other rows back; return how many images came.

        Waits while enough batches are ready.

        Raises:
            RuntimeError: The stream was closed.
        """
        if lot.collector.future.done():
            self._return(lot, lot.rows)
            return 0
        rows = slab.note(lot)
        placed = 0
        while placed < len(rows):
            batch, slots = self._claim(lot.collector, rows[placed:])
            batch.slab[slots] = slab.pixels[placed : placed + slots.stop - slots.start]
            placed += slots.stop - slots.start
            self._copied(batch, slots.stop - slots.start)
        came = frozenset(rows)
        self._return(lot, [row for row in lot.rows if row not in came])
        return placed

    def take_back(self, lot: Lot, *, suspect: bool) -> None:
        """Take all rows of a lot back, to be decoded here; ``suspect`` ones in a process of their own."""
        if suspect:
            lot.collector.apart = frozenset(lot.collector.apart).union(lot.rows)
        self._return(lot, lot.rows)

    def num_waiting(self) -> int:
        """Return how many encoded images wait to be decoded."""
        return len(self._images)

    def has_rows(self) -> bool:
        """Tell whether there are rows that could be lent."""
        with self._lock:
            return any(_lot_of(source, 1) for source in self._sources)

    def _may_take(self) -> bool:
        return len(self._images) < self._most_waiting and super()._may_take()

    def _return(self, lot: Lot, rows: Sequence[int]) -> None:
        with self._lock:
            self._num_upstream -= len(rows)
            if not lot.collector.future.done():
                kept = (Source(lot.collector, range(row, row + 1), stays=True) for row in reversed(rows))
                self._sources.extendleft(kept)
                self._rows_ready.notify_all()
            self._flush_if_idle()

    def _claim(self, collector: Collector, rows: Sequence[int]) -> tuple[Batch, slice]:
        """Return a batch and the slots in it for the first of some rows."""
        with self._lock:
            self._work_ready.wait_for(lambda: self._closed or len(self._batches) < self._max_ready_batches)
            if self._closed:
                raise RuntimeError("the stream was closed")
            batch = self._open = self._open or self._new_batch()
            slots = slice(len(batch.rows), min(len(batch.slab), len(batch.rows) + len(rows)))
            batch.rows.extend((collector, row) for row in rows[: slots.stop - slots.start])
            if slots.stop == len(batch.slab):
                self._open = None
            return batch, slots

    def _copied(self, batch: Batch, num_images: int) -> None:
        with self._lock:
            batch.num_copied += num_images
            self._num_upstream -= num_images
            if batch is not self._open and batch.num_copied == len(batch.rows):
                self._ready(batch)
            self._flush_if_idle()


def _lot_of(source: Source, most: int) -> Lot | None:
    """Return the first rows of a source, up to the first that is to be decoded apart.

    Images that lie in the manifest itself are here already.
    """
    collector = source.collector
    if source.stays or collector.images is not None or collector.future.done():
        return None
    rows = source.rows[:most]
    num_rows = sum(1 for _ in takewhile(lambda row: row not in collector.apart, rows))
    return Lot(collector, rows[:num_rows]) if num_rows else None
