"""No silent stall: who hangs is named with shard, stage and row, and replaced; who only is slow is not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from batchrec.engine.coordinator import Coordinator
from batchrec.engine.ledger import Ledger
from batchrec.engine.pool import AttemptPublished, LiveCounts
from batchrec.engine.stalling import MAX_HUNG_IN_A_ROW, StallWatch
from batchrec.errors import WorkersLost
from batchrec.records import Attempt, InHand
from tests.engine.simulation import SimulatedPool, result, shards
from tests.engine.test_coordinator import Clock, Listener

DECODING = InHand("decode", shard=2, row=7, for_s=61.0)


@dataclass
class Scene:
    """One worker with one attempt, watched."""

    clock: Clock = field(default_factory=Clock)
    counts: LiveCounts = field(default_factory=LiveCounts)
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt(shards(3)[2], 1, "a")])

    def __post_init__(self) -> None:
        self.watch = StallWatch(stall_s=600, decode_within_s=60, clock=self.clock)

    def look_after(self, seconds: float) -> dict[int, str]:
        self.clock.now += seconds
        return self.watch.look({0}, lambda worker: self.attempts, lambda: {0: self.counts})

    def look_for(self, seconds: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for _ in range(0, seconds, 10):
            found |= self.look_after(10)
        return found


def test_a_worker_that_finishes_no_row_is_named_with_what_it_has_in_hand() -> None:
    scene = Scene(counts=LiveCounts(5, 0, in_hand=(InHand("fetch", 2, 9, 590.2), InHand("predict", 1, 3, 3.0))))
    assert scene.look_for(600) == {}
    assert scene.look_after(10) == {
        0: "no row of shard 2 finished for 600 s; in hand: fetch of shard 2, row 29 of the manifest, for 590 s, "
        "predict of shard 1, for 3 s"
    }


def test_a_worker_that_finishes_a_row_now_and_then_is_left_alone() -> None:
    scene = Scene()
    for num_ok in range(5):
        scene.counts = LiveCounts(num_ok, 0)
        assert scene.look_for(590) == {}


def test_a_worker_without_work_is_left_alone() -> None:
    scene = Scene(attempts=[])
    assert scene.look_for(2000) == {}


def test_a_worker_given_other_work_begins_anew() -> None:
    scene = Scene()
    scene.look_for(500)
    scene.attempts = [Attempt(shards(2)[1], 1, "b")]
    assert scene.look_for(500) == {}


def test_a_coordinator_that_was_stopped_itself_blames_nobody() -> None:
    scene = Scene()
    scene.look_for(500)
    assert scene.look_after(4000) == {}
    assert scene.look_for(500) == {}


def test_an_image_that_decodes_for_too_long_is_named() -> None:
    scene = Scene(counts=LiveCounts(in_hand=(DECODING,)))
    assert scene.look_after(1) == {}
    scene.counts = LiveCounts(in_hand=(InHand("decode", 2, 7, 62.0),))
    assert scene.look_after(1) == {0: "it hangs in decode of shard 2, row 27 of the manifest, for 62 s"}


def test_a_worker_that_was_stopped_itself_is_not_blamed_for_the_image_it_had() -> None:
    scene = Scene()
    for told in [(DECODING,), (DECODING,), (), (DECODING,), (InHand("decode", 2, 8, 61.5),)]:
        scene.counts = LiveCounts(in_hand=told)
        assert scene.look_after(1) == {}


def test_an_image_decoded_apart_has_limits_of_its_own() -> None:
    scene = Scene()
    for for_s in (61.0, 62.0, 63.0):
        scene.counts = LiveCounts(in_hand=(InHand("decode apart", 2, 7, for_s),))
        assert scene.look_after(1) == {}


@dataclass
class HangingPool(SimulatedPool):
    """Answers no attempt of shard 0 by a worker below ``hanging_below``; the others at once."""

    hanging_below: int = 0
    ended: list[tuple[int, str]] = field(default_factory=list)

    def dispatch(self, worker: int, attempt: Attempt) -> None:
        self.dispatched.append((worker, attempt))
        if attempt.shard.index or worker >= self.hanging_below:
            self.events.append(AttemptPublished(worker, attempt, result(attempt)))

    def end(self, worker: int, reason: str) -> None:
        self.ended.append((worker, reason))


def coordinator(pool: HangingPool, num_shards: int, listener: Listener) -> Coordinator:
    clock = Clock(step=0.5)
    return Coordinator(
        Ledger(shards(num_shards), run_id="run"),
        pool,
        num_workers=1,
        superseded_by=lambda: None,
        abandon=lambda shard, reason: pytest.fail("given up"),
        observer=listener,
        stall_watch=StallWatch(stall_s=20, decode_within_s=5, clock=clock),
        clock=clock,
    )


def test_a_worker_that_hangs_is_ended_and_its_shard_done_by_another() -> None:
    pool, listener = HangingPool(hanging_below=2), Listener()
    counts = coordinator(pool, 6, listener).run()
    assert (counts.num_published, counts.num_attempts_lost, counts.num_workers_lost) == (6, 2, 2)
    assert [worker for worker, _ in pool.ended] == [0, 1]
    said = [
        line for line in listener.said if re.search(r"lost and is replaced: no row of shard .* finished for 2", line)
    ]
    assert len(said) == 2, listener.said
    assert [attempt.isolated for _, attempt in pool.dispatched if not attempt.shard.index] == [False, False, True]


def test_workers_that_hang_one_after_another_end_the_run() -> None:
    pool = HangingPool(hanging_below=100)
    with pytest.raises(WorkersLost, match=r"5 workers in a row hung.*no row of shard 0 finished"):
        coordinator(pool, 1, Listener()).run()
    assert (len(pool.ended), pool.closed) == (MAX_HUNG_IN_A_ROW - 1, True)
