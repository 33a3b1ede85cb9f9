"""The pace of reads against simulated stores: it finds what a store can do, and leaves alone one that suffers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec.storage.pace import FEWEST, TOLERATED_SHARE, Pace, Window

MOST = 256
few_examples = settings(max_examples=40, deadline=None)
LATENCIES = st.floats(0.005, 0.5)
CAPACITIES = st.floats(20, 3000)


@dataclass
class Store:
    """Answers each request after ``latency_s``, no more than ``capacity`` a second; more of them wait in line.

    Attributes:
        latency_s: Of a request with nothing before it.
        capacity: Requests a second.
        rejects_over: Requests a second it takes; it rejects what comes on top.
        demand: Images a second that are wanted.
        slow_over: Reads it can take; of those on top two in five are answered after ten seconds.
        noise: By how much its speed varies, up or down.
    """

    latency_s: float
    capacity: float = 1e9
    rejects_over: float = 1e9
    demand: float = 1e9
    slow_over: int = 10**9
    noise: float = 0.0

    def best_rate(self) -> float:
        """What it gives to as many reads as may be."""
        return min(MOST / self.latency_s, self.capacity, self.demand, self.rejects_over)

    def window(self, limit: int, chance: random.Random) -> Window:
        """What one second brings with so many reads allowed."""
        offered = min(limit / self.latency_s, self.demand)
        rejected = max(0.0, offered - self.rejects_over)
        answered = min(offered - rejected, self.capacity) * (1 + self.noise * chance.uniform(-1, 1))
        under_way = min(limit, offered * self.latency_s) if offered < self.capacity else limit
        each_s = max(self.latency_s, under_way / max(answered, 1e-9)) if offered >= self.capacity else self.latency_s
        answers = [each_s] * max(1, round(answered))
        num_slow = int(0.4 * max(0.0, 1 - self.slow_over / limit) * len(answers))
        answers[:num_slow] = [10.0] * num_slow
        return Window(1.0, under_way, answers, round(rejected))


def paced(store: Store, num_windows: int, seed: int = 0, pace: Pace | None = None) -> list[tuple[int, Window]]:
    """Let a pace follow a store; return each limit with what it brought."""
    pace, chance = pace or Pace(32, MOST), random.Random(seed)
    seen = []
    for _ in range(num_windows):
        window = store.window(pace.limit, chance)
        seen.append((pace.limit, window))
        pace.see(window)
        assert 1 <= pace.limit <= MOST
    return seen


def share_of(seen: list[tuple[int, Window]], is_so: Callable[[int, Window], bool]) -> float:
    return sum(is_so(*each) for each in seen) / len(seen)


@few_examples
@given(LATENCIES, CAPACITIES, st.integers(0, 10**6))
def test_it_finds_what_a_store_can_do(latency_s: float, capacity: float, seed: int) -> None:
    store = Store(latency_s, capacity, noise=0.03)
    last = paced(store, 80, seed)[40:]
    assert share_of(last, lambda _, window: window.rate >= 0.78 * store.best_rate()) >= 0.95


@few_examples
@given(LATENCIES, CAPACITIES, st.integers(0, 10**6))
def test_reads_that_would_only_wait_for_each_other_are_not_begun(latency_s: float, capacity: float, seed: int) -> None:
    store = Store(latency_s, capacity, noise=0.03)
    enough = max(32, capacity * latency_s)
    last = paced(store, 80, seed)[40:]
    assert share_of(last, lambda limit, _: limit <= 1.5 * enough + 1) >= 0.8
    assert max(limit for limit, _ in last) <= 1.5 * 1.5 * enough + 2


@few_examples
@given(LATENCIES, st.floats(1, 500))
def test_a_source_that_is_not_the_bottleneck_is_asked_no_harder(latency_s: float, demand: float) -> None:
    store = Store(latency_s, demand=demand)
    enough = max(32, demand * latency_s)
    assert max(limit for limit, _ in paced(store, 60)) <= 1.5 * 1.5 * enough + 2


@few_examples
@given(st.floats(0.02, 0.5), st.floats(50, 3000))
def test_a_store_that_rejects_is_left_alone_and_still_used(latency_s: float, rejects_over: float) -> None:
    store = Store(latency_s, rejects_over=rejects_over)
    last = paced(store, 200)[60:]
    num_rejected = sum(window.num_rejected for _, window in last)
    num_answered = sum(len(window.answer_s) for _, window in last)
    # Four reads at once may be more than a very small store takes.
    if FEWEST / latency_s < rejects_over:
        assert num_rejected <= 1.5 * TOLERATED_SHARE * (num_answered + num_rejected)
    assert num_answered / len(last) >= 0.6 * store.best_rate()


def test_rejections_now_and_then_change_nothing() -> None:
    pace = Pace(32, MOST)
    for _ in range(50):
        pace.see(Window(1.0, 2.0, [0.05] * 95, num_rejected=5))
    assert pace.limit == 32


@few_examples
@given(st.integers(16, 100), st.floats(0.02, 0.2))
def test_reads_that_make_a_store_drag_are_taken_back(slow_over: int, latency_s: float) -> None:
    last = paced(Store(latency_s, slow_over=slow_over), 200)[60:]
    assert share_of(last, lambda _, window: window.slow_share <= TOLERATED_SHARE) >= 0.75
    assert max(limit for limit, _ in last) <= 2 * slow_over + 1


def test_a_store_that_drags_whatever_is_asked_of_it_is_not_asked_less() -> None:
    seen = paced(Store(0.05, slow_over=0), 200)
    assert share_of(seen[20:], lambda limit, _: limit >= 32) >= 0.75


def test_a_store_that_is_slow_throughout_is_not_taken_to_drag() -> None:
    assert Window(1.0, 1.0, [20.0] * 50).slow_share == 0.0


def test_a_store_that_recovers_is_used_to_the_full_again() -> None:
    pace = Pace(32, MOST)
    paced(Store(0.1, rejects_over=50), 40, pace=pace)
    assert pace.limit < 16
    seen = paced(Store(0.1), 300, pace=pace)
    assert seen[-1][0] == MOST


WINDOWS = st.builds(
    Window,
    span_s=st.floats(1e-6, 100),
    busy_s=st.floats(0, 1e5),
    answer_s=st.lists(st.floats(0, 100), max_size=30),
    num_rejected=st.integers(0, 50),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 64), st.integers(1, 300), st.lists(st.one_of(WINDOWS, st.integers(-3, 300)), max_size=40))
def test_whatever_comes_the_number_stays_within_what_is_allowed(
    first: int, most: int, steps: list[Window | int]
) -> None:
    pace, allowed = Pace(first, most), most
    for step in steps:
        if isinstance(step, Window):
            pace.see(step)
        else:
            pace.allow(step)
            allowed = max(1, min(most, step))
        assert 1 <= pace.limit <= allowed
