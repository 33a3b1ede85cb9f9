"""The real ledger and coordinator against simulated workers: events a second and memory, at two sizes.

    python benchmarks/scale.py [--workers 10000] [--shards 250000] [--shard-s 2.0] [--record]

The pool is simulated: it speaks the pool protocol and has a virtual clock, on which every worker takes about
``--shard-s`` seconds for an attempt, each event comes alone, and now and then an attempt fails or a worker
is lost and replaced. Everything else is real: ledger, coordinator, stall watch, journal. Each size runs in a
process of its own, the first a tenth of the other, so that what grows faster than the work shows.
Events a second count the pool's own work too, so the coordinator alone is a little faster.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

from batchrec.engine.coordinator import Coordinator
from batchrec.engine.ledger import Ledger
from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, LiveCounts, WorkerLost, WorkerReady
from batchrec.engine.stalling import StallWatch
from batchrec.engine.telling import Journal, Quiet
from batchrec.manifest.planning import Plan, plan_shards
from batchrec.output.layout import Layout
from batchrec.records import Attempt, ShardResult, WorkerFacts
from batchrec.spec import StoreOptions
from batchrec.stats import ShardStats
from batchrec.storage import open_store
from benchmarks.history import record

ROWS_PER_SHARD = 4_096
SHARE_FAILED = 0.002
SHARE_LOST = 0.001
START_S = 30.0
FACTS = WorkerFacts("host", 1, "cuda:0", "none", "fp16", 256, "no model", 0.0)


@dataclass
class VirtualPool:
    """Workers that exist as numbers, and events that are due on a clock of their own.

    Args:
        num_workers: Machines there are, each with room for one.
        shard_s: Mean of the seconds an attempt takes.
        seed: Of how long each takes and what becomes of it.
    """

    num_workers: int
    shard_s: float
    seed: int = 0
    shards_per_worker: int = 2
    now: float = 0.0
    num_started: int = 0
    num_events: int = 0
    _due: list[tuple[float, int, Event]] = field(default_factory=list)
    _counts: dict[int, LiveCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._num_planned = 0

    def clock(self) -> float:
        """Return the virtual time."""
        return self.now

    def start_workers(self, num_workers: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        for number in range(self.num_started, self.num_started + num_workers):
            self._counts[number] = LiveCounts(fill={"images": 0.5, "batches": 0.5})
            self._plan(START_S * self._rng.random(), WorkerReady(number, FACTS))
        self.num_started += num_workers

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        seconds = self.shard_s * self.shards_per_worker * self._rng.uniform(0.5, 1.5)
        self._plan(seconds, self._fate(worker, attempt))

    def wait(self, timeout_s: float) -> list[Event]:
        """Return the next event alone, which is the most work a coordinator can be given for it."""
        until = self.now + timeout_s
        while self._due and self._due[0][0] <= until:
            self.now, _, event = heapq.heappop(self._due)
            if event.worker in self._counts:  # else it was lost before
                self._note(event)
                return [event]
        self.now = until
        return []

    def live_counts(self) -> dict[int, LiveCounts]:
        """See :class:`batchrec.engine.pool.Pool`."""
        return dict(self._counts)

    def allow(self, worker: int, num_reads: int) -> None:
        """See :class:`batchrec.engine.pool.Pool`; nothing is read here."""

    def room(self) -> int:
        """See :class:`batchrec.engine.pool.Pool`."""
        return self.num_workers

    def lacking(self, num_workers: int) -> str:
        """See :class:`batchrec.engine.pool.Pool`."""
        return "the workers are starting"

    def end(self, worker: int, reason: str) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        raise AssertionError(f"worker {worker} does not hang: {reason}")

    def close(self) -> None:
        """See :class:`batchrec.engine.pool.Pool`."""
        self._due.clear()

    def _plan(self, seconds: float, event: Event) -> None:
        self._num_planned += 1
        heapq.heappush(self._due, (self.now + seconds, self._num_planned, event))

    def _fate(self, worker: int, attempt: Attempt) -> Event:
        drawn = self._rng.random()
        if drawn < SHARE_LOST:
            return WorkerLost(worker, "it was killed")
        if drawn < SHARE_LOST + SHARE_FAILED:
            return AttemptFailed(worker, attempt, OSError("no answer"))
        stats = ShardStats(attempt.shard.num_rows - 1, Counter({"not_found": 1}), 10**8, 10**6, 16, 1.0, 1.0, 1.0, 0.1)
        result = ShardResult(attempt.shard.index, attempt.attempt_id, True, stats, self.now + 1, self.now + 2)
        return AttemptPublished(worker, attempt, result)

    def _note(self, event: Event) -> None:
        self.num_events += 1
        if isinstance(event, WorkerLost):
            del self._counts[event.worker]
        elif isinstance(event, AttemptPublished):
            before, stats = self._counts[event.worker], event.result.stats
            num_failed = before.num_failed + stats.num_failed
            self._counts[event.worker] = LiveCounts(before.num_ok + stats.num_ok, num_failed, before.fill)


def make_plan(num_shards: int) -> Plan:
    """Return a plan of so many full shards."""
    return plan_shards([num_shards * ROWS_PER_SHARD], ROWS_PER_SHARD, None)


def run(num_workers: int, num_shards: int, shard_s: float, seed: int = 0) -> dict[str, float]:
    """Run a job of this size in this process and return what it took."""
    pool, plan = VirtualPool(num_workers, shard_s, seed), make_plan(num_shards)
    ledger = Ledger(plan, run_id="scale")
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, StoreOptions())
        journal = Journal(Quiet(), store, Layout("0" * 64), 1, plan.num_rows, num_shards, clock=pool.clock)
        with closing(journal):
            coordinator = Coordinator(
                ledger,
                pool,
                num_workers=None,
                superseded_by=lambda: None,
                abandon=lambda shard, reason: None,
                observer=journal,
                stall_watch=StallWatch(clock=pool.clock),
                clock=pool.clock,
            )
            began = time.process_time()
            counts = coordinator.run()
            spent_s = time.process_time() - began
    assert counts.num_published + counts.num_given_up == num_shards
    return {
        "workers": num_workers,
        "shards": num_shards,
        "events": pool.num_events,
        "cpu_s": round(spent_s, 2),
        "events_per_s": round(pool.num_events / spent_s),
        "us_per_event": round(1e6 * spent_s / pool.num_events, 1),
        "workers_lost": counts.num_workers_lost,
        "attempts_failed": counts.num_attempts_failed,
        "virtual_s": round(pool.now),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def run_apart(workers: int, shards: int, shard_s: float) -> dict[str, float]:
    """Run one size in a process of its own, so that its peak memory is its own."""
    sizes = ["--workers", str(workers), "--shards", str(shards), "--shard-s", str(shard_s)]
    done = subprocess.run([sys.executable, __file__, "--one", *sizes], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=250_000)
    parser.add_argument("--shard-s", type=float, default=2.0)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(run(asked.workers, asked.shards, asked.shard_s)))
        return
    tenth = run_apart(asked.workers // 10, asked.shards // 10, asked.shard_s)
    print(json.dumps(tenth), flush=True)
    whole = run_apart(asked.workers, asked.shards, asked.shard_s)
    print(json.dumps(whole))
    print(f"an event costs {whole['us_per_event'] / tenth['us_per_event']:.2f} times as much at ten times the size")
    if asked.record:
        size = f"{asked.workers} workers, {asked.shards} shards"
        record(
            [
                (f"coordinator, {size}, events/s", whole["events_per_s"], "higher"),
                (f"coordinator, {size}, peak MiB", whole["peak_mib"], "lower"),
            ]
        )


if __name__ == "__main__":
    main()
