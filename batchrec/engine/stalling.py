"""No silent stall: which workers have hung, and over what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from batchrec.engine.pool import LiveCounts
from batchrec.errors import WorkersLost
from batchrec.records import Attempt, InHand
from batchrec.spec import DECODE_WITHIN_S, STALL_S

#: Workers that hang in a row, with no part published between, before the run ends.
MAX_HUNG_IN_A_ROW = 5
_LOOK_EVERY_S = 1.0
#: Who was not looking for so long was stopped or starved itself, and has no ground to judge others.
_AWAY_S = 30.0
_MOST_NAMED = 4
_NOTHING_TOLD = LiveCounts()

#: What a worker had told and held when it last moved, and when that was.
_Moved = tuple[object, float]


class StallWatch:
    """Finds workers that finish no row although they have work, or decode one image for too long.

    Args:
        stall_s: Seconds without a finished row; three times ``decode_within_s`` where that is more.
        decode_within_s: Seconds one image may take to decode.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        stall_s: float = STALL_S,
        decode_within_s: float = DECODE_WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A suspect image may be tried twice, each time until it is over its limit, in processes that must start.
        self._stall_s = max(stall_s, 3 * decode_within_s)
        self._decode_within_s, self._clock = decode_within_s, clock
        self._moved: dict[int, _Moved] = {}
        self._overdue: dict[int, InHand] = {}
        self._looked_at = clock()
        self._num_hung_in_a_row = 0

    def published(self) -> None:
        """Note that a part was published: what hangs is not everything."""
        self._num_hung_in_a_row = 0

    def look(
        self,
        workers: Iterable[int],
        in_flight: Callable[[int], Sequence[Attempt]],
        live_counts: Callable[[], Mapping[int, LiveCounts]],
    ) -> dict[int, str]:
        """Return the workers that hang, each with what to say of it; looks once a second at most.

        Args:
            workers: Those that are ready.
            in_flight: Tells a worker's attempts.
            live_counts: Tells how far each worker is, as last heard.

        Raises:
            WorkersLost: One hangs after another.
        """
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return {}
        away, self._looked_at = now - self._looked_at > _AWAY_S, now
        if away:
            self._moved.clear()
        live, before, self._moved = live_counts(), self._moved, {}
        hung = {}
        for worker in workers:
            if attempts := in_flight(worker):
                counts = live.get(worker, _NOTHING_TOLD)
                idle_s = self._idle_s(worker, attempts, counts, before.get(worker), now)
                if fault := self._fault(worker, attempts, counts, idle_s):
                    hung[worker] = fault
        self._count(hung)
        return hung

    def _idle_s(
        self, worker: int, attempts: Sequence[Attempt], counts: LiveCounts, before: _Moved | None, now: float
    ) -> float:
        sign = (counts.num_ok, counts.num_failed, [attempt.attempt_id for attempt in attempts])
        moved = before if before is not None and before[0] == sign else (sign, now)
        self._moved[worker] = moved
        return now - moved[1]

    def _fault(self, worker: int, attempts: Sequence[Attempt], counts: LiveCounts, idle_s: float) -> str:
        overdue = self._decoding_for_too_long(worker, counts.in_hand)
        if overdue is None and idle_s < self._stall_s:
            return ""
        firsts = {attempt.shard.index: attempt.shard.first_position for attempt in attempts}
        if overdue is not None:
            return f"it hangs in {_named(overdue, firsts)}"
        in_hand = [_named(each, firsts) for each in counts.in_hand[:_MOST_NAMED]]
        shards = ", ".join(map(str, firsts))
        return (
            f"no row of shard {shards} finished for {idle_s:.0f} s; in hand: {', '.join(in_hand) or 'nothing it told'}"
        )

    def _decoding_for_too_long(self, worker: int, in_hand: Iterable[InHand]) -> InHand | None:
        late = [each for each in in_hand if each.stage == "decode" and each.for_s > self._decode_within_s]
        if not late:
            self._overdue.pop(worker, None)
            return None
        # Told twice, and later the second time: a worker that was stopped itself is late with everything at first.
        before = self._overdue.setdefault(worker, late[0])
        same = (before.shard, before.row) == (late[0].shard, late[0].row)
        if same and late[0].for_s > before.for_s:
            return late[0]
        self._overdue[worker] = late[0]
        return None

    def _count(self, hung: Mapping[int, str]) -> None:
        self._num_hung_in_a_row += len(hung)
        if self._num_hung_in_a_row >= MAX_HUNG_IN_A_ROW:
            raise WorkersLost(
                f"{self._num_hung_in_a_row} workers in a row hung without finishing a shard",
                found=next(iter(hung.values())),
                advice="look at what that stage waits for (store, disk, device); the same command resumes",
            )


def _named(each: InHand, firsts: Mapping[int, int]) -> str:
    row = f", row {firsts[each.shard] + each.row} of the manifest" if each.shard in firsts else ""
    return f"{each.stage} of shard {each.shard}{row}, for {each.for_s:.0f} s"
