"""Observers of a run: a quiet one, and one that also keeps ``progress.json`` for `batchrec status`."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchrec.engine.coordinator import Observer
from batchrec.output.advising import advise
from batchrec.output.layout import Layout
from batchrec.records import WorkerFacts
from batchrec.stats import ShardStats
from batchrec.storage import Store

WRITE_EVERY_S = 10.0


class Quiet:
    """Tells nobody."""

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""

    def tick(self, *, num_ok: int, num_failed: int, num_shards_done: int, stats: ShardStats) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""


class ProgressFile:
    """Passes everything on, and writes ``progress.json`` now and then. Advisory: never read for correctness.

    Args:
        observer: Who else is told.
        store: The output folder.
        layout: Its keys.
        driver: Number of this coordinator's claim.
        num_rows: Rows of the job.
        num_shards: Shards of the job.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        observer: Observer,
        store: Store,
        layout: Layout,
        driver: int,
        num_rows: int,
        num_shards: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer, self._store, self._layout = observer, store, layout
        self._fixed = {"driver": driver, "num_rows": num_rows, "num_shards": num_shards}
        self._clock = clock
        self._written_at = -WRITE_EVERY_S

    def worker_ready(self, facts: WorkerFacts) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.worker_ready(facts)

    def say(self, message: str) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.say(message)

    def tick(self, *, num_ok: int, num_failed: int, num_shards_done: int, stats: ShardStats) -> None:
        """See :class:`batchrec.engine.coordinator.Observer`."""
        self._observer.tick(num_ok=num_ok, num_failed=num_failed, num_shards_done=num_shards_done, stats=stats)
        if self._clock() - self._written_at < WRITE_EVERY_S:
            return
        self._written_at = self._clock()
        done = {"num_ok_this_run": num_ok, "num_failed_this_run": num_failed, "num_shards_done": num_shards_done}
        advise(self._store, self._layout.progress_key, {**self._fixed, **done})
