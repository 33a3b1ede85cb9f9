"""The request budget: kept whatever is slow or lost on the way, and shared out whenever workers come or go."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.engine.pool import AttemptPublished, LiveCounts, WorkerLost, WorkerReady
from batchrec.engine.request_budget import FIRST_SHARE, SHARE_EVERY_S, BudgetedPool, RequestBudget
from batchrec.records import Attempt
from tests.engine.simulation import FACTS, SimulatedPool, shards

TOTAL, MOST_WORKERS = 5, 3


@dataclass
class Reading:
    """What a worker really does, and what is on the way to it and from it."""

    num_allowed: int = FIRST_SHARE
    num_reading: int = 0
    begun: bool = False
    orders: list[int] = field(default_factory=list)
    reports: list[tuple[int, int]] = field(default_factory=list)


class Fleet:
    """Workers that come, go, read as much as they may, and hear and answer late."""

    def __init__(self, seed: int) -> None:
        self.budget, self.chance = RequestBudget(TOTAL), random.Random(seed)
        self.num_expected = self.num_joined = 0
        self.workers: dict[int, Reading] = {}

    def step(self) -> None:
        """Let one thing happen."""
        acts = [self.tell, self.come_or_go, *[self.act] * 4] if self.workers else [self.come_or_go]
        self.chance.choice(acts)()

    def come_or_go(self) -> None:
        if self.num_expected and self.chance.random() < 0.5:
            self.num_expected, self.num_joined = self.num_expected - 1, self.num_joined + 1
            if self.chance.random() < 0.9:
                self.budget.join(self.num_joined)
                self.workers[self.num_joined] = Reading()
            else:
                self.budget.leave(self.num_joined)
        elif self.num_expected + len(self.workers) < MOST_WORKERS:
            self.budget.expect(1)
            self.num_expected += 1
        elif self.workers:
            gone = self.chance.choice(list(self.workers))
            self.budget.leave(gone)
            del self.workers[gone]

    def tell(self) -> None:
        for worker, num_reads in self.budget.changes().items():
            self.workers[worker].orders.append(num_reads)

    def act(self) -> None:
        worker, chance = self.chance.choice(list(self.workers)), self.chance
        reading = self.workers[worker]
        if reading.orders and chance.random() < 0.5:
            reading.num_allowed = reading.orders.pop(0)
        reading.begun = reading.begun or self.budget.may_begin(worker)
        if chance.random() < 0.3:
            reading.num_reading -= chance.randint(0, reading.num_reading)
        elif reading.begun:
            reading.num_reading = max(reading.num_reading, reading.num_allowed)
        if chance.random() < 0.5:
            reading.reports.append((reading.num_allowed, reading.num_reading))
        if reading.reports and chance.random() < 0.5:
            self.budget.hear(worker, *reading.reports.pop(0))

    def most_under_way(self) -> int:
        """What they read now, or may read by what they know or are about to hear."""
        begun = (each for each in self.workers.values() if each.begun)
        return sum(max(each.num_reading, each.num_allowed, *each.orders, 0) for each in begun)

    def hear_everything(self) -> None:
        """Let every message arrive, and every read that is over the limit end."""
        for _ in range(4 * TOTAL):
            self.tell()
            for worker, reading in self.workers.items():
                reading.num_allowed = [reading.num_allowed, *reading.orders][-1]
                reading.orders.clear()
                reading.begun = reading.begun or self.budget.may_begin(worker)
                reading.num_reading = min(reading.num_reading, reading.num_allowed)
                self.budget.hear(worker, reading.num_allowed, reading.num_reading)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_budget_is_kept_whatever_is_late_or_lost(seed: int) -> None:
    fleet = Fleet(seed)
    for _ in range(400):
        fleet.step()
        assert fleet.most_under_way() <= TOTAL
    fleet.hear_everything()
    allowed = [reading.num_allowed for reading in fleet.workers.values()] or [TOTAL - fleet.num_expected]
    assert sum(allowed) == TOTAL - fleet.num_expected
    assert max(allowed) - min(allowed) <= 1
    assert fleet.budget.is_even or not fleet.workers


@dataclass
class TellingPool(SimulatedPool):
    """A simulated pool whose workers do as they are told, once it lets them hear it."""

    told: dict[int, int] = field(default_factory=dict)
    hears: bool = True
    allowed: dict[int, int] = field(default_factory=dict)
    num_asked: int = 0

    def allow(self, worker: int, num_reads: int) -> None:
        self.told[worker] = num_reads

    def live_counts(self) -> dict[int, LiveCounts]:
        self.num_asked += 1
        if self.hears:
            self.allowed.update(self.told)
        return {worker: LiveCounts(num_allowed=self.allowed.get(worker, 0)) for worker in range(self.num_started)}


def attempt(index: int) -> Attempt:
    return Attempt(shards(100)[index], 1, f"run-{index}-1")


def test_workers_share_the_budget_evenly() -> None:
    inner = TellingPool()
    pool = BudgetedPool(inner, 10, clock=itertools.count().__next__)
    pool.start_workers(3)
    for worker in range(3):
        assert pool.wait(0) == [WorkerReady(worker, FACTS)]
        pool.dispatch(worker, attempt(worker))
    for _ in range(10):
        pool.wait(0)
    assert sorted(inner.told.values()) == [3, 3, 4]


def test_a_worker_that_comes_late_begins_only_when_another_has_made_room() -> None:
    inner = TellingPool()
    pool = BudgetedPool(inner, 4, clock=itertools.count().__next__)
    pool.start_workers(1)
    pool.wait(0)
    pool.dispatch(0, attempt(0))
    for _ in range(5):
        pool.wait(0)
    assert inner.told == {0: 4}
    inner.hears = False
    pool.start_workers(1)
    pool.wait(0)
    pool.dispatch(1, attempt(1))
    assert [worker for worker, _ in inner.dispatched] == [0]
    inner.hears = True
    for _ in range(5):
        pool.wait(0)
    assert [worker for worker, _ in inner.dispatched] == [0, 1]
    assert inner.told == {0: 2, 1: 2}


def test_what_a_lost_worker_had_goes_to_the_others() -> None:
    inner = TellingPool()
    pool = BudgetedPool(inner, 8, clock=itertools.count().__next__)
    pool.start_workers(2)
    for worker in range(2):
        pool.wait(0)
        pool.dispatch(worker, attempt(worker))
    for _ in range(5):
        pool.wait(0)
    assert inner.told == {0: 4, 1: 4}
    inner.events.append(WorkerLost(1, "it was killed"))
    for _ in range(5):
        pool.wait(0)
    assert inner.told[0] == 8


def test_no_more_workers_are_wanted_than_may_read() -> None:
    assert BudgetedPool(SimulatedPool(holds=100), 7).room() == 7


def test_events_pass_through() -> None:
    pool = BudgetedPool(TellingPool(), 2, clock=itertools.count().__next__)
    pool.start_workers(1)
    pool.wait(0)
    pool.dispatch(0, attempt(5))
    published = [event for _ in range(3) for event in pool.wait(0)]
    assert [type(event) for event in published] == [AttemptPublished]


def test_workers_are_asked_now_and_then_however_often_the_pool_is_waited_for() -> None:
    now = 0.0
    inner = TellingPool(hears=False)
    pool = BudgetedPool(inner, 10, clock=lambda: now)
    pool.start_workers(1)
    pool.wait(0)
    pool.dispatch(0, attempt(0))
    before = inner.num_asked
    for _ in range(100):
        pool.wait(0)
    assert inner.num_asked - before <= 1
    now += SHARE_EVERY_S
    pool.wait(0)
    inner.hears = True
    now += SHARE_EVERY_S
    pool.wait(0)
    assert inner.told == {0: 10}
