"""Claims: at most one coordinator drives a job, with put-if-absent and nothing else.

Every start of a coordinator creates the next ``drivers/<n>.json``; the highest n drives. Its owner
rewrites ``<n>.beat`` while it lives. Whoever finds a driver before it looks whether that one is alive:
a dead process of this host and boot is passed at once, any other gets a chance to beat.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from batchrec.engine.drivers import Driver, let_go
from batchrec.errors import BatchrecError, OutputError, StorageLost
from batchrec.output.advising import advise
from batchrec.output.layout import Layout
from batchrec.storage import KeyExists, KeyMissing, Store, Uncertain
from batchrec.storage.json_objects import json_object

BEAT_S = 10.0
PATIENCE_S = 30.0
MAX_LOOKS = 20
_MAX_WAITS = 2
_CLAIM = re.compile(r"(\d{8})\.json")


class Claim:
    """This process's hold on a job, kept by a beating thread.

    Args:
        store: The output folder.
        layout: Its keys.
        number: The claimed number.
        driver: Who holds it.
        beat_s: Seconds between two beats.
    """

    def __init__(self, store: Store, layout: Layout, number: int, driver: Driver, *, beat_s: float = BEAT_S) -> None:
        self._store, self._layout, self._beat_s = store, layout, beat_s
        self.number, self.driver = number, driver
        self._ended = threading.Event()
        self._superseded_by: int | None = None
        self._gone = False
        self._thread = threading.Thread(target=self._beat_on, name="batchrec-beat", daemon=True)
        self._beat(ended=False)
        self._thread.start()

    @property
    def superseded_by(self) -> int | None:
        """Number of a coordinator that took the job over; None while this one holds it.

        Raises:
            StorageLost: The claim is gone, or another's: somebody removed or emptied the output folder in mid-run.
        """
        if self._gone:
            raise StorageLost(
                f"{self._store.url} was removed, or emptied, in mid-run",
                found=f"{claim_key(self._layout, self.number)} is gone, or another's",
                advice="see that nothing else uses that folder; then the same command does again what is missing",
            )
        return self._superseded_by

    def look(self) -> int | None:
        """Look at the store now for a higher claim, and return ``superseded_by``."""
        highest = highest_claim(self._store, self._layout)
        if highest > self.number:
            self._superseded_by = highest
        self._gone = highest < self.number or (highest == self.number and self._is_anothers())
        return self.superseded_by

    def _is_anothers(self) -> bool:
        """Whether another coordinator began with the same number in a folder that was emptied."""
        try:
            return _read_driver(self._store, claim_key(self._layout, self.number)) != self.driver
        except KeyMissing:
            return False  # it was listed a moment ago: the next look will tell

    def release(self) -> None:
        """Stop beating and say that this driver ended, so that the next one need not wait."""
        self._ended.set()
        self._thread.join()
        let_go(self.driver)
        # Without it the next driver waits for a beat that does not come.
        self._beat(ended=True)

    def _beat_on(self) -> None:
        while not self._ended.wait(self._beat_s):
            # A look that failed says nothing: whoever may still hold the job shows that it lives.
            with suppress(BatchrecError, KeyMissing):
                self.look()
            # A missed beat costs nothing, parts are what counts.
            self._beat(ended=False)

    def _beat(self, *, ended: bool) -> None:
        if self._gone:
            return  # it would be taken for a sign of life of whoever has the number now
        advise(self._store, beat_key(self._layout, self.number), {"nonce": self.driver.nonce, "ended": ended})


def claim_key(layout: Layout, number: int) -> str:
    """Key of the n-th claim."""
    return f"{layout.drivers_prefix}{number:08d}.json"


def beat_key(layout: Layout, number: int) -> str:
    """Key of the n-th driver's heartbeat."""
    return f"{layout.drivers_prefix}{number:08d}.beat"


def highest_claim(store: Store, layout: Layout) -> int:
    """Return the highest claimed number; 0 when nobody ever claimed."""
    names = (info.key.removeprefix(layout.drivers_prefix) for info in store.list(layout.drivers_prefix))
    return max((int(match[1]) for name in names if (match := _CLAIM.fullmatch(name))), default=0)


