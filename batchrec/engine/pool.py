"""The pool protocol: how a coordinator speaks to workers, wherever they run.

Both pools (:class:`batchrec.engine.inline_pool.InlinePool` and
:class:`batchrec.engine.ray_pool.RayPool`) pass one contract suite, tests/engine/test_pool_contract.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from batchrec.records import Attempt, ShardResult, WorkerFacts


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker has its model loaded and takes attempts."""

    worker: int
    facts: WorkerFacts


@dataclass(frozen=True, slots=True)
class AttemptPublished:
    """A part stands for the attempt's shard."""

    worker: int
    attempt: Attempt
    result: ShardResult


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt raised; its worker goes on."""

    worker: int
    attempt: Attempt
    error: Exception


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A worker raised while starting, and is gone."""

    worker: int
    error: Exception


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, with whatever it had in flight."""

    worker: int
    reason: str


Event = WorkerReady | AttemptPublished | AttemptFailed | WorkerFailed | WorkerLost


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """Rows the live workers have finished with so far, published or not."""

    num_ok: int = 0
    num_failed: int = 0


class Pool(Protocol):
    """Runs attempts on workers and reports what became of them.

    A worker's number is never used again: a replacement gets a new one.
    """

    #: Attempts a worker takes at once, so that its device never waits for a shard's tail.
    shards_per_worker: int

    def start_workers(self, num_workers: int) -> None:
        """Begin to start workers; each answers with one WorkerReady, WorkerFailed or WorkerLost."""

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        """Hand an attempt to a ready worker; it answers with one event."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Return what happened, after at most ``timeout_s`` seconds; empty when nothing did."""

    def live_counts(self) -> dict[int, LiveCounts]:
        """Return how far each live worker is, as last heard."""

    def close(self) -> None:
        """Stop all workers. Attempts in flight are given up; what they publish later is harmless."""
