"""Histories drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from batchrec.manifest.planning import plan_shards
from batchrec.output.layout import Layout
from tests.output import making
from tests.simulation import seams, work
from tests.simulation.ending import settle
from tests.simulation.world import HOSTS, World

_STEPS = 40
_FAULT_RATES = (0.0, 0.0, 0.02, 0.05, 0.15)


def play(seed: int, tell: Callable[[str], None] | None = None) -> World:
    """Play the history of a seed to its end and check it.

    Raises:
        Violation: An invariant does not hold.
    """
    rng = random.Random(f"history {seed}")
    poison = rng.choice(("raise", "kill", "gone")) if rng.random() < 0.15 else ""
    world = World(seed, fault_rate=rng.choice(_FAULT_RATES), poison=poison, tell=tell)
    try:
        calmness = rng.choice((0.2, 0.5, 0.8))
        start(world, rng)
        for _ in range(rng.randrange(_STEPS)):
            world.go_on(rng.randrange(1, 60))
            if rng.random() > calmness:
                _disturb(world, rng)
        settle(world)
    finally:
        world.close()
    return world


def start(world: World, rng: random.Random) -> None:
    """Start a coordinator, mostly of the job that is wanted; never more than three at once."""
    if len(world.living()) < 3:
        job = work.JOBS[rng.random() < 0.1]
        rows = rng.choice(work.ROWS_PER_SHARD)
        world.start(job, host=rng.choice(HOSTS), takeover=rng.random() < 0.2, rows_per_shard=rows)


def kill_coordinator(world: World, rng: random.Random) -> None:
    if living := world.living():
        world.kill(rng.choice(living))


def stop_coordinator(world: World, rng: random.Random) -> None:
    if living := world.living():
        world.stop(rng.choice(living), rng.choice((5.0, 45.0, 300.0)))


def kill_worker(world: World, rng: random.Random) -> None:
    if workers := world.workers():
        pool, number = rng.choice(workers)
        world.kill(pool.workers[number].process)


def stop_worker(world: World, rng: random.Random) -> None:
    if workers := world.workers():
        pool, number = rng.choice(workers)
        world.stop(pool.workers[number].process, rng.choice((5.0, 60.0, 300.0)))


def partition_worker(world: World, rng: random.Random) -> None:
    if workers := world.workers():
        world.partition(*rng.choice(workers))


def jump_clock(world: World, rng: random.Random) -> None:
    world.jump_clock(rng.choice((-86_400.5, -3_601.25, 3_600.75)))


def expire(world: World, rng: random.Random) -> None:
    world.expired = not world.expired


def litter(world: World, rng: random.Random) -> None:
    """Put rubbish, or a part of a job whose id begins alike, where a part belongs."""
    shard = rng.randrange(5)
    bound = str(world.audit.bound_job_id())
    planned = world.plan(Layout(bound))
    own, alike = (_foreign_part(job_id, shard) for job_id in (bound, bound[:12] + "f" * 52))
    fits = (
        shard < len(planned)
        and planned[shard] == plan_shards(work.ROWS_BY_FILE, work.ROWS_PER_SHARD[0], None)[shard].num_rows
    )
    world.litter(shard, rng.choice((b"", b"rubbish", alike[:-40], alike, alike if fits else own)))


def tidy(world: World, rng: random.Random) -> None:
    world.tidy()


def wipe(world: World, rng: random.Random) -> None:
    """Empty the folder while every coordinator is stopped or gone, and let one of the jobs have it.

    Not under one that is sealing: it would seal what it read before, and nothing but a lock could stop it.
    """
    sealing = any(world.is_sealing(process) for process in world.living())
    if world.one_version and rng.random() < 0.5 and not sealing:
        for process in world.living():
            world.stop(process, rng.choice((60.0, 300.0)))
        world.wipe()
        world.start(rng.choice(work.JOBS), host=rng.choice(HOSTS))


@lru_cache(64)
def _foreign_part(job_id: str, shard: int) -> bytes:
    # As many rows as planned, so that nothing but the job gives it away, or as another plan has.
    planned = plan_shards(work.ROWS_BY_FILE, work.ROWS_PER_SHARD[0], None)[shard]
    return making.part_of(planned, job_id=job_id)


ACTS: tuple[Callable[[World, random.Random], None], ...] = (
    start,
    start,
    start,
    kill_coordinator,
    kill_coordinator,
    stop_coordinator,
    stop_coordinator,
    kill_worker,
    kill_worker,
    stop_worker,
    partition_worker,
    partition_worker,
    jump_clock,
    expire,
    litter,
    litter,
    tidy,
    wipe,
)


def _disturb(world: World, rng: random.Random) -> None:
    rng.choice(ACTS)(world, rng)


def replay(seed: int) -> str | None:
    """Play a history with the seams cut; what does not hold, None when all does."""
    with seams.cut():
        try:
            play(seed)
        except AssertionError as error:
            return str(error)
    return None
