"""A request budget for the whole fleet: reads of images under way in all workers together.

    RequestBudget  who may have how many; pure, so that every delay and loss is a millisecond test
    BudgetedPool   any pool, kept within one

A worker begins with one read and is told of more. What it was told of before counts as used until it says
that it holds no more than the new number, so the sum is kept whatever is slow or gets lost on the way. A
worker that is lost counts no more: what it still reads, if it lives, comes on top until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from batchrec.engine.pool import Event, LiveCounts, Pool, WorkerFailed, WorkerLost, WorkerReady
from batchrec.records import Attempt

#: What a worker may have under way before it is told of more.
FIRST_SHARE = 1
#: The pool is waited for after every event, and to ask all workers then would cost more the more there are.
SHARE_EVERY_S = 0.2


@dataclass(slots=True)
class _Share:
    """What one worker may have under way: last told, and the most it may have as far as is known."""

    told: int = FIRST_SHARE
    held: int = 0
    is_settled: bool = True


class RequestBudget:
    """Shares ``total`` reads out evenly over workers that come and go.

    Args:
        total: Reads under way at once; at least one for each worker.

    Attributes:
        is_even: Whether every worker has its share, and said so; there is nothing to hear or to tell then.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._shares: dict[int, _Share] = {}
        self._num_expected = self._num_held = 0
        self.is_even = True

    def expect(self, num_workers: int) -> None:
        """Keep room for workers that start: each finds one read free when it comes."""
        self._num_expected += num_workers
        self.is_even = False

    def join(self, worker: int) -> None:
        """Note that an expected worker is there."""
        self._num_expected -= 1
        self._shares[worker] = _Share()
        self.is_even = False

    def leave(self, worker: int) -> None:
        """Note that a worker is gone, or one that was expected will not come."""
        share = self._shares.pop(worker, None)
        if share is None:
            self._num_expected -= 1
        else:
            self._hold(share, 0)
        self.is_even = False

    def may_begin(self, worker: int) -> bool:
        """Whether there is room for a worker's first read, which is held from then on."""
        share = self._shares[worker]
        if not share.held and self._num_held + FIRST_SHARE <= self._total:
            self._hold(share, FIRST_SHARE)
        return share.held > 0

    def hear(self, worker: int, num_allowed: int, num_reading: int) -> None:
        """Take note of what a worker says: how many reads it takes to be allowed, and how many it has."""
        share = self._shares.get(worker)
        if share is None or share.is_settled or num_allowed != share.told:
            return
        self._hold(share, max(share.told, num_reading))
        share.is_settled = share.held == share.told

    def changes(self) -> dict[int, int]:
        """Return what workers are to be told now; each is told one thing at a time."""
        changes, self.is_even = {}, True
        for worker, wanted in self._wanted():
            share = self._shares[worker]
            if share.is_settled and share.held and (more := self._more(share, wanted)):
                share.told += more
                share.is_settled = False
                self._hold(share, max(share.held, share.told))
                changes[worker] = share.told
            self.is_even &= share.is_settled and share.told == wanted
        return changes

    def _wanted(self) -> list[tuple[int, int]]:
        num_workers = max(1, len(self._shares))
        each, extra = divmod(max(num_workers, self._total - self._num_expected), num_workers)
        return [(worker, each + (place < extra)) for place, worker in enumerate(sorted(self._shares))]

    def _more(self, share: _Share, wanted: int) -> int:
        free = self._total - self._num_expected - self._num_held
        return min(wanted - share.told, max(0, free))

    def _hold(self, share: _Share, num_reads: int) -> None:
        self._num_held += num_reads - share.held
        share.held = num_reads


class BudgetedPool:
    """A pool whose workers together never read more images at once than a budget allows.

    Args:
        pool: Runs the workers, which begin with :data:`FIRST_SHARE` each.
        total: Reads of images under way at once.
        clock: Monotonic seconds.
    """

    def __init__(self, pool: Pool, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.shards_per_worker = pool.shards_per_worker
        self._pool, self._total = pool, total
        self._budget = RequestBudget(total)
        self._held_back: dict[int, list[Attempt]] = {}
        self._clock, self._share_at = clock, clock()

    def start_workers(self, num_workers: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._budget.expect(num_workers)
        self._pool.start_workers(num_workers)

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        """See :class:`batchrec.engine.pool.Pool`; the attempt waits here until there is room for its first read."""
        self._held_back.setdefault(worker, []).append(attempt)
        self._release(worker)

    def wait(self, timeout_s: float) -> list[Event]:
        """See :class:`batchrec.engine.pool.Pool`."""
        events = self._pool.wait(timeout_s)
        for event in events:
            if isinstance(event, WorkerReady):
                self._budget.join(event.worker)
                self._share_at = self._clock()
            elif isinstance(event, WorkerFailed | WorkerLost):
                self._forget(event.worker)
        if self._clock() >= self._share_at:
            self._share()
        return events

    def live_counts(self) -> dict[int, LiveCounts]:
        """See :class:`batchrec.engine.pool.Pool`."""
        return self._pool.live_counts()

    def allow(self, worker: int, num_reads: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._pool.allow(worker, num_reads)

    def room(self) -> int:
        """See :class:`batchrec.engine.pool.Pool`; each worker needs a read at least."""
        return min(self._pool.room(), self._total)

    def lacking(self, num_workers: int) -> str:
        """See :class:`batchrec.engine.pool.Pool`."""
        return self._pool.lacking(num_workers)

    def end(self, worker: int, reason: str) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._pool.end(worker, reason)
        self._forget(worker)

    def close(self) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._pool.close()

    def _forget(self, worker: int) -> None:
        self._budget.leave(worker)
        self._held_back.pop(worker, None)
        self._share_at = self._clock()

    def _share(self) -> None:
        self._share_at = self._clock() + SHARE_EVERY_S
        if not self._budget.is_even:
            for worker, counts in self._pool.live_counts().items():
                self._budget.hear(worker, counts.num_allowed, counts.num_reading)
            for worker, num_reads in self._budget.changes().items():
                self._pool.allow(worker, num_reads)
        for worker in list(self._held_back):
            self._release(worker)

    def _release(self, worker: int) -> None:
        if self._budget.may_begin(worker):
            for attempt in self._held_back.pop(worker):
                self._pool.dispatch(worker, attempt)
