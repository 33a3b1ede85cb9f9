"""What each thread of a worker has in hand, for whoever asks why nothing moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from batchrec.pipeline.noting import Note
from batchrec.records import InHand

#: What a thread has had for a shorter time is not worth telling: most rows are through long before.
_WORTH_TELLING_S = 1.0
_MOST_TOLD = 16


class Hand:
    """What one thread is at; only that thread changes it."""

    __slots__ = ("_note", "_slot", "_step")

    def __init__(self, note: Note, slot: int) -> None:
        self._note, self._slot = note, slot
        self._step: tuple[str, int, int, float] | None = None

    def take(self, stage: str, shard: int, row: int) -> None:
        """Begin a stage of a row."""
        self._step = (stage, shard, row, time.monotonic())

    def lay_down(self) -> None:
        """End it."""
        self._step = None

    @contextmanager
    def at(self, stage: str, shard: int) -> Iterator[None]:
        """Hold a stage of a whole shard meanwhile."""
        self.take(stage, shard, 0)
        try:
            yield
        finally:
            self.lay_down()

    def take_noted(self, stage: str, shard: int, row: int) -> None:
        """Begin a stage that may end the process, so that its row is known afterwards."""
        self._note.begin(self._slot, shard, row)
        self._step = (stage, shard, row, time.monotonic())

    def lay_down_noted(self) -> None:
        """End it."""
        self._step = None
        self._note.end(self._slot)

    def step(self) -> tuple[str, int, int, float] | None:
        """Return the stage, shard, row and when it began, if there is any."""
        return self._step


class Hands:
    """The hands of all threads of one stream.

    Args:
        note: Where rows are noted that may end the process; kept nowhere when None.
    """

    def __init__(self, note: Note | None = None) -> None:
        self._note = note or Note()
        self._lock = threading.Lock()
        self._all: list[Hand] = []
        self._mine = threading.local()

    def mine(self) -> Hand:
        """Return the calling thread's own."""
        try:
            hand: Hand = self._mine.hand
        except AttributeError:
            with self._lock:
                hand = self._mine.hand = Hand(self._note, len(self._all))
                self._all.append(hand)
        return hand

    def in_hand(self) -> tuple[InHand, ...]:
        """Return what threads have had for a while, longest first."""
        now = time.monotonic()
        steps = [step for hand in list(self._all) if (step := hand.step()) and now - step[3] > _WORTH_TELLING_S]
        steps.sort(key=lambda step: step[3])
        return tuple(InHand(stage, shard, row, now - began) for stage, shard, row, began in steps[:_MOST_TOLD])
