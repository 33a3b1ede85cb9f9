"""What an event costs must not grow with the number of workers and shards."""

from __future__ import annotations

from benchmarks.scale import run

#: Every loop over all workers at each event makes it ten.
MOST_TIMES_DEARER = 4.0


def test_an_event_costs_about_the_same_at_ten_times_the_workers_and_shards() -> None:
    tenth = run(num_workers=150, num_shards=2_000, shard_s=2.0)
    whole = run(num_workers=1_500, num_shards=20_000, shard_s=2.0)
    assert whole["us_per_event"] < MOST_TIMES_DEARER * tenth["us_per_event"]
    assert whole["workers_lost"] > 0
    assert whole["attempts_failed"] > 0
