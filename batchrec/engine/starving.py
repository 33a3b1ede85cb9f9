"""Whether a worker's device starves, and how many decode helpers that is worth. Neither threads nor a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Share of the time the device may have nothing to do before helpers are called.
TOLERATED_IDLE = 0.10
#: Decoding is what binds if images waited for it at so many of the looks: not the store, and not the manifest's end.
_BACKLOG = 0.8
#: Helpers that found rows at fewer of the looks had no chance to show what they are worth: shards were changing.
_SUPPLY = 0.5
#: Helpers that bring less than this share of what their cores should are sent away again.
_WORTH = 0.25
#: One helper fewer will do if it leaves so much of the images' rate to spare.
_SPARE = 0.9
WINDOW_S = 3.0
FIRST_REST_S = 30.0
MOST_REST_S = 600.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a worker's counters say at one moment.

    Attributes:
        at: Monotonic seconds.
        device_s: Seconds the device was at work so far.
        num_images: Images that are through.
        num_helped: Images that helpers decoded.
        waiting: Whether images wait to be decoded.
        lendable: Whether there are rows for helpers.
    """

    at: float
    device_s: float
    num_images: int
    num_helped: int
    waiting: bool
    lendable: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """What a stretch of time brought.

    Attributes:
        own_rate: Images a second that the worker decoded itself.
        helped_rate: Images a second that helpers decoded.
        idle: Share of the time the device had nothing to do.
        backlog: Share of the looks at which images waited to be decoded.
        supply: Share of the looks at which there were rows for helpers.
    """

    own_rate: float
    helped_rate: float
    idle: float
    backlog: float
    supply: float = 1.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.own_rate + self.helped_rate

    @property
    def starved(self) -> bool:
        """Whether the device waits for decoding."""
        return self.idle > TOLERATED_IDLE and self.backlog >= _BACKLOG


class Meter:
    """Cuts readings into windows.

    Args:
        concurrency: Forward passes at once that keep the device busy.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = max(1, concurrency)
        self._first: Reading | None = None
        self._num_looks = self._num_waiting = self._num_lendable = 0

    def restart(self) -> None:
        """Begin a new window: what decodes has changed."""
        self._first = None

    def look(self, reading: Reading) -> Window | None:
        """Take a reading, and return the window it ends, if it ends one."""
        if self._first is None:
            self._begin(reading)
            return None
        self._num_looks += 1
        self._num_waiting += reading.waiting
        self._num_lendable += reading.lendable
        if reading.at - self._first.at < WINDOW_S:
            return None
        window = self._until(self._first, reading)
        self._begin(reading)
        return window

    def _begin(self, reading: Reading) -> None:
        # Before the first image is through everything waits for the model to warm up.
        self._first = reading if reading.num_images else None
        self._num_looks = self._num_waiting = self._num_lendable = 0

    def _until(self, first: Reading, last: Reading) -> Window:
        span_s = last.at - first.at
        helped = last.num_helped - first.num_helped
        own = max(0, last.num_images - first.num_images - helped)
        busy = (last.device_s - first.device_s) / (span_s * self._concurrency)
        shares = self._num_waiting / self._num_looks, self._num_lendable / self._num_looks
        return Window(own / span_s, helped / span_s, max(0.0, 1.0 - busy), *shares)


class Starvation:
    """Decides from window to window how many helpers to call or to send away.

    While the device starves their number grows, at most to the double, by as many as would feed it if each brought
    what one of the worker's cores does. Those that brought too little go again, and the next try comes after a
    rest, twice as long each time. Where one fewer would do, one goes.

    Args:
        num_cores: Cores the worker decodes on itself.
    """

    def __init__(self, num_cores: int) -> None:
        self._num_cores = num_cores
        self._own_rate = self._rate_of_one = 0.0
        self._grew: tuple[int, float] | None = None
        self._rest_s, self._rests_until = FIRST_REST_S, -math.inf

    def judge(self, window: Window, num_helpers: int, now: float) -> int:
        """Return how many helpers to call, or below zero to send away.

        Args:
            window: A stretch of time throughout which there were so many helpers.
            num_helpers: Helpers at work.
            now: Monotonic seconds.
        """
        if num_helpers and window.supply < _SUPPLY:
            return 0
        grew, self._grew = self._grew, None
        if grew is not None and num_helpers > grew[0]:
            if window.starved and not self._was_worth(*grew, num_helpers, window.rate):
                self.rest(now)
                return grew[0] - num_helpers
            self._rest_s = FIRST_REST_S
        if window.starved:
            if window.helped_rate * self._num_cores < _WORTH * window.own_rate * num_helpers:
                self.rest(now)
                return -num_helpers
            self._learn(window, num_helpers)
            return self._growth(window, num_helpers, now)
        enough = self._own_rate + self._rate_of_one * (num_helpers - 1)
        return -1 if num_helpers and window.rate <= _SPARE * enough else 0

    def rest(self, now: float) -> None:
        """Call nobody for a while: the last ones brought nothing, or were lost, or nobody could be had."""
        if now < self._rests_until:
            return  # several helpers lost with one machine are one event
        self._rests_until = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, MOST_REST_S)

    def _was_worth(self, num_before: int, rate_before: float, num_helpers: int, rate: float) -> bool:
        expected = (num_helpers - num_before) / (self._num_cores + num_before)
        return rate >= rate_before * (1 + _WORTH * expected)

    def _learn(self, window: Window, num_helpers: int) -> None:
        # Only while the device starves does everybody work as fast as it can.
        self._own_rate = window.own_rate
        if num_helpers:
            self._rate_of_one = window.helped_rate / num_helpers

    def _growth(self, window: Window, num_helpers: int, now: float) -> int:
        if now < self._rests_until:
            return 0
        self._grew = (num_helpers, window.rate)
        lacking = (self._num_cores + num_helpers) * window.idle / max(1 - window.idle, 0.01)
        return min(math.ceil(lacking), max(1, num_helpers))
