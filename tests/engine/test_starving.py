"""How many decode helpers a starved device is worth; all of it in simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from batchrec.engine.starving import FIRST_REST_S, MOST_REST_S, WINDOW_S, Meter, Reading, Starvation, Window

CORE = 100.0  # images a second that one core decodes


@dataclass
class Machine:
    """A worker and its helpers, as rates; a second goes by with each look.

    What is lacking anywhere is lacking everywhere: device, store and cores each bound the whole.
    """

    device_rate: float
    num_cores: int = 1
    helper_rate: float = CORE
    store_rate: float = 1e9
    room: int = 100
    num_helpers: int = 0
    now: float = 0.0
    device_s: float = 0.0
    images: float = 0.0
    helped: float = 0.0
    history: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter, self.starvation = Meter(1), Starvation(self.num_cores)

    def step(self) -> None:
        own, helped = self.num_cores * CORE, self.num_helpers * self.helper_rate
        rate = min(own + helped, self.device_rate, self.store_rate)
        self.now += 1
        self.images += rate
        self.helped += rate * helped / (own + helped)
        self.device_s += rate / self.device_rate
        waiting = self.store_rate > own + helped
        window = self.meter.look(Reading(self.now, self.device_s, round(self.images), round(self.helped), waiting))
        if window is None:
            return
        change = min(self.starvation.judge(window, self.num_helpers, self.now), self.room - self.num_helpers)
        if change:
            self.num_helpers += change
            self.meter.restart()
        self.history.append(self.num_helpers)

    def run(self, seconds: int) -> Machine:
        for _ in range(seconds):
            self.step()
        return self


def test_a_starved_device_gets_as_many_helpers_as_feed_it_and_keeps_them() -> None:
    machine = Machine(device_rate=1050).run(300)
    assert machine.history[:4] == [1, 2, 4, 8]
    assert set(machine.history[4:]) == {10}


def test_helpers_are_called_in_steps_and_no_more_than_there_is_room_for() -> None:
    machine = Machine(device_rate=1e6, room=5).run(60)
    assert machine.history[:4] == [1, 2, 4, 5]
    assert max(machine.history) == 5


@pytest.mark.parametrize("device_rate", [50, 100, 109])
def test_a_device_that_idles_little_gets_none(device_rate: float) -> None:
    assert set(Machine(device_rate=device_rate).run(60).history) == {0}


def test_where_the_store_binds_nobody_is_called() -> None:
    assert set(Machine(device_rate=1000, store_rate=80).run(60).history) == {0}


def test_helpers_that_are_no_longer_needed_go_and_come_back_with_the_need() -> None:
    machine = Machine(device_rate=400).run(120)
    assert machine.num_helpers == 3
    machine.device_rate = 150
    assert machine.run(60).num_helpers == 1
    machine.device_rate = 80
    assert machine.run(60).num_helpers == 0
    machine.device_rate = 400
    assert machine.run(60).num_helpers == 3


def test_helpers_that_bring_nothing_go_and_are_tried_again_ever_more_rarely() -> None:
    machine = Machine(device_rate=1000, helper_rate=1).run(4000)
    tries = [at for at, (before, now) in enumerate(pairwise(machine.history)) if now > before]
    assert machine.history.count(1) == len(tries) + 1  # each for one window
    pauses_s = [WINDOW_S * (later - earlier) for earlier, later in pairwise(tries)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] >= FIRST_REST_S
    assert MOST_REST_S <= pauses_s[-1] < 2 * MOST_REST_S


def test_helpers_that_come_to_bring_nothing_go() -> None:
    machine = Machine(device_rate=1000).run(60)
    assert machine.num_helpers == 10
    machine.helper_rate = 10
    assert machine.run(int(WINDOW_S) + 2).num_helpers == 0


def test_after_a_loss_nobody_is_called_for_a_while() -> None:
    starved = Window(own_rate=100, helped_rate=0, idle=0.9, backlog=1)
    starvation = Starvation(1)
    starvation.rest(now=100)
    assert starvation.judge(starved, 0, now=100 + FIRST_REST_S - 1) == 0
    assert starvation.judge(starved, 0, now=100 + FIRST_REST_S) == 1


def test_helpers_that_are_lost_together_are_one_loss() -> None:
    starved = Window(own_rate=100, helped_rate=0, idle=0.9, backlog=1)
    starvation = Starvation(1)
    for _ in range(8):
        starvation.rest(now=100)
    assert starvation.judge(starved, 0, now=100 + FIRST_REST_S) == 1
    starvation.rest(now=200)
    assert starvation.judge(starved, 0, now=200 + 2 * FIRST_REST_S - 1) == 0
    assert starvation.judge(starved, 0, now=200 + 2 * FIRST_REST_S) == 1


def test_the_time_before_the_first_image_says_nothing() -> None:
    meter = Meter(1)
    for second in range(60):
        assert meter.look(Reading(second, 0.0, 0, 0, waiting=True)) is None
    assert meter.look(Reading(60, 0.5, 10, 0, waiting=True)) is None
    window = meter.look(Reading(64, 2.5, 410, 100, waiting=True))
    assert window == Window(own_rate=75, helped_rate=25, idle=0.5, backlog=1)
