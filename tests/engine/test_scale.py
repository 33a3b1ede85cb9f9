"""What an event costs must not grow with the number of workers and shards."""

from __future__ import annotations

import cProfile

from benchmarks.scale import run

#: One loop over all workers at each event makes it nearly ten.
MOST_TIMES_DEARER = 1.5


def calls_per_event(num_workers: int, num_shards: int) -> float:
    """Calls of functions, which are the same on every machine, for each event of a run."""
    profile = cProfile.Profile()
    found = profile.runcall(run, num_workers, num_shards, shard_s=2.0)
    return sum(entry.callcount for entry in profile.getstats()) / found["events"]


def test_an_event_costs_the_same_at_ten_times_the_workers_and_shards() -> None:
    assert calls_per_event(1_000, 8_000) < MOST_TIMES_DEARER * calls_per_event(100, 800)
