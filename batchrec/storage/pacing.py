"""From the requests of many threads to the windows that a :class:`batchrec.storage.pace.Pace` decides by."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from batchrec.storage.pace import Pace, Window
from batchrec.storage.room import Reserve

# A window is whole after so many requests for each read under way, and after so long.
_ROUNDS = 4
_LEAST_WINDOW_S = 0.25
# After this long, so few will do.
_MOST_WINDOW_S = 10.0
_LEAST_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class _Note:
    """One request that ended."""

    ended_at: float
    seconds: float
    answer_s: float
    rejected: bool


class Pacer:
    """Cuts what threads tell of their requests into windows for a :class:`Pace`. Safe to use from many threads."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._lock = threading.Lock()
        self._notes: list[_Note] = []
        self._opened_at: float | None = None
        # Requests begun under an earlier limit say nothing about this one.
        self._num_stale = pace.limit
        self._num_wanted = self._num_stale + _ROUNDS * pace.limit

    @property
    def limit(self) -> int:
        """Reads that may be under way at once."""
        return self._pace.limit

    def allow(self, most: int) -> None:
        """Allow no more than ``most`` reads from now on, however well more would do."""
        with self._lock:
            before = self._pace.limit
            self._pace.allow(most)
            if self._pace.limit != before:
                self._open(before, self._opened_at)

    def note(self, ended_at: float, seconds: float, answer_s: float, *, rejected: bool) -> None:
        """Tell of one request that ended.

        Args:
            ended_at: In seconds of a monotonic clock.
            seconds: How long it took.
            answer_s: How much of that went by until the answer began.
            rejected: Whether the store said slow down.
        """
        # No lock on this way: to append is atomic, and a note lost between two windows does no harm.
        notes = self._notes
        notes.append(_Note(ended_at, seconds, answer_s, rejected))
        if self._is_whole(len(notes), ended_at) and self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _is_whole(self, num_notes: int, now: float) -> bool:
        if self._opened_at is None:
            self._opened_at = now
        span_s = now - self._opened_at
        if num_notes >= self._num_wanted:
            return span_s >= _LEAST_WINDOW_S
        return span_s >= _MOST_WINDOW_S and num_notes >= _LEAST_REQUESTS

    def _close(self) -> None:
        notes, before = self._notes, self._pace.limit
        if len(notes) < 2:
            return  # another thread closed it just now
        num_stale = min(max(1, self._num_stale), len(notes) // 2)
        fresh, began_at = notes[num_stale:], notes[num_stale - 1].ended_at
        ended_at = max(note.ended_at for note in fresh)
        self._pace.see(_window(fresh, max(ended_at - began_at, 1e-6)))
        self._open(before, ended_at)

    def _open(self, limit_before: int, now: float | None) -> None:
        self._notes, self._opened_at = [], now
        self._num_stale = limit_before if self._pace.limit != limit_before else 0
        self._num_wanted = self._num_stale + _ROUNDS * self._pace.limit


def _window(notes: Sequence[_Note], span_s: float) -> Window:
    answer_s = [note.answer_s for note in notes if not note.rejected]
    return Window(span_s, sum(note.seconds for note in notes), answer_s, len(notes) - len(answer_s))


class Request:
    """Times the requests of one read, one after the other, without what the read waits for in this process.

    Args:
        pacer: Told of each.
        reserve: See :data:`batchrec.storage.Reserve`.
    """

    __slots__ = ("_answer_s", "_began_at", "_pacer", "_reserve")

    def __init__(self, pacer: Pacer, reserve: Reserve) -> None:
        self._pacer, self._reserve = pacer, reserve
        self.begin()

    def begin(self) -> None:
        """Begin a request; the first one began already."""
        self._began_at = time.monotonic()
        self._answer_s: float | None = None

    def reserve(self, num_bytes: int, patience_s: float | None) -> bool:
        """Ask for room for an answer that has begun; the time it takes does not count."""
        asked_at = time.monotonic()
        if self._answer_s is None:
            self._answer_s = asked_at - self._began_at
        granted = self._reserve(num_bytes, patience_s)
        self._began_at += time.monotonic() - asked_at
        return granted

    def end(self, *, rejected: bool = False) -> None:
        """End it, answered or rejected."""
        now = time.monotonic()
        seconds = now - self._began_at
        answer_s = seconds if self._answer_s is None else self._answer_s
        self._pacer.note(now, seconds, answer_s, rejected=rejected)
