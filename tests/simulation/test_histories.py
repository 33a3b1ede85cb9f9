"""Histories of the protocol under faults, by seed."""

from __future__ import annotations

import pytest

from batchrec.errors import OutputError, StorageLost
from batchrec.output.layout import OUTPUT_KEY, SUCCESS_KEY, Layout
from batchrec.output.parts import encode_part
from batchrec.report.summary import RunSummary
from tests.output import making
from tests.simulation import work
from tests.simulation.ending import settle
from tests.simulation.faults import Violation
from tests.simulation.histories import play
from tests.simulation.world import World

NUM_SEEDS = 300


def test_every_invariant_holds_in_the_first_histories() -> None:
    steps = sum(play(seed).scheduler.steps for seed in range(NUM_SEEDS))
    assert steps > 100 * NUM_SEEDS


@pytest.mark.parametrize("seed", [5203, 8871, 10545, 2655])
def test_what_once_failed_holds_now(seed: int) -> None:
    play(seed)


def test_the_same_seed_tells_the_same_history() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        play(12, tell=lines.append)
    assert told[0] == told[1]
    assert len(told[0]) > 100


def test_an_undisturbed_job_ends_like_an_undisturbed_job() -> None:
    world = World(0)
    settle(world)
    world.close()
    assert sum(world.plan(Layout(world.audit.bound_job_id() or ""))) == work.NUM_ROWS


@pytest.mark.parametrize("seed", range(12))
def test_a_coordinator_that_slept_while_its_folder_went_to_another_job_does_not_seal_there(seed: int) -> None:
    world = World(seed)
    world.one_version = False
    sleeper = world.start(rows_per_shard=3)
    # All shards are in flight, so that it wakes to find all of them done, and nothing left to do but to seal.
    world.until(lambda: sum(len(held) for pool in world.pools for held in pool.in_flight.values()) == 3)
    world.stop(sleeper, 300)
    world.wipe()
    rival = world.start("rival", rows_per_shard=3)
    world.until(lambda: OUTPUT_KEY in world.bucket.objects)
    world.kill(rival)
    world.until(lambda: not sleeper.alive)
    assert isinstance(world.ends[sleeper], OutputError | StorageLost)
    assert SUCCESS_KEY not in world.bucket.objects
    settle(world)
    world.close()


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_coordinator_that_slept_while_another_sealed_with_other_boundaries_finds_it_complete(steps: int) -> None:
    world = World(0)
    first = world.start()
    world.until(lambda: OUTPUT_KEY in world.bucket.objects)
    world.kill(first)
    sleeper = world.start(rows_per_shard=3)
    world.go_on(steps)
    world.stop(sleeper, 300)
    rival = world.start(rows_per_shard=2)
    world.until(lambda: not rival.alive)
    assert SUCCESS_KEY in world.bucket.objects
    world.until(lambda: not sleeper.alive)
    assert isinstance(world.ends[sleeper], RunSummary)
    settle(world)
    world.close()


def test_the_audit_sees_a_part_that_is_written_over() -> None:
    world = World(0)
    process = world.start()
    world.until(lambda: not process.alive)
    key = next(key for key in world.bucket.objects if key.startswith("predictions/"))
    world.scheduler.spawn(world.start(), "vandal", lambda: world.store.overwrite(key, b""))
    with pytest.raises(Violation, match="wrote over"):
        world.until(lambda: False)
    world.close()


def test_the_check_sees_a_row_that_differs() -> None:
    world = World(0)
    process = world.start()
    world.until(lambda: not process.alive)
    key = sorted(key for key in world.bucket.objects if key.startswith("predictions/"))[0]
    job_id = str(world.audit.bound_job_id())
    rows = making.rows_of(making.PLAN[0])
    data = encode_part(rows, job_id=job_id, shard=0, attempt_id="", facts={})
    world.bucket.put(key, data, 0.0)
    with pytest.raises(Violation):
        settle(world)
    world.close()
