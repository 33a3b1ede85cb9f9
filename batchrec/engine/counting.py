"""What a run did so far, kept so that neither an event nor a look costs more the more workers there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from batchrec.engine.pool import LiveCounts
from batchrec.records import ShardResult, WorkerFacts
from batchrec.stats import ShardStats


@dataclass(slots=True)
class RunCounts:
    """What a run did so far.

    Attributes:
        stats: Sum over published attempts.
        num_workers: Most workers that were ready at once.
        workers: Facts of every worker that got ready, in that order.
        num_attempts_failed: Attempts that raised.
        num_attempts_lost: Attempts whose worker was lost.
        num_workers_lost: Workers that died, or failed while starting.
        num_published: Parts published.
        num_given_up: Shards past their caps, published as errors.
        first_row_at: When the first image was taken up, in Unix seconds; None before.
        last_row_at: When the last image ended.
        rows_by_worker: Images in published parts, with a prediction and without, of workers that are there.
    """

    stats: ShardStats = field(default_factory=ShardStats)
    num_workers: int = 0
    workers: list[WorkerFacts] = field(default_factory=list)
    num_attempts_failed: int = 0
    num_attempts_lost: int = 0
    num_workers_lost: int = 0
    num_published: int = 0
    num_given_up: int = 0
    first_row_at: float | None = None
    last_row_at: float | None = None
    rows_by_worker: dict[int, tuple[int, int]] = field(default_factory=dict)

    def publish(self, worker: int, result: ShardResult) -> None:
        """Count a part."""
        self.num_published += 1
        self.stats += result.stats
        self.first_row_at = min(result.first_row_at, self.first_row_at or result.first_row_at)
        self.last_row_at = max(result.last_row_at, self.last_row_at or result.last_row_at)
        num_ok, num_failed = self.rows_by_worker.get(worker, (0, 0))
        self.rows_by_worker[worker] = num_ok + result.stats.num_ok, num_failed + result.stats.num_failed

    def lose(self, worker: int) -> None:
        """Count a worker that is gone; what it published stays counted."""
        self.num_workers_lost += 1
        self.rows_by_worker.pop(worker, None)

    def rows(self, live: Mapping[int, LiveCounts]) -> tuple[int, int]:
        """Return the images that ended with a prediction and without one, in published parts or not yet."""
        num_ok, num_failed = self.stats.num_ok, self.stats.num_failed
        for worker, told in live.items():
            published_ok, published_failed = self.rows_by_worker.get(worker, (0, 0))
            num_ok += max(told.num_ok - published_ok, 0)
            num_failed += max(told.num_failed - published_failed, 0)
        return num_ok, num_failed

    def codes(self, live: Mapping[int, LiveCounts]) -> Counter[str]:
        """Return why images failed, in published parts or not yet."""
        told: Counter[str] = Counter()
        for each in live.values():
            told.update(each.num_errors)
        return told | self.stats.num_errors