def claim(
    store: Store,
    layout: Layout,
    *,
    takeover: bool = False,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    patience_s: float = PATIENCE_S,
    driver: Driver | None = None,
) -> Claim:
    """Become the driver of a job.

    Args:
        store: The output folder.
        layout: Its keys.
        takeover: Do not ask whether the driver found first is alive; one that comes in between is asked.
        say: Told when there is something to wait for.
        sleep: Waits between two looks at a beat.
        patience_s: How long a driver elsewhere gets to show a beat.
        driver: Who claims; this process by default.

    Raises:
        OutputError: The driver before is alive.
        StorageLost: The store would not say whose the claim is.
    """
    me = driver or Driver.this_process()
    try:
        for looked in range(MAX_LOOKS):
            last = highest_claim(store, layout)
            if looked and _holds(store, layout, last, me):
                return Claim(store, layout, last, me)  # it was put after we had looked for it
            asks = last and not (takeover and looked == 0)
            if asks and not _is_passed(store, layout, last, me, say, sleep, patience_s):
                continue
            if _try_claim(store, layout, last + 1, me):
                return Claim(store, layout, last + 1, me)
    except BaseException:
        let_go(me)  # a claim of ours that lands now must not keep this process out later
        raise
    raise StorageLost(
        f"no claim of this job could be made in {store.url}",
        found=f"{MAX_LOOKS} claims lost to others or to the store",
        advice="run the same command again",
    )


def _try_claim(store: Store, layout: Layout, number: int, me: Driver) -> bool:
    """Create one claim. False when another process won it: its liveness is looked at next, n+2 is not taken."""
    key = claim_key(layout, number)
    try:
        store.create(key, json.dumps(asdict(me)).encode())
    except (KeyExists, Uncertain):
        return _holds(store, layout, number, me)
    return True


def _holds(store: Store, layout: Layout, number: int, driver: Driver) -> bool:
    """Whether a claim is a driver's; False where there is none."""
    try:
        return _read_driver(store, claim_key(layout, number)) == driver
    except KeyMissing:
        return False


def _read_driver(store: Store, key: str) -> Driver:
    """Read a claim; what another version left out or nobody can read makes it a driver elsewhere."""
    plain = json_object(store.read(key))
    return Driver(
        host=str(plain.get("host", "an unknown host")),
        boot_id=str(plain.get("boot_id", "")),
        pid=_number(plain.get("pid")),
        pid_started=_number(plain.get("pid_started")),
        nonce=str(plain.get("nonce", "")),
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _is_passed(
    store: Store,
    layout: Layout,
    number: int,
    me: Driver,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    patience_s: float,
) -> bool:
    """Find out that a driver is gone; False where another drives by now, who has to be looked at.

    Raises:
        OutputError: It is alive.
    """
    try:
        other = _read_driver(store, claim_key(layout, number))
    except KeyMissing as error:
        raise StorageLost(
            f"{store.url} was emptied while this job began", found=f"no {error}", advice="run the same command again"
        ) from error
    who = f"process {other.pid} on {other.host}"
    heard = _hear(store, layout, number)
    if heard is not None and heard.is_of(other) and heard.ended:
        return True
    if other.is_here(me):
        if other.is_dead():
            return True
        raise _run_already(f"{who} is alive")
    say(f"the last coordinator was {who}: waiting {patience_s:.0f} s for a sign of life")
    for _ in range(_MAX_WAITS):
        sleep(patience_s)
        if highest_claim(store, layout) != number or not _holds(store, layout, number, other):
            return False
        before, heard = heard, _hear(store, layout, number)
        if heard is None or heard.is_of(other):
            break
        # One from before the folder was emptied spoke last, perhaps over a sign of life of this one.
    if heard is not None and heard.is_of(other) and not heard.ended and heard != before:
        raise _run_already(f"{who} gave a sign of life within {patience_s:.0f} s")
    return True


def _run_already(found: str) -> OutputError:
    return OutputError(
        "this job is being run already", found=found, advice="wait for it, stop it, or take over with --takeover"
    )


@dataclass(frozen=True, slots=True)
class _Beat:
    """What was last said under a driver's number, and when.

    Attributes:
        nonce: Of the driver that said it; empty where it does not say.
    """

    moment: object
    nonce: str
    ended: bool

    def is_of(self, driver: Driver) -> bool:
        return not (self.nonce and driver.nonce) or self.nonce == driver.nonce


def _hear(store: Store, layout: Layout, number: int) -> _Beat | None:
    key = beat_key(layout, number)
    try:
        plain, moment = json_object(store.read(key)), store.info(key).modified
    except KeyMissing:
        return None
    return _Beat(moment, str(plain.get("nonce", "")), plain.get("ended") is True)
