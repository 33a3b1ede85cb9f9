"""From requests to windows: what counts as their time, when a window is whole, and what an allowance does."""

from __future__ import annotations

import heapq
import threading
import time

import pytest

from batchrec.storage.pace import Pace
from batchrec.storage.pacing import Pacer, Request


def keep_busy(pacer: Pacer, until_s: float, latency_s: float, most: int = 10**9, *, now: float = 0.0) -> None:
    """Make requests of one latency on a clock of its own, as many at once as the pacer lets and anybody asks for."""
    under_way: list[float] = []
    while now < until_s:
        while len(under_way) < min(pacer.limit, most):
            heapq.heappush(under_way, now + latency_s * (1 + 0.001 * len(under_way)))
        now = heapq.heappop(under_way)
        pacer.note(now, latency_s, latency_s, rejected=False)


def test_a_store_that_takes_more_gets_more() -> None:
    pacer = Pacer(Pace(8, 256))
    keep_busy(pacer, 60, latency_s=0.1)
    assert pacer.limit == 256


def test_reads_nobody_asks_for_are_not_tried() -> None:
    pacer = Pacer(Pace(32, 256))
    keep_busy(pacer, 60, latency_s=0.1, most=20)
    assert pacer.limit == 32


def test_windows_end_in_time_where_requests_are_slow() -> None:
    pacer = Pacer(Pace(32, 256))
    keep_busy(pacer, 120, latency_s=8.0)
    assert pacer.limit > 32


def test_rejections_shrink_it_within_a_window() -> None:
    pacer = Pacer(Pace(32, 256))
    for number in range(32 + 4 * 32 + 1):
        pacer.note(number * 0.01, 0.05, 0.05, rejected=number % 2 == 0)
    assert pacer.limit == 16


def test_an_allowance_holds_however_well_more_would_do() -> None:
    pacer = Pacer(Pace(32, 256))
    pacer.allow(5)
    assert pacer.limit == 5
    keep_busy(pacer, 60, latency_s=0.1)
    assert pacer.limit == 5
    pacer.allow(100)
    assert pacer.limit == 32
    keep_busy(pacer, 120, latency_s=0.1, now=60)
    assert pacer.limit == 100


def test_many_threads_may_tell_at_once() -> None:
    pacer = Pacer(Pace(4, 64))

    def tell() -> None:
        for number in range(5000):
            pacer.note(time.monotonic() + number * 0.01, 0.01, 0.01, rejected=number % 7 == 0)

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= pacer.limit <= 64


class Told(Pacer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Pace(1, 1))
        self.notes: list[tuple[float, float, bool]] = []

    def note(self, ended_at: float, seconds: float, answer_s: float, *, rejected: bool) -> None:
        self.notes.append((seconds, answer_s, rejected))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_waiting_for_room_is_no_time_of_a_request(clock: list[float]) -> None:
    def wait(num_bytes: int, patience_s: float | None) -> bool:
        clock[0] += 40
        return True

    told = Told()
    request = Request(told, wait)
    clock[0] += 1
    request.reserve(10, None)
    clock[0] += 2
    request.end()
    assert told.notes == [(3, 1, False)]


def test_each_try_counts_as_a_request_of_its_own(clock: list[float]) -> None:
    told = Told()
    request = Request(told, lambda num_bytes, patience_s: True)
    clock[0] += 1
    request.end(rejected=True)
    clock[0] += 50
    request.begin()
    clock[0] += 2
    request.end()
    assert told.notes == [(1, 1, True), (2, 2, False)]
