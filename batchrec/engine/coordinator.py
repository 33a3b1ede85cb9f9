"""The coordinator: a thin loop that moves events between a ledger and a pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from batchrec.engine.budget import AccessWindow, FailureBudget
from batchrec.engine.counting import RunCounts
from batchrec.engine.ledger import MAX_LOST, Ledger, ShardState
from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, Pool, WorkerFailed, WorkerLost, WorkerReady
from batchrec.engine.stalling import StallWatch
from batchrec.errors import DeadlineReached, Refused, Resumable, Superseded, WorkersLost
from batchrec.records import Shard, WorkerFacts
from batchrec.stats import RunProgress, mean_fill

#: What may happen in a row, with no part published between, before the run ends. Two shards that kill their
#: workers to the cap are passed; a machine that kills every worker is not.
MAX_STARTS_FAILED_IN_A_ROW = 5
MAX_LOSSES_IN_A_ROW = 2 * MAX_LOST + 5
MAX_FAILED_IN_A_ROW = 10
_TICK_S = 0.5
_WAITING_SAYS_EVERY_S = 30.0
#: How often machines that came or went are looked for.
_STAFF_EVERY_S = 5.0
_FAILED_START_PAUSE_S = 60.0


class Observer(Protocol):
    """Who is told how the run goes."""

    def worker_ready(self, facts: WorkerFacts) -> None: ...
    def say(self, message: str) -> None: ...
    def tick(self, progress: RunProgress) -> None: ...


class Coordinator:
    """Runs every pending shard of a ledger on a pool.

    Args:
        ledger: Which shard is where.
        pool: Runs the attempts.
        num_workers: Workers to keep alive; as many as the pool has room for when None.
        superseded_by: Tells the number of a coordinator that took over, None while none did.
        abandon: Publishes the rows of a shard past its caps as errors, given the shard and the reason.
        observer: Told how the run goes.
        deadline_s: Seconds after which the run stops.
        late_s: Seconds of the run that went before.
        workers_within_s: Seconds without a single worker after which the run ends.
        stall_watch: Finds workers that hang.
        failure_budget: Ends a run in which too many images fail.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        *,
        num_workers: int | None,
        superseded_by: Callable[[], int | None],
        abandon: Callable[[Shard, str], None],
        observer: Observer,
        deadline_s: float | None = None,
        late_s: float = 0.0,
        workers_within_s: float | None = None,
        stall_watch: StallWatch | None = None,
        failure_budget: FailureBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._pool, self._num_workers = ledger, pool, num_workers
        self._superseded_by, self._abandon, self._observer = superseded_by, abandon, observer
        self._clock, self._began, self._deadline_s = clock, clock() - late_s, deadline_s
        self._ready: set[int] = set()
        self._hungry: set[int] = set()  # those of them that got ready or ended an attempt since they were last fed
        self._abandoned: dict[Shard, str] = {}
        self._unfinished: Resumable | None = None
        self._starts_failed_in_a_row = self._losses_in_a_row = self._failed_in_a_row = 0
        self._failure_budget, self._access_window = failure_budget or FailureBudget(), AccessWindow()
        self._workers_within_s = workers_within_s
        self._stall_watch = stall_watch or StallWatch()
        self._num_alive = self._num_wanted = 0
        self._staff_at = self._tell_at = self._workerless_since = self._said_waiting_at = clock()
        self.counts = RunCounts()

    def run(self) -> RunCounts:
        """Run until every shard is done.

        Raises:
            Refused: A worker found the job impossible.
            Resumable: The store, the access or the workers are lost.
            Stopped: Another coordinator took over, or the deadline is over.
        """
        try:
            while not self._ledger.finished:
                self._stop_if_asked()
                self._staff()
                for event in self._pool.wait(_TICK_S):
                    self._take(event)
                self._replace_hung()
                self._feed()
                self._tell_now_and_then()
            self._settle_abandoned()
            self._tell()
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

    def _staff(self) -> None:
        """Start the workers that are missing: at first all, later for those lost and on machines that came late."""
        if self._clock() < self._staff_at:
            return
        self._staff_at = self._clock() + _STAFF_EVERY_S
        wanted = max(1, self._pool.room()) if self._num_workers is None else self._num_workers
        self._num_wanted = min(wanted, self._ledger.num_unfinished)
        if self._num_alive < self._num_wanted:
            self._pool.start_workers(self._num_wanted - self._num_alive)
            self._num_alive = self._num_wanted

    def _replace_hung(self) -> None:
        for worker, reason in self._stall_watch.look(
            self._ready, self._ledger.in_flight, self._pool.live_counts
        ).items():
            self._pool.end(worker, reason)
            self._lose(worker, reason)

    def _take(self, event: Event) -> None:
        match event:
            case WorkerReady():
                self._ready.add(event.worker)
                self._hungry.add(event.worker)
                self.counts.num_workers = max(self.counts.num_workers, len(self._ready))
                self.counts.workers.append(event.facts)
                self._observer.worker_ready(event.facts)
            case AttemptPublished():
                self._unload(event.worker)
                self._take_published(event)
            case AttemptFailed():
                self._unload(event.worker)
                self._take_failed(event)
            case WorkerFailed():
                if isinstance(event.error, Refused) and not self.counts.workers:
                    raise event.error
                self._lose(event.worker, f"it failed while starting: {event.error}", error=event.error)
            case WorkerLost():
                self._lose(event.worker, event.reason, with_node=event.with_node)

    def _unload(self, worker: int) -> None:
        if worker in self._ready:  # else it was called lost, and answers late
            self._hungry.add(worker)

    def _take_published(self, event: AttemptPublished) -> None:
        self._starts_failed_in_a_row = self._losses_in_a_row = self._failed_in_a_row = 0
        self._stall_watch.published()
        if not self._ledger.publish(event.attempt.attempt_id):
            return
        self.counts.publish(event.worker, event.result)
        if not self._ledger.finished:  # else the verdict is the seal's
            self._access_window.published(event.result.stats)
            self._failure_budget.judge(self.counts, {})
        self._settle_abandoned()  # others get through, so it was the shard and not the machine

    def _take_failed(self, event: AttemptFailed) -> None:
        if isinstance(event.error, Refused):
            raise event.error
        self.counts.num_attempts_failed += 1
        shard, reason = event.attempt.shard, f"{type(event.error).__name__}: {event.error}"
        self._observer.say(f"shard {shard.index}, attempt {event.attempt.number} failed: {reason}")
        self._failed_in_a_row += 1
        state = self._ledger.fail(event.attempt.attempt_id)
        if state == ShardState.ABANDONED:
            self._give_up(shard, reason, event.error)
        if state is not None:
            self._access_window.failed(shard.num_rows, event.error)
        if self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
            self._end(f"{self._failed_in_a_row} attempts in a row failed", reason, event.error)

    def _give_up(self, shard: Shard, reason: str, error: Exception | None = None) -> None:
        if isinstance(error, Resumable):
            self._unfinished = error  # its rows may still be had: they are left for the next run
        else:
            self._abandoned[shard] = reason

    def _lose(self, worker: int, reason: str, *, with_node: bool = False, error: Exception | None = None) -> None:
        self._ready.discard(worker)
        self._hungry.discard(worker)
        self._num_alive -= 1
        self._staff_at = self._clock()
        if not self._ready:
            self._workerless_since = self._clock()
        self.counts.lose(worker)
        attempts = self._ledger.in_flight(worker)
        for attempt in attempts:
            self.counts.num_attempts_lost += 1
            if self._ledger.lose(attempt.attempt_id, with_node=with_node) == ShardState.ABANDONED:
                self._give_up(attempt.shard, f"its worker was lost: {reason}")
        if self._ready and error is not None:
            self._staff_at += _FAILED_START_PAUSE_S  # others work: a machine that is not fit must not take the time
        elif not with_node:
            self._losses_in_a_row += 1
            self._starts_failed_in_a_row = 0 if attempts else self._starts_failed_in_a_row + 1
        if self._starts_failed_in_a_row >= MAX_STARTS_FAILED_IN_A_ROW or self._losses_in_a_row >= MAX_LOSSES_IN_A_ROW:
            self._end(f"{self._losses_in_a_row} workers in a row were lost without finishing a shard", reason, error)
        where = "with its node" if with_node else "and is replaced"
        self._observer.say(f"worker {worker} was lost {where}: {reason}")

    def _end(self, cause: str, found: str, error: Exception | None) -> NoReturn:
        if isinstance(error, Resumable):
            raise error
        advice = "`batchrec doctor` looks for the cause; the same command resumes"
        raise WorkersLost(cause, found=found, advice=advice) from error

    def _feed(self) -> None:
        while self._hungry and self._ledger.num_pending:
            self._fill(self._hungry.pop())

    def _fill(self, worker: int) -> None:
        while len(self._ledger.in_flight(worker)) < self._pool.shards_per_worker:
            attempt = self._ledger.next_attempt(worker)
            if attempt is None:
                return  # it holds something, whose end is the next occasion
            self._pool.dispatch(worker, attempt)

    def _tell_now_and_then(self) -> None:
        if self._clock() >= self._tell_at:
            self._tell_at = self._clock() + _TICK_S
            self._tell()
        if not self._ready:
            self._wait_for_workers()

    def _tell(self) -> None:
        live = self._pool.live_counts()
        num_ok, num_failed = self.counts.rows(live)
        num_helpers = sum(each.num_helpers for each in live.values())
        counts = self.counts
        self._observer.tick(
            RunProgress(
                num_ok=num_ok,
                num_failed=num_failed,
                num_shards_done=counts.num_published,
                stats=counts.stats,
                shards={state.name.lower(): self._ledger.count(state) for state in ShardState},
                workers={"wanted": self._num_wanted, "ready": len(self._ready), "helpers": num_helpers},
                attempts={
                    "published": counts.num_published,
                    "failed": counts.num_attempts_failed,
                    "lost": counts.num_attempts_lost,
                },
                fill=mean_fill([each.fill for each in live.values()]),
            )
        )
        if not self._ledger.finished:
            self._failure_budget.judge(counts, live)

    def _wait_for_workers(self) -> None:
        now = self._clock()
        waited_s = now - self._workerless_since
        if self._workers_within_s is not None and waited_s > self._workers_within_s:
            raise WorkersLost(
                f"no worker for {waited_s:.0f} s",
                found=self._pool.lacking(self._num_wanted),
                advice="add nodes or ask for less; the same command resumes, and --workers-within waits longer",
            )
        if now - max(self._said_waiting_at, self._workerless_since) > _WAITING_SAYS_EVERY_S:
            self._said_waiting_at = now
            self._observer.say(f"waiting {waited_s:.0f} s: {self._pool.lacking(self._num_wanted)}")

    def _settle_abandoned(self) -> None:
        while self._abandoned:
            self._stop_if_asked()
            shard, reason = self._abandoned.popitem()
            self._observer.say(f"shard {shard.index} is given up, its rows become shard_failed: {reason}")
            self._abandon(shard, reason)
            self._ledger.settle(shard.index)
            self.counts.num_given_up += 1
