"""CPU the coordinator spends for each shard, with a hundred workers: real Ray actors that only answer.

python benchmarks/coordinator_cpu.py [--workers 100] [--shards 4000] [--shard-s 1]

Every worker is a process that sleeps instead of predicting, so the whole of the coordinator's own work is
there: the ledger, messages both ways, live counts, progress. Prints JSON: milliseconds of CPU of this process
(all its threads, Ray's among them) for each shard, start-up left out.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from batchrec.engine.coordinator import Coordinator
from batchrec.engine.devices import Placement
from batchrec.engine.ledger import Ledger
from batchrec.engine.pool import LiveCounts
from batchrec.engine.ray_local import LocalRay
from batchrec.engine.ray_pool import RayPool
from batchrec.engine.telling import Quiet
from batchrec.records import Attempt, Shard, ShardResult, WorkerFacts
from batchrec.stats import RunProgress, ShardStats


@dataclass
class SleepingWorker:
    """Takes as long for a shard as it is told."""

    shard_s: float
    num_ok: int = 0

    def start(self, help_pool: object = None) -> WorkerFacts:
        return WorkerFacts("host", 1, "cpu", "none", "fp32", 1, "no model", 0.0)

    def run(self, attempt: Attempt) -> ShardResult:
        began = time.time()
        time.sleep(self.shard_s)
        self.num_ok += attempt.shard.num_rows
        stats = ShardStats(num_ok=attempt.shard.num_rows)
        return ShardResult(attempt.shard.index, attempt.attempt_id, True, stats, began, time.time())

    def live_counts(self) -> LiveCounts:
        return LiveCounts(self.num_ok, 0, {"images": 0.5, "batches": 0.5})

    def close(self) -> None: ...


class Watch(Quiet):
    """Looks at the process's CPU when every worker is ready, and after."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self.since: tuple[float, float, int] | None = None

    def tick(self, progress: RunProgress) -> None:
        if self.since is None and progress.workers["ready"] == self._num_workers:
            self.since = (time.process_time(), time.monotonic(), progress.num_shards_done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--shards", type=int, default=4_000)
    parser.add_argument("--shard-s", type=float, default=1.0)
    asked = parser.parse_args()
    plan = [Shard(index, 0, 256 * index, 256, 256 * index) for index in range(asked.shards)]
    watch = Watch(asked.workers)
    with closing(LocalRay(asked.workers)) as local:
        local.wait()
        pool = RayPool(partial(SleepingWorker, asked.shard_s), Placement("cpu", asked.workers, 1))
        coordinator = Coordinator(
            Ledger(plan, run_id="bench"),
            pool,
            num_workers=asked.workers,
            superseded_by=lambda: None,
            abandon=lambda shard, reason: None,
            observer=watch,
        )
        counts = coordinator.run()
        assert watch.since is not None, "not all workers got ready: ask for more shards"
        cpu_s, began, before = watch.since
        spent_s, wall_s = time.process_time() - cpu_s, time.monotonic() - began
    num_shards = counts.num_published - before
    facts = {"cpu_ms_per_shard": 1000 * spent_s / num_shards, "shards_per_s": num_shards / wall_s}
    print(json.dumps({"workers": asked.workers, "shards": num_shards, **facts}, indent=1))


if __name__ == "__main__":
    main()
