"""The ledger keeps every shard in exactly one state, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchrec.engine.ledger import MAX_FAILED, MAX_LOST, Ledger, ShardState
from batchrec.records import Shard

NUM_SHARDS = 6


def shards(count: int) -> list[Shard]:
    return [Shard(index=i, file=0, first_row=10 * i, num_rows=10, first_position=10 * i) for i in range(count)]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(shards(NUM_SHARDS), run_id="run")


def test_every_shard_is_handed_out_once(ledger: Ledger) -> None:
    handed = [ledger.next_attempt(worker=0) for _ in range(NUM_SHARDS)]
    assert sorted(attempt.shard.index for attempt in handed if attempt) == list(range(NUM_SHARDS))
    assert ledger.next_attempt(worker=1) is None


def test_shards_whose_parts_stand_are_not_handed_out() -> None:
    ledger = Ledger(shards(4), done=[0, 2], run_id="run")
    assert ledger.count(ShardState.DONE) == 2
    assert {ledger.next_attempt(0).shard.index, ledger.next_attempt(0).shard.index} == {1, 3}


def test_a_failed_attempt_is_tried_again_after_the_others_under_a_new_id(ledger: Ledger) -> None:
    first = ledger.next_attempt(0)
    assert ledger.fail(first.attempt_id) == ShardState.PENDING
    second = [ledger.next_attempt(0) for _ in range(NUM_SHARDS)][-1]
    assert second.shard == first.shard
    assert (second.number, second.attempt_id != first.attempt_id) == (2, True)


def test_a_shard_that_keeps_failing_is_abandoned_at_the_cap() -> None:
    ledger = Ledger(shards(1), run_id="run")
    states = [ledger.fail(ledger.next_attempt(0).attempt_id) for _ in range(MAX_FAILED)]
    assert states == [ShardState.PENDING] * (MAX_FAILED - 1) + [ShardState.ABANDONED]
    assert len(ledger.abandoned()) == 1


def test_the_last_attempt_before_a_shard_is_given_up_decodes_apart_from_its_worker() -> None:
    ledger = Ledger(shards(1), run_id="run")
    isolated = []
    for _ in range(MAX_FAILED):
        attempt = ledger.next_attempt(0)
        isolated.append(attempt.isolated)
        ledger.fail(attempt.attempt_id)
    assert isolated == [False] * (MAX_FAILED - 1) + [True]


def test_attempts_lost_with_their_node_are_numbered_too() -> None:
    ledger = Ledger(shards(1), run_id="run")
    ledger.lose(ledger.next_attempt(0).attempt_id, with_node=True)
    assert ledger.next_attempt(0).number == 2


def test_losses_do_not_count_as_failures() -> None:
    ledger = Ledger(shards(1), run_id="run")
    for _ in range(MAX_LOST - 1):
        assert ledger.lose(ledger.next_attempt(0).attempt_id) == ShardState.PENDING
    assert ledger.fail(ledger.next_attempt(0).attempt_id) == ShardState.PENDING
    assert ledger.lose(ledger.next_attempt(0).attempt_id) == ShardState.ABANDONED


def test_a_shard_that_was_on_a_lost_worker_runs_alone(ledger: Ledger) -> None:
    suspect = ledger.next_attempt(0)
    ledger.lose(suspect.attempt_id)
    other = ledger.next_attempt(1)
    assert other.shard == suspect.shard
    assert ledger.next_attempt(1) is None
    innocent = ledger.next_attempt(2)
    assert innocent.shard != suspect.shard
    ledger.lose(other.attempt_id)
    assert ledger.next_attempt(2) is None


def test_only_one_worker_runs_empty_for_what_a_lost_worker_had() -> None:
    ledger = Ledger(shards(20), run_id="run")
    held = {worker: ledger.next_attempt(worker) for worker in range(4)}
    ledger.lose(held[0].attempt_id)
    assert ledger.next_attempt(1) is None
    assert [ledger.next_attempt(worker) is not None for worker in (2, 3, 1)] == [True, True, False]
    ledger.publish(held[1].attempt_id)
    assert ledger.next_attempt(1).shard == held[0].shard


def test_another_runs_empty_where_the_one_that_did_is_lost(ledger: Ledger) -> None:
    held = {worker: ledger.next_attempt(worker) for worker in range(3)}
    ledger.lose(held[0].attempt_id)
    assert ledger.next_attempt(1) is None
    ledger.lose(held[1].attempt_id, with_node=True)
    assert ledger.next_attempt(2) is None
    ledger.publish(held[2].attempt_id)
    assert ledger.next_attempt(2).shard == held[0].shard


def test_stale_and_duplicate_answers_are_ignored(ledger: Ledger) -> None:
    stale = ledger.next_attempt(0)
    ledger.lose(stale.attempt_id)
    again = ledger.next_attempt(1)
    assert not ledger.publish(stale.attempt_id)
    assert ledger.fail(stale.attempt_id) is None
    assert ledger.publish(again.attempt_id)
    assert not ledger.publish(again.attempt_id)


def test_an_abandoned_shard_keeps_the_run_from_nothing_but_itself(ledger: Ledger) -> None:
    for _ in range(MAX_LOST):
        ledger.lose(ledger.next_attempt(0).attempt_id)
    while attempt := ledger.next_attempt(0):
        ledger.publish(attempt.attempt_id)
    assert ledger.finished
    ledger.settle(ledger.abandoned()[0].index)
    assert ledger.count(ShardState.DONE) == NUM_SHARDS


def test_only_an_abandoned_shard_can_be_settled(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="PENDING, not ABANDONED"):
        ledger.settle(0)


def test_neighbouring_shards_stay_together_while_runs_are_shuffled() -> None:
    ledger = Ledger(shards(64), run_id="run", run_length=8)
    order = [ledger.next_attempt(0).shard.index for _ in range(64)]
    assert order != sorted(order)
    assert all(order[i : i + 8] == list(range(order[i], order[i] + 8)) for i in range(0, 64, 8))


class LedgerMachine(RuleBasedStateMachine):
    """Workers take attempts, publish, fail, get lost, and answer late or twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(shards(NUM_SHARDS), run_id="run")
        self.in_flight: dict[str, int] = {}
        self.owners: dict[str, int] = {}
        self.answered: list[str] = []
        self.published: list[int] = []

    @rule(worker=st.integers(0, 2))
    def take(self, worker: int) -> None:
        attempt = self.ledger.next_attempt(worker)
        busy = any(owner == worker for owner in self.owners.values())
        assert attempt or busy or not self.ledger.num_pending
        if attempt:
            assert attempt.shard.index not in self.in_flight.values()
            assert attempt.attempt_id not in self.answered
            self.in_flight[attempt.attempt_id] = attempt.shard.index
            self.owners[attempt.attempt_id] = worker

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), how=st.sampled_from(["publish", "fail", "lose"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        attempt_id = data.draw(st.sampled_from(sorted(self.in_flight)))
        shard = self.in_flight.pop(attempt_id)
        del self.owners[attempt_id]
        self.answered.append(attempt_id)
        assert getattr(self.ledger, how)(attempt_id) or how != "publish"
        if how == "publish":
            self.published.append(shard)

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), how=st.sampled_from(["publish", "fail", "lose"]))
    def answer_late(self, data: st.DataObject, how: str) -> None:
        assert not getattr(self.ledger, how)(data.draw(st.sampled_from(self.answered)))

    @invariant()
    def every_shard_is_in_one_state(self) -> None:
        states = [self.ledger.state(i) for i in range(NUM_SHARDS)]
        assert sorted(self.published) == [i for i, state in enumerate(states) if state == ShardState.DONE]
        assert sorted(self.in_flight.values()) == [i for i, s in enumerate(states) if s == ShardState.IN_FLIGHT]
        assert all(self.ledger.count(state) == states.count(state) for state in ShardState)
        assert self.ledger.num_pending == states.count(ShardState.PENDING)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=300, stateful_step_count=50)
