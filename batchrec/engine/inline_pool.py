"""Workers in this process: for tests, notebooks, debugging and machines without Ray."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from batchrec.engine.help_pool import HelpPool
from batchrec.engine.pool import (
    AttemptFailed,
    AttemptPublished,
    Event,
    LiveCounts,
    WorkerFailed,
    WorkerReady,
)
from batchrec.errors import WorkersLost
from batchrec.records import Attempt, ShardResult, WorkerFacts


class Runner(Protocol):
    """What a pool asks of a worker; see :class:`batchrec.engine.worker.Worker`."""

    def start(self, help_pool: HelpPool | None = None) -> WorkerFacts: ...
    def run(self, attempt: Attempt) -> ShardResult: ...
    def live_counts(self) -> LiveCounts: ...
    def allow(self, num_reads: int) -> None: ...
    def close(self) -> None: ...


class InlinePool:
    """Runs workers on threads of this process.

    Args:
        make_worker: Makes one worker.
        shards_per_worker: Attempts a worker takes at once.
    """

    def __init__(self, make_worker: Callable[[], Runner], *, shards_per_worker: int = 2) -> None:
        self.shards_per_worker = shards_per_worker
        self._make_worker = make_worker
        self._workers: list[Runner] = []
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="batchrec-inline")

    def start_workers(self, num_workers: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        for _ in range(num_workers):
            self._workers.append(self._make_worker())
            self._threads.submit(self._start, len(self._workers) - 1)

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._threads.submit(self._run, worker, attempt)

    def wait(self, timeout_s: float) -> list[Event]:
        """See :class:`batchrec.engine.pool.Pool`."""
        try:
            events = [self._events.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def live_counts(self) -> dict[int, LiveCounts]:
        """See :class:`batchrec.engine.pool.Pool`."""
        return {number: worker.live_counts() for number, worker in enumerate(self._workers)}

    def allow(self, worker: int, num_reads: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._workers[worker].allow(num_reads)

    def room(self) -> int:
        """See :class:`batchrec.engine.pool.Pool`."""
        return 1

    def lacking(self, num_workers: int) -> str:
        """See :class:`batchrec.engine.pool.Pool`."""
        return "the model is being loaded"

    def end(self, worker: int, reason: str) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        raise WorkersLost(
            "a worker hangs, and threads of this process cannot be killed",
            found=reason,
            advice="the same command resumes, and decodes in a process apart what this one was decoding",
        )

    def close(self) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, number: int) -> None:
        try:
            self._events.put(WorkerReady(number, self._workers[number].start()))
        except Exception as error:  # noqa: BLE001  the border of a worker: what it raises is an event here
            self._events.put(WorkerFailed(number, error))

    def _run(self, number: int, attempt: Attempt) -> None:
        try:
            self._events.put(AttemptPublished(number, attempt, self._workers[number].run(attempt)))
        except Exception as error:  # noqa: BLE001  the border of a shard: what it raises is an event here
            self._events.put(AttemptFailed(number, attempt, error))
