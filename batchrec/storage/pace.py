"""How many reads at once: more while that brings more, fewer once a store rejects them or begins to drag."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Share of requests rejected or slow that is put up with: each rejected one waits by itself already.
TOLERATED_SHARE = 0.1
#: So many reads are too few to be what a store suffers from.
FEWEST = 4
_GROWTH = 1.5
_LEAST_FACTOR = 0.5
# Reads half as many again must bring a fifth more images, or they only wait for each other.
_WORTH = 0.4
# Fewer reads are as good where they bring so much of what more did.
_AS_GOOD = 0.95
# Below this share of the allowed reads under way, something else decides how many there are.
_BOUND_SHARE = 0.75
# An answer is slow that took so many times the usual to begin, and at least so long.
_SLOW_FACTOR = 4.0
_SLOW_S = 0.5
_LEAST_REST = 4
_MOST_REST = 32


@dataclass(frozen=True, slots=True)
class Window:
    """What a stretch of time brought.

    Attributes:
        span_s: Its length.
        busy_s: Seconds of all its requests together.
        answer_s: Of each request that was answered, whatever the answer: seconds until that began.
        num_rejected: Requests that were told to slow down.
    """

    span_s: float
    busy_s: float
    answer_s: Sequence[float]
    num_rejected: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answer_s) / self.span_s

    @property
    def num_under_way(self) -> float:
        """Requests under way at once, on the average."""
        return self.busy_s / self.span_s

    @property
    def rejected_share(self) -> float:
        """Share of the requests that were rejected."""
        return self.num_rejected / max(1, self.num_rejected + len(self.answer_s))

    @property
    def slow_share(self) -> float:
        """Share of the answers that took far longer to begin than most did; none where all are slow alike."""
        if not self.answer_s:
            return 0.0
        slow_s = max(_SLOW_S, _SLOW_FACTOR * statistics.median(self.answer_s))
        return sum(seconds > slow_s for seconds in self.answer_s) / len(self.answer_s)


class Pace:
    """Decides how many reads may be under way, one window at a time.

    A larger number is tried for one window and kept if it brought more answers a second. Half the number is tried
    where too many answers are slow, and kept if it brought as many, or half as many slow ones. What was not kept
    is tried again after a rest, twice as long each time. Where too many requests are rejected the number shrinks
    by their share, at most by half, without a trial. Nothing is tried while fewer reads are under way than may be.

    Args:
        first: Reads at once to begin with.
        most: Never more than these.

    Attributes:
        limit: Reads that may be under way at once, at least 1.
    """

    def __init__(self, first: int, most: int) -> None:
        self.limit = self._first = min(first, most)
        self._ceiling = self._most = most
        self._tried_from: tuple[int, Window] | None = None
        self._num_resting, self._rest = 0, _LEAST_REST

    def allow(self, most: int) -> None:
        """Allow no more than ``most`` reads from now on."""
        held_back = self.limit == self._most
        self._most = max(1, min(self._ceiling, most))
        # What only the allowance held back goes on where any store begins.
        wanted = max(self._first, self.limit) if held_back else self.limit
        if self.limit != min(wanted, self._most):
            self.limit, self._tried_from = min(wanted, self._most), None

    def see(self, window: Window) -> None:
        """Take note of a window in which :attr:`limit` held."""
        if window.rejected_share > TOLERATED_SHARE:
            self._tried_from = None
            self.limit = self._fewer(window.rejected_share)
            self._num_resting = self._rest
        elif self._tried_from is not None:
            self._judge(*self._tried_from, window)
        elif self._num_resting:
            self._num_resting -= 1
        elif window.slow_share > TOLERATED_SHARE:
            self._try(self._fewer(_LEAST_FACTOR), window)
        elif self._is_bound(window):
            self._try(self._more(), window)

    def _is_bound(self, window: Window) -> bool:
        return window.num_under_way >= _BOUND_SHARE * self.limit

    def _fewer(self, share: float) -> int:
        smaller = int(self.limit * max(_LEAST_FACTOR, 1 - share))
        return max(min(FEWEST, self.limit), min(smaller, self.limit - 1))

    def _more(self) -> int:
        return min(self._most, max(self.limit + 1, int(self.limit * _GROWTH)))

    def _try(self, limit: int, window: Window) -> None:
        if limit != self.limit:
            self._tried_from, self.limit = (self.limit, window), limit

    def _judge(self, limit: int, before: Window, window: Window) -> None:
        self._tried_from = None
        is_kept = self._is_worth(limit, before, window) if self.limit > limit else _helped(before, window)
        if not is_kept:
            self.limit = limit
            self._num_resting, self._rest = self._rest, min(_MOST_REST, 2 * self._rest)
            return
        is_growing, self._rest = self.limit > limit, _LEAST_REST
        if is_growing:
            self._try(self._more(), window)

    def _is_worth(self, limit: int, before: Window, window: Window) -> bool:
        wanted = before.rate * (1 + _WORTH * (self.limit / limit - 1))
        return self._is_bound(window) and window.rate >= wanted and window.slow_share <= TOLERATED_SHARE


def _helped(before: Window, window: Window) -> bool:
    return window.rate >= _AS_GOOD * before.rate or window.slow_share <= before.slow_share / 2
