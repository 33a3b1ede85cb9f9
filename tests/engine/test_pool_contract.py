"""One contract for both pools, with real threads and real Ray actors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from batchrec.engine.devices import Placement
from batchrec.engine.inline_pool import InlinePool
from batchrec.engine.pool import AttemptFailed, AttemptPublished, Event, Pool, WorkerFailed, WorkerLost, WorkerReady
from batchrec.errors import ManifestError, WorkersLost
from batchrec.records import Attempt
from tests.engine.simulation import NullWorker, shards

MakePool = Callable[..., Pool]


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    made: list[Pool] = []
    if request.param == "ray":
        request.getfixturevalue("local_ray")

    def make(**worker: bool) -> Pool:
        from batchrec.engine.ray_pool import RayPool

        worker_maker = partial(NullWorker, **worker)
        one_core = Placement("cpu", 1, 1)
        pool = InlinePool(worker_maker) if request.param == "inline" else RayPool(worker_maker, one_core)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()


def until(pool: Pool, kind: type[Event], count: int = 1, within_s: float = 30) -> list[Event]:
    found: list[Event] = []
    give_up_at = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < give_up_at, f"only {found}"
        found += [event for event in pool.wait(0.2) if isinstance(event, kind)]
    return found


def attempt(index: int, number: int = 1) -> Attempt:
    return Attempt(shards(100)[index], number, f"run-{index}-{number}")


def test_every_worker_that_starts_gets_ready_under_its_own_number(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start_workers(1)
    assert until(pool, WorkerReady)[0].worker == 0
    pool.start_workers(1)
    assert until(pool, WorkerReady)[0].worker == 1


def test_every_dispatch_is_answered_once_with_its_own_attempt(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start_workers(1)
    until(pool, WorkerReady)
    for index in (0, 1):
        pool.dispatch(0, attempt(index))
    answers = until(pool, AttemptPublished, 2)
    assert {event.attempt.shard.index for event in answers} == {0, 1}
    assert all(event.result.stats.num_ok == 10 for event in answers)
    assert pool.wait(0.3) == []


def test_an_attempt_that_raises_is_answered_with_its_error_and_the_worker_goes_on(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start_workers(1)
    until(pool, WorkerReady)
    pool.dispatch(0, attempt(13))
    failed = until(pool, AttemptFailed)[0]
    assert isinstance(failed.error, ValueError)
    assert str(failed.error) == "thirteen"
    pool.dispatch(0, attempt(1))
    assert until(pool, AttemptPublished)[0].attempt == attempt(1)


def test_a_worker_that_refuses_to_start_is_answered_with_its_error(make_pool: MakePool) -> None:
    pool = make_pool(refuses_to_start=True)
    pool.start_workers(1)
    error = until(pool, WorkerFailed)[0].error
    assert isinstance(error, ManifestError)
    assert (error.cause, error.advice) == ("the manifest is gone", "bring it back")


def test_live_counts_follow_the_workers(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start_workers(1)
    until(pool, WorkerReady)
    pool.dispatch(0, attempt(0))
    until(pool, AttemptPublished)
    give_up_at = time.monotonic() + 10
    while pool.live_counts()[0].num_ok != 10:
        assert time.monotonic() < give_up_at
        pool.wait(0.1)


def test_a_worker_hears_how_many_images_it_may_read_and_says_so(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start_workers(1)
    until(pool, WorkerReady)
    pool.allow(0, 7)
    give_up_at = time.monotonic() + 10
    while pool.live_counts()[0].num_allowed != 7:
        assert time.monotonic() < give_up_at
        pool.wait(0.1)


def test_waiting_with_nothing_to_wait_for_returns(make_pool: MakePool) -> None:
    assert make_pool().wait(0.01) == []


@pytest.mark.ray
def test_a_killed_worker_is_lost_once_with_all_it_had(local_ray: None) -> None:
    from batchrec.engine.ray_pool import RayPool

    pool = RayPool(NullWorker, Placement("cpu", 1, 1))
    pool.start_workers(1)
    facts = until(pool, WorkerReady)[0].facts
    pool.dispatch(0, attempt(99))
    pool.dispatch(0, attempt(99, number=2))
    time.sleep(0.5)
    os.kill(facts.pid, signal.SIGKILL)
    lost = until(pool, WorkerLost)[0]
    assert (lost.worker, lost.with_node) == (0, False)
    assert pool.wait(0.5) == []
    pool.start_workers(1)
    assert until(pool, WorkerReady)[0].worker == 1
    pool.close()


@pytest.mark.ray
def test_a_worker_that_is_stopped_is_ended_all_the_same_and_its_core_is_free(local_ray: None) -> None:
    from batchrec.engine.ray_pool import RayPool

    pool = RayPool(NullWorker, Placement("cpu", 2, 2))
    pool.start_workers(1)
    process = psutil.Process(until(pool, WorkerReady)[0].facts.pid)
    pool.dispatch(0, attempt(99))
    process.suspend()
    pool.end(0, "it is stopped")
    assert pool.wait(0.5) == []
    assert 0 not in pool.live_counts()
    _, alive = psutil.wait_procs([process], timeout=20)
    assert alive == []
    pool.start_workers(1)
    assert until(pool, WorkerReady)[0].worker == 1
    pool.close()


def test_a_worker_in_this_process_cannot_be_ended_and_the_run_is() -> None:
    pool = InlinePool(NullWorker)
    with pytest.raises(WorkersLost, match=r"it hangs in decode of shard 3.*the same command resumes"):
        pool.end(0, "it hangs in decode of shard 3")
    pool.close()


@pytest.mark.ray
def test_a_pool_says_what_it_holds_and_what_it_lacks(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchrec.engine import ray_pool
    from batchrec.engine.ray_pool import RayPool

    assert RayPool(NullWorker, Placement("cpu", 1, 1)).room() == 2
    assert RayPool(NullWorker, Placement("cpu", 1, 2)).room() == 1
    assert RayPool(NullWorker, Placement("cpu", 1, 1)).lacking(2).startswith("the workers are starting, or wait")
    assert RayPool(NullWorker, Placement("cpu", 3, 8)).lacking(3) == "need 3 x 8 CPUs, cluster has 2 on 1 nodes"
    assert RayPool(NullWorker, Placement("cuda", 8, 1)).lacking(8) == "need 8 GPUs, cluster has 0"
    monkeypatch.setattr(ray_pool, "num_pending_nodes", lambda: 2)  # no autoscaler runs here
    assert RayPool(NullWorker, Placement("cuda", 8, 1)).lacking(8) == "need 8 GPUs, cluster has 0 (2 nodes pending)"
