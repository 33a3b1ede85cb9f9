"""Decode helpers on threads of this process, whose fate a test decides."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from batchrec.engine.help_pool import (
    LOTS_PER_HELPER,
    Helper,
    HelperEvent,
    HelperLost,
    HelperReady,
    HelperTold,
    LotDecoded,
)


class ThreadHelp:
    """The help protocol without processes; see :class:`batchrec.engine.help_pool.HelpPool`."""

    def __init__(self, num_cores: int = 1) -> None:
        self.yields = False
        self.num_cores, self.num_started = num_cores, 0
        self.most_lots = self.num_asked_for_room = 0
        self.helpers: dict[int, Helper] = {}
        self._lots: dict[int, int] = {}
        self._events: queue.SimpleQueue[HelperEvent] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(16)

    def room(self) -> int:
        self.num_asked_for_room += 1
        return self.num_cores - len(self.helpers)

    def start(self, make_helper: Callable[[], Helper]) -> int:
        number, self.num_started = self.num_started, self.num_started + 1
        helper = self.helpers[number] = make_helper()
        self._lots[number] = 0
        self._answer(number, helper.start, lambda _: HelperReady(number))
        return number

    def send(self, helper: int, lot: int, uris: Sequence[str | None]) -> None:
        self._lots[helper] += 1
        self.most_lots = max(self.most_lots, self._lots[helper])
        assert self.most_lots <= LOTS_PER_HELPER
        self._answer(helper, partial(self.helpers[helper].decode, uris), partial(LotDecoded, helper, lot))

    def ask(self, helper: int) -> None:
        self._answer(helper, self.helpers[helper].in_hand, partial(HelperTold, helper))

    def wait(self, timeout_s: float) -> list[HelperEvent]:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if event.helper not in self.helpers:
            return []
        if isinstance(event, LotDecoded):
            self._lots[event.helper] -= 1
        return [event]

    def stop(self, helper: int) -> None:
        del self.helpers[helper]

    def kill(self, helper: int) -> None:
        """As if an image had ended its process, or somebody else had."""
        self._events.put(HelperLost(helper, "it died", died=True))

    def _answer(self, number: int, act: Callable[[], object], event: Callable[[object], HelperEvent]) -> None:
        def tell(done: Future[object]) -> None:
            error = done.exception()
            self._events.put(event(done.result()) if error is None else HelperLost(number, str(error), died=False))

        self._threads.submit(act).add_done_callback(tell)
