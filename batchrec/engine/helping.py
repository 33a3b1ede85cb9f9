"""A worker whose device starves lets helpers decode for it."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec.engine.help_pool import (
    LOTS_PER_HELPER,
    SLAB_BYTES,
    Helper,
    HelperEvent,
    HelperLost,
    HelperReady,
    HelperTold,
    HelpPool,
    LotDecoded,
)
from batchrec.engine.starving import Meter, Reading, Starvation
from batchrec.pipeline.lending import Lot, Slab
from batchrec.pipeline.stream import Stream
from batchrec.redacting import shown

_MOST_ROWS = 64
#: Large images make small lots: a helper must not seem to bring nothing for a while.
_LOT_S = 0.25
_FIRST_ROWS = 8
#: While there are helpers the worker fetches no further ahead, or it would have all rows before they come for any.
_WAITING_PER_CORE = 16
#: Slabs under way of one worker, in the object store.
_UNDER_WAY_BYTES = 256 * 2**20
_TICK_S = 0.2
_ASK_EVERY_S = 1.0
#: Somebody else was faster to take the cores.
_COMING_WITHIN_S = 60.0
_CLOSING_S = 10.0
#: A helper that says it is well and brings nothing has lost what it was lent.
_LOT_WITHIN_DECODES = 2


@dataclass(frozen=True, slots=True)
class _Lent:
    lot: Lot
    at: float


@dataclass(slots=True)
class _Helper:
    since: float
    ready: bool = False
    leaving: bool = False
    lent: dict[int, _Lent] = field(default_factory=dict)
    asked: bool = False
    asked_at: float = -math.inf

    def lent_since(self) -> float:
        """Return when what it has had longest was lent; never where it has nothing."""
        return min((each.at for each in self.lent.values()), default=math.inf)


class Helping:
    """Calls helpers, lends them rows and takes in what they decode, in a thread of its own.

    A helper brings pixels and no verdict: whatever it could not fetch or decode is done again here. When one is lost
    its rows are done here too, in the processes for suspect images if one of them may have been the cause.

    Args:
        stream: Whose rows are lent.
        pool: Where helpers come from.
        make_helper: Makes one, in its process.
        num_cores: Cores the worker decodes on itself.
        concurrency: Forward passes at once that keep the device busy.
        row_bytes: Pixels of one image.
        most: Never more helpers than these; as many as there is room for when None.
        decode_within_s: Seconds one image may take to decode.
    """

    def __init__(
        self,
        stream: Stream,
        pool: HelpPool,
        make_helper: Callable[[], Helper],
        *,
        num_cores: int,
        concurrency: int,
        row_bytes: int,
        most: int | None,
        decode_within_s: float,
    ) -> None:
        self._stream, self._bench, self._pool, self._make_helper = stream, stream.bench, pool, make_helper
        self._most_rows = max(1, min(_MOST_ROWS, SLAB_BYTES // row_bytes))
        self._rows_per_lot = min(_FIRST_ROWS, self._most_rows)
        room = max(1, _UNDER_WAY_BYTES // (LOTS_PER_HELPER * self._most_rows * row_bytes))
        self._most = room if most is None else min(room, most)
        self._most_waiting = _WAITING_PER_CORE * num_cores
        self._decode_within_s = decode_within_s
        self._meter, self._starvation = Meter(concurrency), Starvation(num_cores)
        self._helpers: dict[int, _Helper] = {}
        self._lot_numbers = itertools.count()
        self._num_helped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batchrec-helping", daemon=True)
        self._thread.start()

    def num_helpers(self) -> int:
        """Return how many helpers are at work."""
        return sum(helper.ready for helper in list(self._helpers.values()))

    def close(self) -> None:
        """Send all helpers away; what they have in hand is taken back."""
        self._closing.set()
        self._thread.join(_CLOSING_S)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._staff(time.monotonic())
                self._lend()
                for event in self._pool.wait(_TICK_S):
                    self._take(event)
                self._look_after(time.monotonic())
        except Exception:  # noqa: BLE001  the border of helping: the worker goes on by itself
            if not self._closing.is_set():
                traceback.print_exc()
        finally:
            for helper in self._helpers.values():
                self._take_back(helper, suspect=False)
            for number in list(self._helpers):
                self._give_up(number, suspect=False)

    def _staff(self, now: float) -> None:
        if self._pool.yields:
            self._dismiss(len(self._helpers))
        at_work = all(helper.ready and not helper.leaving for helper in self._helpers.values())
        if self._pool.yields or not at_work:
            self._meter.restart()
        elif (window := self._meter.look(self._read(now))) is not None:
            change = self._starvation.judge(window, len(self._helpers), now)
            if change:
                self._meter.restart()
            self._call(change, now) if change > 0 else self._dismiss(-change)

    def _read(self, now: float) -> Reading:
        num_ok, num_errors = self._stream.tally.counts()
        waiting, lendable = self._bench.num_waiting() > 0, self._bench.has_rows()
        num_images = num_ok + num_errors.total()
        return Reading(now, self._stream.tally.device_s(), num_images, self._num_helped, waiting, lendable)

    def _call(self, wanted: int, now: float) -> None:
        if (most := min(wanted, self._most - len(self._helpers))) <= 0:
            return
        num_free = self._pool.room()
        if num_free <= 0:
            self._starvation.rest(now)  # a thousand workers must not ask a full cluster every few seconds
        for _ in range(min(most, num_free)):
            self._helpers[self._pool.start(self._make_helper)] = _Helper(now)

    def _dismiss(self, num_helpers: int) -> None:
        # They end what they have: one that hangs must be found out, or its image would come to hang the worker.
        for helper in list(self._helpers.values())[::-1][:num_helpers]:
            helper.leaving = True

    def _lend(self) -> None:
        for number, helper in self._helpers.items():
            while helper.ready and not helper.leaving and len(helper.lent) < LOTS_PER_HELPER:
                lot = self._bench.lend(self._rows_per_lot)
                if lot is None:
                    return
                lot_number = next(self._lot_numbers)
                helper.lent[lot_number] = _Lent(lot, time.monotonic())
                self._pool.send(number, lot_number, lot.uris)

    def _take(self, event: HelperEvent) -> None:
        if (helper := self._helpers.get(event.helper)) is None:
            return
        match event:
            case HelperReady():
                helper.ready = True
                self._meter.restart()
                self._bench.bound_waiting(self._most_waiting)
            case LotDecoded():
                self._take_in(helper.lent.pop(event.lot).lot, event.slab)
            case HelperTold():
                helper.asked = False
                if any(each.stage == "decode" and each.for_s > self._decode_within_s for each in event.in_hand):
                    self._lose(event.helper, suspect=True)
            case HelperLost():
                print(f"a decode helper is gone: {shown(event.reason)}", file=sys.stderr, flush=True)
                self._lose(event.helper, suspect=event.died)

    def _take_in(self, lot: Lot, slab: Slab) -> None:
        try:
            self._num_helped += self._bench.take_in(lot, slab)
        except Exception as error:  # its rows are nowhere now: the shard must end
            lot.collector.abort(error)
            raise
        rows = int(_LOT_S * len(lot.rows) / max(slab.decode_s, 1e-6))
        self._rows_per_lot = max(1, min(rows, self._most_rows))
        self._lend()

    def _look_after(self, now: float) -> None:
        """Ask helpers how they are now and then, and give up those that left, do not come or do not answer."""
        for number, helper in list(self._helpers.items()):
            if helper.leaving and not helper.lent:
                self._give_up(number, suspect=False)
            elif not helper.ready:
                if now - helper.since > _COMING_WITHIN_S:
                    self._lose(number, suspect=False)
            elif helper.asked:
                if now - helper.asked_at > self._decode_within_s:
                    self._lose(number, suspect=True)
            elif now - helper.lent_since() > _LOT_WITHIN_DECODES * self._decode_within_s:
                self._lose(number, suspect=False)
            elif helper.lent and now - helper.asked_at > _ASK_EVERY_S:
                helper.asked, helper.asked_at = True, now
                self._pool.ask(number)

    def _lose(self, number: int, *, suspect: bool) -> None:
        self._starvation.rest(time.monotonic())
        self._give_up(number, suspect=suspect)

    def _give_up(self, number: int, *, suspect: bool) -> None:
        self._take_back(self._helpers.pop(number), suspect=suspect)
        self._meter.restart()
        if not self._helpers:
            self._bench.bound_waiting(math.inf)
        self._pool.stop(number)  # last: should it raise, no row is lost

    def _take_back(self, helper: _Helper, *, suspect: bool) -> None:
        for each in helper.lent.values():
            self._bench.take_back(each.lot, suspect=suspect)
        helper.lent.clear()
