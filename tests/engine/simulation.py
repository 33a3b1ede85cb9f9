"""Workers that keep their promises without a model, and a pool whose fate a test decides."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, LiveCounts, WorkerLost, WorkerReady
from batchrec.errors import ManifestError
from batchrec.records import Attempt, Shard, ShardResult, WorkerFacts
from batchrec.stats import ShardStats

FACTS = WorkerFacts("host", 1, "cpu", "null", "fp32", 1, "no model", 0.0)


def shards(count: int) -> list[Shard]:
    return [Shard(index=i, file=0, first_row=10 * i, num_rows=10, first_position=10 * i) for i in range(count)]


def result(attempt: Attempt) -> ShardResult:
    now = time.time()
    stats = ShardStats(num_ok=attempt.shard.num_rows, num_errors=Counter())
    return ShardResult(attempt.shard.index, attempt.attempt_id, True, stats, now, now)


@dataclass
class NullWorker:
    """A worker without a model; a shard's index tells what becomes of it."""

    refuses_to_start: bool = False
    num_ok: int = 0
    num_allowed: int = 0

    def start(self, help_pool: object = None) -> WorkerFacts:
        if self.refuses_to_start:
            raise ManifestError("the manifest is gone", advice="bring it back")
        return WorkerFacts("host", os.getpid(), "cpu", "null", "fp32", 1, "no model", 0.0)

    def run(self, attempt: Attempt) -> ShardResult:
        if attempt.shard.index == 13:
            raise ValueError("thirteen")
        if attempt.shard.index == 99:
            time.sleep(60)
        self.num_ok += attempt.shard.num_rows
        return result(attempt)

    def live_counts(self) -> LiveCounts:
        return LiveCounts(self.num_ok, 0, num_allowed=self.num_allowed)

    def allow(self, num_reads: int) -> None:
        self.num_allowed = num_reads

    def close(self) -> None:
        self.num_ok = 0


@dataclass
class SimulatedPool:
    """Answers every dispatch as ``fate`` says, in the order of dispatch."""

    fate: Callable[[int, Attempt], Event] = lambda worker, attempt: AttemptPublished(worker, attempt, result(attempt))
    shards_per_worker: int = 2
    holds: int = 1
    num_started: int = 0
    closed: bool = False
    dispatched: list[tuple[int, Attempt]] = field(default_factory=list)
    events: deque[Event] = field(default_factory=deque)

    def start_workers(self, num_workers: int) -> None:
        for _ in range(num_workers):
            self.events.append(WorkerReady(self.num_started, FACTS))
            self.num_started += 1

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        self.dispatched.append((worker, attempt))
        self.events.append(self.fate(worker, attempt))

    def wait(self, timeout_s: float) -> list[Event]:
        return [self.events.popleft()] if self.events else []

    def live_counts(self) -> dict[int, LiveCounts]:
        return {}

    def room(self) -> int:
        return self.holds

    def lacking(self, num_workers: int) -> str:
        return f"need {num_workers} workers, have room for {self.holds}"

    def close(self) -> None:
        self.closed = True


def fails(error: Exception) -> Callable[[int, Attempt], Event]:
    return lambda worker, attempt: AttemptFailed(worker, attempt, error)


def loses(worker: int, attempt: Attempt) -> Event:
    return WorkerLost(worker, "it was killed")
