"""In which order shards are handed out: neighbours to one worker, workers far from each other."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable


class Stretches:
    """Shards that wait for a worker.

    Neighbours in a manifest share row groups, which a worker keeps decoded, and where the manifest is sorted a prefix
    of the store, which only takes so many requests. So each worker goes through a stretch of neighbours of its
    own, in order, and the stretches lie scattered over the manifest, the same in every run. When no fresh one is left,
    workers help with each other's.

    Args:
        num_shards: Of the plan.
        is_waiting: Tells of a shard whether it is to be handed out; asked when its stretch is begun.
        length: Shards of a stretch.
        seed: Where the stretches go.
    """

    def __init__(self, num_shards: int, is_waiting: Callable[[int], bool], *, length: int, seed: int) -> None:
        self._is_waiting = is_waiting
        self._fresh = [range(first, min(first + length, num_shards)) for first in range(0, num_shards, length)]
        random.Random(seed).shuffle(self._fresh)
        self._num_waiting = sum(map(is_waiting, range(num_shards)))
        self._begun: OrderedDict[int, deque[int]] = OrderedDict()
        self._first: deque[int] = deque()
        self._last: deque[int] = deque()

    def __len__(self) -> int:
        return self._num_waiting

    def take(self, worker: int) -> int | None:
        """Hand out the next shard for a worker; None when none waits."""
        if not self._num_waiting:
            return None
        self._num_waiting -= 1
        if self._first:
            return self._first.popleft()
        if own := self._own(worker):
            return own.popleft()
        if (others := self._others()) is not None:
            return others
        return self._last.popleft()

    def appendleft(self, shard: int) -> None:
        """Let a shard wait before all others."""
        self._first.appendleft(shard)
        self._num_waiting += 1

    def append(self, shard: int) -> None:
        """Let a shard wait behind all others."""
        self._last.append(shard)
        self._num_waiting += 1

    def _own(self, worker: int) -> deque[int]:
        own = self._begun.setdefault(worker, deque())
        while not own and self._fresh:
            own.extend(filter(self._is_waiting, self._fresh.pop()))
        return own

    def _others(self) -> int | None:
        """Take the next of a stretch that somebody goes through, or left; each in turn."""
        while self._begun:
            worker, stretch = self._begun.popitem(last=False)
            if stretch:
                shard = stretch.popleft()
                self._begun[worker] = stretch
                return shard
        return None
