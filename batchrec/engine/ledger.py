"""The ledger: which shard is where. Pure: no Ray, no I/O, no clock.

    pending -> in flight -> done
       ^          |
       +----------+  failed or lost, until a cap; then -> abandoned

The coordinator moves events between this state machine and a pool. Failed attempts (they raised) and
lost attempts (their worker is gone) are counted apart, each against its own cap. Answers of attempts
that are no longer in flight are ignored.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from enum import IntEnum
from typing import Protocol

from batchrec.engine.stretches import Stretches
from batchrec.records import Attempt, Shard

MAX_FAILED = 3
MAX_LOST = 20
MAX_LOST_WITH_NODE = 200
#: Lost so often, a shard is decoded in child processes as a whole: whatever note of it there was did not help.
ISOLATED_AFTER_LOST = 2
ISOLATED_AFTER_LOST_WITH_NODE = 3


class Shards(Protocol):
    """The shards of a plan, by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Shard: ...


class ShardState(IntEnum):
    """Where a shard stands."""

    PENDING = 0
    IN_FLIGHT = 1
    DONE = 2
    ABANDONED = 3


class Ledger:
    """Keeps every shard of a plan in exactly one state.

    Args:
        plan: The shards, by index.
        done: Indices of shards whose parts already stand.
        run_id: Makes attempt ids of this run unique.
        shuffle_seed: Order of dispatch, see :class:`batchrec.engine.stretches.Stretches`.
        run_length: Neighbouring shards that go to one worker.
    """

    def __init__(
        self,
        plan: Shards,
        done: Collection[int] = (),
        *,
        run_id: str,
        shuffle_seed: int = 0,
        run_length: int = 8,
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._state = bytearray(len(plan))
        for index in done:
            self._state[index] = ShardState.DONE
        self._num_failed = array("B", bytes(len(plan)))
        self._num_lost = array("B", bytes(len(plan)))
        self._num_lost_with_node = array("B", bytes(len(plan)))
        self._owner: dict[str, int] = {}
        self._num_handed_out = 0
        self._in_flight: defaultdict[int, dict[str, Attempt]] = defaultdict(dict)
        self._counts = Counter({ShardState.DONE: len(set(done)), ShardState.PENDING: len(plan) - len(set(done))})
        self._pending = Stretches(len(plan), lambda index: not self._state[index], length=run_length, seed=shuffle_seed)
        self._suspects: deque[int] = deque()
        self._emptying: int | None = None

    @property
    def finished(self) -> bool:
        """Whether no shard is pending or in flight."""
        return not self.num_unfinished

    @property
    def num_unfinished(self) -> int:
        """Shards pending or in flight."""
        return self.num_pending + len(self._owner)

    @property
    def num_pending(self) -> int:
        """Shards waiting for a worker."""
        return len(self._pending) + len(self._suspects)

    def count(self, state: ShardState) -> int:
        """Return how many shards are in ``state``."""
        return self._counts[state]

    def state(self, shard: int) -> ShardState:
        """Return where a shard stands."""
        return ShardState(self._state[shard])

    def in_flight(self, worker: int) -> list[Attempt]:
        """Return a worker's attempts."""
        return list(self._in_flight[worker].values()) if worker in self._in_flight else []

    def next_attempt(self, worker: int) -> Attempt | None:
        """Put the next pending shard in flight on a worker; None when there is none for it now.

        A shard that was in flight on a lost worker may be what killed it, so it runs alone: on a worker
        that has nothing else, which gets nothing else meanwhile.
        """
        index = self._next_index(worker)
        if index is None:
            return None
        number = self._num_failed[index] + self._num_lost[index] + self._num_lost_with_node[index] + 1
        self._num_handed_out += 1
        attempt_id = f"{self._run_id}-{index}-{number}-{self._num_handed_out}"
        attempt = Attempt(self._plan[index], number, attempt_id, self._is_isolated(index))
        self._owner[attempt.attempt_id] = worker
        self._in_flight[worker][attempt.attempt_id] = attempt
        self._move(index, ShardState.IN_FLIGHT)
        return attempt

    def publish(self, attempt_id: str) -> bool:
        """Note that a part stands for the attempt's shard. False for a stale or duplicate answer."""
        attempt = self._take_back(attempt_id)
        if attempt is None:
            return False
        self._move(attempt.shard.index, ShardState.DONE)
        return True

    def fail(self, attempt_id: str) -> ShardState | None:
        """Note that an attempt raised; return the shard's new state, None for a stale answer."""
        # To the end: what it met may pass while others are done.
        return self._give_back(attempt_id, self._num_failed, MAX_FAILED, goes_first=False)

    def lose(self, attempt_id: str, *, with_node: bool = False) -> ShardState | None:
        """Note that an attempt's worker is gone; return the shard's new state, None for a stale answer.

        A worker that went with its whole node was hardly killed by its shard, so such losses have a cap of their
        own that no preemption reaches; but where memory runs out, a shard can take its node along.
        """
        if with_node:
            return self._give_back(attempt_id, self._num_lost_with_node, MAX_LOST_WITH_NODE, goes_first=True)
        return self._give_back(attempt_id, self._num_lost, MAX_LOST, goes_first=True)

    def abandoned(self) -> list[Shard]:
        """Return the shards past a cap, whose rows must be published as errors."""
        return [self._plan[i] for i, state in enumerate(self._state) if state == ShardState.ABANDONED]

    def settle(self, shard: int) -> None:
        """Note that an abandoned shard's rows were published as errors."""
        if self._state[shard] != ShardState.ABANDONED:
            raise ValueError(f"shard {shard} is {self.state(shard).name}, not ABANDONED")
        self._move(shard, ShardState.DONE)

    def _next_index(self, worker: int) -> int | None:
        held = self.in_flight(worker)
        if any(self._num_lost[attempt.shard.index] for attempt in held):
            return None
        if self._suspects and not held:
            return self._suspects.popleft()
        if self._suspects and self._is_emptying(worker):
            return None
        return self._pending.take(worker)

    def _is_emptying(self, worker: int) -> bool:
        """Let one worker at a time run empty, to take a suspect; the others have no reason to wait."""
        if self._emptying not in self._in_flight:
            self._emptying = worker
        return self._emptying == worker

    def _is_isolated(self, index: int) -> bool:
        return (
            self._num_failed[index] == MAX_FAILED - 1  # the last one before its rows are given up
            or self._num_lost[index] >= ISOLATED_AFTER_LOST
            or self._num_lost_with_node[index] >= ISOLATED_AFTER_LOST_WITH_NODE
        )

    def _give_back(self, attempt_id: str, counts: array[int], cap: int, *, goes_first: bool) -> ShardState | None:
        attempt = self._take_back(attempt_id)
        if attempt is None:
            return None
        index = attempt.shard.index
        counts[index] += 1
        state = ShardState.ABANDONED if counts[index] >= cap else ShardState.PENDING
        self._move(index, state)
        if state == ShardState.PENDING:
            waiting = self._suspects if self._num_lost[index] else self._pending
            waiting.appendleft(index) if goes_first else waiting.append(index)
        return state

    def _take_back(self, attempt_id: str) -> Attempt | None:
        worker = self._owner.pop(attempt_id, None)
        if worker is None:
            return None
        attempt = self._in_flight[worker].pop(attempt_id)
        if not self._in_flight[worker]:
            del self._in_flight[worker]
        return attempt

    def _move(self, index: int, state: ShardState) -> None:
        self._counts[ShardState(self._state[index])] -= 1
        self._counts[state] += 1
        self._state[index] = state
