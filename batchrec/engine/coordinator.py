"""The coordinator: a thin loop that moves events between a ledger and a pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from batchrec.engine.ledger import MAX_LOST, Ledger, ShardState
from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, Pool, WorkerFailed, WorkerLost, WorkerReady
from batchrec.errors import AccessLost, DeadlineReached, Refused, Resumable, Superseded, WorkersLost
from batchrec.records import Shard, WorkerFacts
from batchrec.stats import ShardStats

#: What may happen in a row, with no part published between, before the run ends. Two shards that kill their
#: workers to the cap are passed; a machine that kills every worker is not.
MAX_STARTS_FAILED_IN_A_ROW = 5
MAX_LOSSES_IN_A_ROW = 2 * MAX_LOST + 5
MAX_FAILED_IN_A_ROW = 10
#: Shards in a row that met a systemic fault before the run gives up.
MAX_ACCESS_LOST_IN_A_ROW = 3
_TICK_S = 0.5
_WAITING_SAYS_EVERY_S = 30.0


@dataclass(slots=True)
class RunCounts:
    """What a run did so far.

    Attributes:
        stats: Sum over published attempts.
        num_workers: Workers that are to run at once.
        workers: Facts of every worker that got ready, in that order.
        num_attempts_failed: Attempts that raised.
        num_workers_lost: Workers that died, or failed while starting.
        num_published: Parts published.
        num_given_up: Shards past their caps, published as errors.
        first_row_at: When the first image was taken up, in Unix seconds; None before.
        last_row_at: When the last image ended.
    """

    stats: ShardStats = field(default_factory=ShardStats)
    num_workers: int = 0
    workers: list[WorkerFacts] = field(default_factory=list)
    num_attempts_failed: int = 0
    num_workers_lost: int = 0
    num_published: int = 0
    num_given_up: int = 0
    first_row_at: float | None = None
    last_row_at: float | None = None


class Observer(Protocol):
    """Who is told how the run goes."""

    def worker_ready(self, facts: WorkerFacts) -> None: ...
    def say(self, message: str) -> None: ...
    def tick(self, *, num_ok: int, num_failed: int, num_shards_done: int, stats: ShardStats) -> None: ...


class Coordinator:
    """Runs every pending shard of a ledger on a pool.

    Args:
        ledger: Which shard is where.
        pool: Runs the attempts.
        num_workers: Workers to keep alive.
        superseded_by: Tells the number of a coordinator that took over, None while none did.
        abandon: Publishes the rows of a shard past its caps as errors, given the shard and the reason.
        observer: Told how the run goes.
        deadline_s: Seconds after which the run stops.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        *,
        num_workers: int,
        superseded_by: Callable[[], int | None],
        abandon: Callable[[Shard, str], None],
        observer: Observer,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._pool, self._num_workers = ledger, pool, num_workers
        self._superseded_by, self._abandon, self._observer = superseded_by, abandon, observer
        self._clock, self._began, self._deadline_s = clock, clock(), deadline_s
        self._ready: set[int] = set()
        self._published_by: dict[int, ShardStats] = {}
        self._abandoned: dict[Shard, str] = {}
        self._unfinished: Resumable | None = None
        self._starts_failed_in_a_row = self._losses_in_a_row = 0
        self._failed_in_a_row = self._access_lost_in_a_row = 0
        self._said_waiting_at = clock()
        self.counts = RunCounts(num_workers=num_workers)

    def run(self) -> RunCounts:
        """Run until every shard is done.

        Raises:
            Refused: A worker found the job impossible.
            Resumable: The store, the access or the workers are lost.
            Stopped: Another coordinator took over, or the deadline is over.
        """
        try:
            self._pool.start_workers(self._num_workers)
            while not self._ledger.finished:
                self._stop_if_asked()
                for event in self._pool.wait(_TICK_S):
                    self._take(event)
                self._feed()
                self._tell()
            self._settle_abandoned()
            if self._unfinished is not None:
                raise self._unfinished
        finally:
            self._pool.close()
        return self.counts

    def _stop_if_asked(self) -> None:
        if (number := self._superseded_by()) is not None:
            raise Superseded(f"coordinator {number} took this job over", advice="leave it to that one")
        if self._deadline_s is not None and self._clock() - self._began > self._deadline_s:
            raise DeadlineReached(f"the deadline of {self._deadline_s:g} s is over", advice="the same command resumes")

    def _take(self, event: Event) -> None:
        match event:
            case WorkerReady():
                self._ready.add(event.worker)
                self.counts.workers.append(event.facts)
                self._observer.worker_ready(event.facts)
            case AttemptPublished():
                self._take_published(event)
            case AttemptFailed():
                self._take_failed(event)
            case WorkerFailed():
                if isinstance(event.error, Refused):
                    raise event.error
                self._replace(event.worker, f"it failed while starting: {event.error}", event.error)
            case WorkerLost():
                self._replace(event.worker, event.reason)

    def _take_published(self, event: AttemptPublished) -> None:
        self._starts_failed_in_a_row = self._losses_in_a_row = 0
        self._failed_in_a_row = self._access_lost_in_a_row = 0
        if not self._ledger.publish(event.attempt.attempt_id):
            return
        result, counts = event.result, self.counts
        counts.num_published += 1
        counts.stats += result.stats
        counts.first_row_at = min(result.first_row_at, counts.first_row_at or result.first_row_at)
        counts.last_row_at = max(result.last_row_at, counts.last_row_at or result.last_row_at)
        self._published_by[event.worker] = self._published_by.get(event.worker, ShardStats()) + result.stats
        self._settle_abandoned()  # others get through, so it was the shard and not the machine

    def _take_failed(self, event: AttemptFailed) -> None:
        if isinstance(event.error, Refused):
            raise event.error
        self.counts.num_attempts_failed += 1
        shard, reason = event.attempt.shard, f"{type(event.error).__name__}: {event.error}"
        self._observer.say(f"shard {shard.index}, attempt {event.attempt.number} failed: {reason}")
        self._failed_in_a_row += 1
        self._access_lost_in_a_row += isinstance(event.error, AccessLost)
        if self._ledger.fail(event.attempt.attempt_id) == ShardState.ABANDONED:
            self._give_up(shard, reason, event.error)
        if self._access_lost_in_a_row >= MAX_ACCESS_LOST_IN_A_ROW or self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            self._end(f"{self._failed_in_a_row} attempts in a row failed", reason, event.error)

    def _give_up(self, shard: Shard, reason: str, error: Exception | None = None) -> None:
        if isinstance(error, Resumable):
            self._unfinished = error  # its rows may still be had: they are left for the next run
        else:
            self._abandoned[shard] = reason

    def _replace(self, worker: int, reason: str, error: Exception | None = None) -> None:
        self._ready.discard(worker)
        self.counts.num_workers_lost += 1
        attempts = self._ledger.in_flight(worker)
        for attempt in attempts:
            if self._ledger.lose(attempt.attempt_id) == ShardState.ABANDONED:
                self._give_up(attempt.shard, f"its worker was lost: {reason}")
        self._losses_in_a_row += 1
        self._starts_failed_in_a_row = 0 if attempts else self._starts_failed_in_a_row + 1
        if self._starts_failed_in_a_row >= MAX_STARTS_FAILED_IN_A_ROW or self._losses_in_a_row >= MAX_LOSSES_IN_A_ROW:
            self._end(f"{self._losses_in_a_row} workers in a row were lost without finishing a shard", reason, error)
        self._observer.say(f"worker {worker} was lost, starting another: {reason}")
        self._pool.start_workers(1)

    def _end(self, cause: str, found: str, error: Exception | None) -> NoReturn:
        if isinstance(error, Resumable):
            raise error
        advice = "`batchrec doctor` looks for the cause; the same command resumes"
        raise WorkersLost(cause, found=found, advice=advice) from error

    def _feed(self) -> None:
        for worker in self._ready:
            while len(self._ledger.in_flight(worker)) < self._pool.shards_per_worker:
                attempt = self._ledger.next_attempt(worker)
                if attempt is None:
                    return
                self._pool.dispatch(worker, attempt)

    def _tell(self) -> None:
        live = self._pool.live_counts()
        num_ok = num_failed = 0
        for worker in live.keys() | self._published_by.keys():
            published = self._published_by.get(worker, ShardStats())
            num_ok += max(published.num_ok, live[worker].num_ok if worker in live else 0)
            num_failed += max(published.num_failed, live[worker].num_failed if worker in live else 0)
        self._observer.tick(
            num_ok=num_ok,
            num_failed=num_failed,
            num_shards_done=self.counts.num_published,
            stats=self.counts.stats,
        )
        if not self._ready and self._clock() - self._said_waiting_at > _WAITING_SAYS_EVERY_S:
            self._said_waiting_at = self._clock()
            self._observer.say(f"waiting {self._clock() - self._began:.0f} s for a worker to get ready")

    def _settle_abandoned(self) -> None:
        while self._abandoned:
            self._stop_if_asked()
            shard, reason = self._abandoned.popitem()
            self._observer.say(f"shard {shard.index} is given up, its rows become shard_failed: {reason}")
            self._abandon(shard, reason)
            self._ledger.settle(shard.index)
            self.counts.num_given_up += 1
