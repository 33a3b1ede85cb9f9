"""The pool protocol: how a coordinator speaks to workers, wherever they run.

Both pools (:class:`batchrec.engine.inline_pool.InlinePool` and
:class:`batchrec.engine.ray_pool.RayPool`) pass one contract suite, tests/engine/test_pool_contract.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from batchrec.records import Attempt, InHand, ShardResult, WorkerFacts


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
    """A worker is gone, with whatever it had in flight.

    ``with_node`` says that its whole machine is gone or out of reach, so that no shard of its can be the cause.
    """

    worker: int
    reason: str
    with_node: bool = False


Event = WorkerReady | AttemptPublished | AttemptFailed | WorkerFailed | WorkerLost


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """How far a live worker is.

    Attributes:
        num_ok: Images that ended with a prediction so far, published or not.
        num_failed: Images that ended without one.
        fill: How full its queues are, from 0 to 1, by name.
        in_hand: What its threads have been at for a while, longest first.
        num_errors: ``num_failed`` by error code.
        num_allowed: Reads of images it takes to be allowed at once; 0 where nobody told it.
        num_reading: Those under way.
        num_helpers: Decode helpers at work for it.
    """

    num_ok: int = 0
    num_failed: int = 0
    fill: Mapping[str, float] = field(default_factory=dict)
    in_hand: tuple[InHand, ...] = ()
    num_errors: Mapping[str, int] = field(default_factory=dict)
    num_allowed: int = 0
    num_reading: int = 0
    num_helpers: int = 0


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

    def allow(self, worker: int, num_reads: int) -> None:
        """Tell a ready worker how many images it may read at once from now on; its counts say when it knows."""

    def room(self) -> int:
        """Return how many workers the machines that are there now can hold, those that run included."""

    def lacking(self, num_workers: int) -> str:
        """Say, for people, what keeps ``num_workers`` workers from getting ready."""

    def end(self, worker: int, reason: str) -> None:
        """Kill a worker that hangs; nothing more is heard of it.

        Raises:
            Resumable: It cannot be killed without ending this process, which is left to the caller.
        """

    def close(self) -> None:
        """Stop all workers. Attempts in flight are given up; what they publish later is harmless."""
