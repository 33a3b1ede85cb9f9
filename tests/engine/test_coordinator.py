"""The coordinator against a simulated pool: every failure story in milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from batchrec.engine.budget import PROBATION_SHARDS, FailureBudget
from batchrec.engine.coordinator import MAX_LOSSES_IN_A_ROW, MAX_STARTS_FAILED_IN_A_ROW, Coordinator
from batchrec.engine.ledger import MAX_LOST, MAX_LOST_WITH_NODE, Ledger
from batchrec.engine.pool import (
    AttemptFailed,
    AttemptPublished,
    Event,
    LiveCounts,
    WorkerFailed,
    WorkerLost,
    WorkerReady,
)
from batchrec.errors import (
    AccessLost,
    DeadlineReached,
    ManifestError,
    StorageLost,
    Superseded,
    TooManyFailed,
    WorkersLost,
)
from batchrec.records import Attempt, Shard, WorkerFacts
from batchrec.stats import RunProgress, ShardStats
from tests.engine.simulation import FACTS, SimulatedPool, fails, loses, result, shards


@dataclass
class Listener:
    said: list[str] = field(default_factory=list)
    ticks: list[tuple[int, int, int]] = field(default_factory=list)
    last: RunProgress = field(default_factory=RunProgress)

    def worker_ready(self, facts: WorkerFacts) -> None:
        self.said.append("ready")

    def say(self, message: str) -> None:
        self.said.append(message)

    def tick(self, progress: RunProgress) -> None:
        self.ticks.append((progress.num_ok, progress.num_failed, progress.num_shards_done))
        self.last = progress


@dataclass
class Clock:
    now: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@dataclass
class Scene:
    """A coordinator over six shards, and what it did to the world."""

    pool: SimulatedPool
    num_shards: int = 6
    num_workers: int | None = 2
    superseded_by: int | None = None
    deadline_s: float | None = None
    workers_within_s: float | None = None
    failure_budget: FailureBudget | None = None
    listener: Listener = field(default_factory=Listener)
    given_up: list[tuple[int, str]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def coordinator(self) -> Coordinator:
        self.ledger = Ledger(shards(self.num_shards), run_id="run")
        return Coordinator(
            self.ledger,
            self.pool,
            num_workers=self.num_workers,
            superseded_by=lambda: self.superseded_by,
            abandon=self.give_up,
            observer=self.listener,
            deadline_s=self.deadline_s,
            workers_within_s=self.workers_within_s,
            failure_budget=self.failure_budget,
            clock=self.clock,
        )

    def give_up(self, shard: Shard, reason: str) -> None:
        self.given_up.append((shard.index, reason))


def test_an_undisturbed_run_publishes_every_shard_once() -> None:
    scene = Scene(SimulatedPool())
    counts = scene.coordinator().run()
    assert (counts.num_published, counts.stats.num_ok) == (6, 60)
    assert sorted(attempt.shard.index for _, attempt in scene.pool.dispatched) == list(range(6))
    assert scene.pool.closed
    assert scene.listener.ticks[-1] == (60, 0, 6)
    assert scene.listener.last.shards == {"pending": 0, "in_flight": 0, "done": 6, "abandoned": 0}
    assert scene.listener.last.attempts == {"published": 6, "failed": 0, "lost": 0}
    assert scene.listener.last.workers["ready"] == 2


def test_a_worker_never_holds_more_than_its_share() -> None:
    held: dict[int, int] = {}
    most = 0

    def fate(worker: int, attempt: Attempt) -> Event:
        nonlocal most
        held[worker] = held.get(worker, 0) + 1
        most = max(most, held[worker] - sum(1 for e in pool.events if isinstance(e, WorkerLost)))
        return AttemptPublished(worker, attempt, result(attempt))

    pool = SimulatedPool(fate)
    scene = Scene(pool, num_workers=1)
    coordinator = scene.coordinator()
    dispatch = pool.dispatch

    def checked(worker: int, attempt: Attempt) -> None:
        assert len(scene.ledger.in_flight(worker)) <= pool.shards_per_worker
        dispatch(worker, attempt)

    pool.dispatch = checked  # type: ignore[method-assign]
    coordinator.run()


def test_a_lost_worker_is_replaced_and_its_shards_are_done_again() -> None:
    lost: list[int] = []

    def fate(worker: int, attempt: Attempt) -> Event:
        if not lost:
            lost.append(worker)
            return WorkerLost(worker, "killed")
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate), num_workers=1)
    counts = scene.coordinator().run()
    assert (counts.num_published, counts.num_workers_lost, scene.pool.num_started) == (6, 1, 2)
    assert any("and is replaced: killed" in line for line in scene.listener.said)


def test_late_answers_of_a_lost_worker_change_nothing() -> None:
    answers: list[Event] = []

    def fate(worker: int, attempt: Attempt) -> Event:
        if len(answers) < 2 and worker == 0:
            answers.append(AttemptPublished(worker, attempt, result(attempt)))
            return WorkerLost(worker, "unreachable") if len(answers) == 1 else answers[0]
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate), num_workers=1)
    counts = scene.coordinator().run()
    assert (counts.num_published, counts.stats.num_ok) == (6, 60)


def test_workers_that_die_whatever_they_do_end_the_run_and_publish_no_error_rows() -> None:
    scene = Scene(SimulatedPool(loses), num_workers=1)
    with pytest.raises(WorkersLost, match=f"{MAX_LOSSES_IN_A_ROW} workers in a row"):
        scene.coordinator().run()
    assert scene.pool.closed
    assert scene.given_up == []


def test_workers_that_cannot_start_end_the_run_soon() -> None:
    pool = SimulatedPool()
    pool.start_workers = lambda num_workers: pool.events.append(WorkerLost(0, "no such library"))  # type: ignore[method-assign]
    with pytest.raises(WorkersLost, match=f"{MAX_STARTS_FAILED_IN_A_ROW} workers in a row"):
        Scene(pool).coordinator().run()


def test_a_shard_that_kills_its_workers_is_given_up_alone_and_the_others_are_done() -> None:
    def fate(worker: int, attempt: Attempt) -> Event:
        if attempt.shard.index == 3:
            return WorkerLost(worker, "killed")
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate), num_workers=1)
    counts = scene.coordinator().run()
    assert scene.given_up == [(3, "its worker was lost: killed")]
    assert (counts.num_published, counts.num_given_up, counts.num_workers_lost) == (5, 1, MAX_LOST)


def test_a_machine_on_which_every_attempt_raises_ends_the_run_resumable() -> None:
    scene = Scene(SimulatedPool(fails(RuntimeError("device-side assert"))))
    with pytest.raises(WorkersLost, match="attempts in a row failed"):
        scene.coordinator().run()
    assert scene.given_up == []


def test_a_shard_whose_images_stay_denied_is_left_for_the_next_run_and_the_others_are_done() -> None:
    def fate(worker: int, attempt: Attempt) -> Event:
        if attempt.shard.index == 3:
            return AttemptFailed(worker, attempt, AccessLost("denied"))
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate), num_shards=30)
    coordinator = scene.coordinator()
    with pytest.raises(AccessLost):
        coordinator.run()
    assert (coordinator.counts.num_published, scene.given_up) == (29, [])


def test_a_shard_that_always_raises_becomes_rows_and_the_others_are_done() -> None:
    def fate(worker: int, attempt: Attempt) -> Event:
        if attempt.shard.index == 3:
            return AttemptFailed(worker, attempt, ValueError("odd"))
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate))
    counts = scene.coordinator().run()
    assert scene.given_up == [(3, "ValueError: odd")]
    assert (counts.num_published, counts.num_attempts_failed) == (5, 3)


def test_a_refusal_by_a_worker_ends_the_run_at_once() -> None:
    scene = Scene(SimulatedPool(fails(ManifestError("the manifest changed"))))
    with pytest.raises(ManifestError):
        scene.coordinator().run()
    assert len(scene.pool.dispatched) <= 4


def test_a_refusal_while_starting_ends_the_run_at_once() -> None:
    pool = SimulatedPool()
    pool.start_workers = lambda num_workers: pool.events.append(WorkerFailed(0, ManifestError("gone")))  # type: ignore[method-assign]
    with pytest.raises(ManifestError):
        Scene(pool).coordinator().run()


def test_a_store_that_stays_away_ends_the_run_resumable_and_publishes_no_error_rows() -> None:
    scene = Scene(SimulatedPool(fails(StorageLost("the store is away"))))
    with pytest.raises(StorageLost):
        scene.coordinator().run()
    assert scene.given_up == []


def test_systemic_faults_in_a_row_end_the_run_and_publish_nothing() -> None:
    scene = Scene(SimulatedPool(fails(AccessLost("denied"))))
    with pytest.raises(AccessLost):
        scene.coordinator().run()
    assert scene.given_up == []


def failing(code: str, share: float) -> Callable[[int, Attempt], Event]:
    """Publishes every shard with a share of its rows under a code."""

    def fate(worker: int, attempt: Attempt) -> Event:
        num_failed = round(share * attempt.shard.num_rows)
        stats = ShardStats(attempt.shard.num_rows - num_failed, Counter({code: num_failed}))
        return AttemptPublished(worker, attempt, replace(result(attempt), stats=stats))

    return fate


def test_images_denied_in_every_shard_end_the_run_before_they_fill_it() -> None:
    scene = Scene(SimulatedPool(failing("access_denied", 0.4)), num_shards=100)
    coordinator = scene.coordinator()
    with pytest.raises(AccessLost, match="40 of 100 images of the last 10 shards"):
        coordinator.run()
    assert coordinator.counts.num_published == PROBATION_SHARDS


def test_a_tenth_denied_in_every_shard_ends_as_rows() -> None:
    scene = Scene(SimulatedPool(failing("access_denied", 0.1)), num_shards=100)
    assert scene.coordinator().run().num_published == 100


def test_a_run_that_fails_fast_ends_over_its_limit_and_leaves_the_rest() -> None:
    scene = Scene(SimulatedPool(failing("corrupt", 0.1)), num_shards=100, failure_budget=FailureBudget(0.05))
    coordinator = scene.coordinator()
    with pytest.raises(TooManyFailed, match=r"20 of 200 images failed .* corrupt, 20 times"):
        coordinator.run()
    assert (coordinator.counts.num_published, scene.pool.closed) == (20, True)


def test_a_run_that_fails_fast_counts_images_of_shards_under_way() -> None:
    scene = Scene(SimulatedPool(), num_shards=100, failure_budget=FailureBudget(0.05))
    live = {0: LiveCounts(150, 50, num_errors={"corrupt": 10, "not_found": 40})}
    scene.pool.live_counts = lambda: live  # type: ignore[method-assign]
    with pytest.raises(TooManyFailed, match=r"50 of 200 images failed .* not_found, 40 times"):
        scene.coordinator().run()


def test_a_run_that_is_done_is_judged_by_its_seal() -> None:
    scene = Scene(SimulatedPool(failing("corrupt", 1.0)), num_shards=20, failure_budget=FailureBudget(0.05))
    assert scene.coordinator().run().num_published == 20


def test_a_superseded_coordinator_stops() -> None:
    scene = Scene(SimulatedPool(), superseded_by=7)
    with pytest.raises(Superseded, match="coordinator 7"):
        scene.coordinator().run()
    assert scene.pool.dispatched == []


def test_the_deadline_stops_the_run_resumable() -> None:
    scene = Scene(SimulatedPool(), deadline_s=5, clock=Clock(step=2))
    with pytest.raises(DeadlineReached):
        scene.coordinator().run()
    assert scene.pool.closed


def test_waiting_for_a_worker_is_said_and_not_silent() -> None:
    pool = SimulatedPool()
    pool.start_workers = lambda num_workers: None  # type: ignore[method-assign]
    scene = Scene(pool, deadline_s=100, clock=Clock(step=4))
    with pytest.raises(DeadlineReached):
        scene.coordinator().run()
    assert any(line.startswith("waiting") for line in scene.listener.said)


def test_without_a_number_there_are_as_many_workers_as_there_is_room_for() -> None:
    scene = Scene(SimulatedPool(holds=3), num_workers=None)
    scene.coordinator().run()
    assert scene.pool.num_started == 3


def test_no_more_workers_start_than_there_are_shards() -> None:
    scene = Scene(SimulatedPool(holds=100), num_workers=None, num_shards=2)
    scene.coordinator().run()
    assert scene.pool.num_started == 2


def test_machines_that_come_late_get_workers() -> None:
    scene = Scene(SimulatedPool(), num_workers=None, num_shards=30, clock=Clock(step=1.0))

    def fate(worker: int, attempt: Attempt) -> Event:
        scene.pool.holds = 4
        return AttemptPublished(worker, attempt, result(attempt))

    scene.pool.fate = fate
    counts = scene.coordinator().run()
    assert (counts.num_published, scene.pool.num_started) == (30, 4)
    assert {worker for worker, _ in scene.pool.dispatched} == {0, 1, 2, 3}


def test_a_worker_lost_with_its_node_is_not_replaced_where_there_is_no_room() -> None:
    lost: list[int] = []

    def fate(worker: int, attempt: Attempt) -> Event:
        if worker == 1:
            scene.pool.holds = 1
            if not lost:
                lost.append(worker)
                return WorkerLost(worker, "the node died", with_node=True)
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate, holds=2), num_workers=None, num_shards=20)
    counts = scene.coordinator().run()
    assert (counts.num_published, scene.pool.num_started) == (20, 2)


def test_shards_lost_with_their_nodes_never_become_errors() -> None:
    losses = 0

    def fate(worker: int, attempt: Attempt) -> Event:
        nonlocal losses
        if attempt.shard.index == 0 and losses < MAX_LOST + 5:
            losses += 1
            return WorkerLost(worker, "preempted", with_node=True)
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate))
    counts = scene.coordinator().run()
    assert (counts.num_published, scene.given_up, losses) == (6, [], MAX_LOST + 5)


def test_nodes_that_go_while_their_workers_start_do_not_end_the_run() -> None:
    scene = Scene(SimulatedPool(holds=8), num_workers=None, num_shards=20)
    starts = 0

    def start(num_workers: int) -> None:
        nonlocal starts
        for number in range(starts, starts + num_workers):
            gone = WorkerLost(number, "preempted", with_node=True)
            scene.pool.events.append(gone if number < 8 else WorkerReady(number, FACTS))
        starts += num_workers

    scene.pool.start_workers = start  # type: ignore[method-assign]
    assert scene.coordinator().run().num_published == 20


def test_a_shard_that_takes_its_node_along_is_isolated_and_ends() -> None:
    isolated: list[bool] = []

    def fate(worker: int, attempt: Attempt) -> Event:
        if attempt.shard.index == 0:
            isolated.append(attempt.isolated)
            return WorkerLost(worker, "the node died", with_node=True)
        return AttemptPublished(worker, attempt, result(attempt))

    scene = Scene(SimulatedPool(fate))
    counts = scene.coordinator().run()
    assert (counts.num_published, [shard for shard, _ in scene.given_up]) == (5, [0])
    assert len(isolated) == MAX_LOST_WITH_NODE
    assert isolated[:5] == [False, False, False, True, True]


def test_a_lost_workers_shard_keeps_no_other_worker_idle() -> None:
    """What was lost runs alone; the others are fed meanwhile."""
    ledger = Ledger(shards(20), run_id="run")
    pool = SimulatedPool(holds=4)
    coordinator = Coordinator(
        ledger, pool, num_workers=4, superseded_by=lambda: None, abandon=lambda *_: None, observer=Listener()
    )
    first = ledger.next_attempt(0)
    assert first is not None
    ledger.lose(first.attempt_id)
    assert ledger.next_attempt(0) is not None  # the suspect, alone
    for worker in range(4):
        coordinator._take(WorkerReady(worker, FACTS))
    coordinator._feed()
    assert [len(ledger.in_flight(worker)) for worker in range(4)] == [1, 2, 2, 2]


def test_a_late_machine_that_is_not_fit_costs_nothing_but_its_share() -> None:
    scene = Scene(SimulatedPool(holds=1), num_workers=None, num_shards=40, clock=Clock(step=0.5))

    def start(num_workers: int) -> None:
        for _ in range(num_workers):
            number, scene.pool.num_started = scene.pool.num_started, scene.pool.num_started + 1
            fit = number == 0
            error = ManifestError("no such mount here")
            scene.pool.events.append(WorkerReady(number, FACTS) if fit else WorkerFailed(number, error))
        scene.pool.holds = 2

    scene.pool.start_workers = start  # type: ignore[method-assign]
    counts = scene.coordinator().run()
    assert counts.num_published == 40
    assert 2 <= scene.pool.num_started <= 4
    assert any("no such mount here" in line for line in scene.listener.said)


def test_a_run_that_gets_no_worker_says_what_it_needs_and_ends() -> None:
    scene = Scene(SimulatedPool(), num_workers=4, workers_within_s=100.0, clock=Clock(step=1.0))
    scene.pool.start_workers = lambda num_workers: None  # type: ignore[method-assign]
    with pytest.raises(WorkersLost, match=r"no worker for 1\d\d s \(found: need 4 workers, have room for 1\)"):
        scene.coordinator().run()
    assert any(line.startswith("waiting 3") and "need 4 workers" in line for line in scene.listener.said)
