"""Claims: one coordinator drives a job, and a dead one keeps nobody waiting."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchrec.engine.claims import MAX_LOOKS, Claim, beat_key, claim, claim_key, highest_claim
from batchrec.engine.drivers import Driver
from batchrec.errors import OutputError, StorageLost
from batchrec.output.layout import Layout
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, ObjectInfo, Store, Uncertain, open_store

LAYOUT = Layout("ab" * 32)
ELSEWHERE = Driver(host="another", boot_id="its own", pid=os.getpid(), pid_started=1, nonce="other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), StoreOptions())


@dataclass
class Waiting:
    """Stands in for sleeping; something may happen meanwhile."""

    meanwhile: Callable[[], object] = lambda: None
    slept: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()


def never(seconds: float) -> None:
    raise AssertionError("nobody should be waited for")


def put_claim(store: Store, driver: Driver, number: int = 1, *, ended: bool | None = False) -> None:
    store.create(claim_key(LAYOUT, number), json.dumps(dataclasses.asdict(driver)).encode())
    if ended is not None:
        beat(store, driver, number, ended=ended)


def beat(store: Store, driver: Driver, number: int = 1, *, ended: bool = False) -> None:
    time.sleep(0.01)
    store.overwrite(beat_key(LAYOUT, number), json.dumps({"nonce": driver.nonce, "ended": ended}).encode())


def fast_claim(store: Store) -> Claim:
    """Claim a job for this process, which then beats a hundred times a second."""
    me = Driver.this_process()
    put_claim(store, me, ended=None)
    return Claim(store, LAYOUT, 1, me, beat_s=0.01)


def driver_of(process: subprocess.Popen[bytes]) -> Driver:
    stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return dataclasses.replace(Driver.this_process(), pid=process.pid, pid_started=int(stat[19]))


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_the_first_claim_is_number_one(store: Store) -> None:
    held = claim(store, LAYOUT, sleep=never)
    assert (held.number, held.superseded_by, highest_claim(store, LAYOUT)) == (1, None, 1)
    assert json.loads(store.read(claim_key(LAYOUT, 1)))["pid"] == os.getpid()
    held.release()
    assert json.loads(store.read(beat_key(LAYOUT, 1)))["ended"] is True


def test_a_released_claim_is_passed_at_once_from_anywhere(store: Store) -> None:
    put_claim(store, ELSEWHERE, ended=True)
    held = claim(store, LAYOUT, sleep=never)
    assert held.number == 2
    held.release()


def test_a_living_process_of_this_machine_is_not_passed(store: Store) -> None:
    held = claim(store, LAYOUT)
    with pytest.raises(OutputError, match=rf"being run already.*process {os.getpid()} on .* is alive.*--takeover"):
        claim(store, LAYOUT, sleep=never)
    assert highest_claim(store, LAYOUT) == 1
    held.release()


def test_a_killed_process_is_passed_at_once_even_before_it_is_reaped(store: Store) -> None:
    process = sleeper()
    put_claim(store, driver_of(process))
    with pytest.raises(OutputError, match="is alive"):
        claim(store, LAYOUT, sleep=never)
    os.kill(process.pid, signal.SIGKILL)
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.005)
    zombie = claim(store, LAYOUT, sleep=never)
    assert zombie.number == 2
    zombie.release()
    process.wait()
    put_claim(store, dataclasses.replace(Driver.this_process(), pid=process.pid), 3)
    gone = claim(store, LAYOUT, sleep=never)
    assert gone.number == 4
    gone.release()


def test_a_reused_process_number_is_not_mistaken_for_the_driver(store: Store) -> None:
    me = Driver.this_process()
    put_claim(store, dataclasses.replace(me, pid_started=me.pid_started - 1))
    held = claim(store, LAYOUT, sleep=never)
    assert held.number == 2
    held.release()


@pytest.mark.parametrize("changes", [{"boot_id": "before the reboot"}, {"host": "twin"}, {"boot_id": ""}])
def test_a_process_number_says_nothing_of_another_boot_host_or_container(store: Store, changes: dict[str, str]) -> None:
    put_claim(store, dataclasses.replace(Driver.this_process(), pid=2**22 + 1, **changes))
    waiting = Waiting()
    held = claim(store, LAYOUT, sleep=waiting.sleep, say=waiting.said.append, patience_s=30)
    assert (held.number, waiting.slept) == (2, [30])
    assert "waiting 30 s for a sign of life" in waiting.said[0]
    held.release()


def test_the_space_of_process_numbers_is_part_of_here() -> None:
    me = Driver.this_process()
    assert str(Path("/proc/self/ns/pid").readlink()) in me.boot_id
    assert me.is_here(Driver.this_process())
    assert not me.is_dead()


def test_a_driver_elsewhere_that_beats_is_not_passed(store: Store) -> None:
    put_claim(store, ELSEWHERE)
    waiting = Waiting(lambda: beat(store, ELSEWHERE))
    with pytest.raises(OutputError, match=r"gave a sign of life within 30 s"):
        claim(store, LAYOUT, sleep=waiting.sleep)
    assert highest_claim(store, LAYOUT) == 1


def test_a_first_beat_is_a_sign_of_life_too(store: Store) -> None:
    put_claim(store, ELSEWHERE, ended=None)
    with pytest.raises(OutputError, match="sign of life"):
        claim(store, LAYOUT, sleep=Waiting(lambda: beat(store, ELSEWHERE)).sleep)


def test_a_driver_elsewhere_that_never_beat_is_passed_after_waiting(store: Store) -> None:
    put_claim(store, ELSEWHERE, ended=None)
    waiting = Waiting()
    held = claim(store, LAYOUT, sleep=waiting.sleep)
    assert (held.number, len(waiting.slept)) == (2, 1)
    held.release()


def test_a_driver_elsewhere_that_ends_while_it_is_waited_for_is_passed(store: Store) -> None:
    put_claim(store, ELSEWHERE)
    waiting = Waiting(meanwhile=lambda: beat(store, ELSEWHERE, ended=True))
    held = claim(store, LAYOUT, sleep=waiting.sleep)
    assert (held.number, len(waiting.slept)) == (2, 1)
    held.release()


OF_BEFORE = dataclasses.replace(ELSEWHERE, nonce="of the folder before it was emptied")


def test_what_another_says_under_a_drivers_number_is_no_sign_of_its_life_nor_of_its_end(store: Store) -> None:
    put_claim(store, ELSEWHERE)
    beat(store, OF_BEFORE, ended=True)
    waiting = Waiting(meanwhile=lambda: beat(store, OF_BEFORE))
    held = claim(store, LAYOUT, sleep=waiting.sleep)
    assert (held.number, len(waiting.slept)) == (2, 2)
    held.release()


def test_a_sign_of_life_that_another_spoke_over_is_waited_for_again(store: Store) -> None:
    put_claim(store, ELSEWHERE)
    speakers = iter([OF_BEFORE, ELSEWHERE])
    with pytest.raises(OutputError, match="gave a sign of life"):
        claim(store, LAYOUT, sleep=Waiting(meanwhile=lambda: beat(store, next(speakers))).sleep)


def test_a_driver_whose_claim_cannot_be_read_is_alive_while_it_beats(store: Store) -> None:
    store.create(claim_key(LAYOUT, 1), b"rubbish")
    with pytest.raises(OutputError, match="gave a sign of life"):
        claim(store, LAYOUT, sleep=Waiting(meanwhile=lambda: beat(store, ELSEWHERE)).sleep)


def test_whoever_took_the_number_while_the_folder_was_emptied_is_looked_at(store: Store) -> None:
    put_claim(store, OF_BEFORE)
    happenings = iter([True, False])

    def meanwhile() -> None:
        if next(happenings):
            store.delete(claim_key(LAYOUT, 1))
            put_claim(store, ELSEWHERE)
        else:
            beat(store, ELSEWHERE)

    with pytest.raises(OutputError, match="gave a sign of life"):
        claim(store, LAYOUT, sleep=Waiting(meanwhile=meanwhile).sleep)


def test_a_driver_whose_number_another_has_since_the_folder_was_emptied_stops_and_is_silent(store: Store) -> None:
    held = claim(store, LAYOUT, sleep=never)
    store.delete(claim_key(LAYOUT, 1))
    put_claim(store, ELSEWHERE)
    with pytest.raises(StorageLost, match="was removed, or emptied"):
        held.look()
    held.release()
    assert json.loads(store.read(beat_key(LAYOUT, 1))) == {"nonce": ELSEWHERE.nonce, "ended": False}


def test_a_process_whose_claim_failed_does_not_keep_itself_out(store: Store) -> None:
    me = Driver.this_process()
    put_claim(store, ELSEWHERE)
    with pytest.raises(OutputError):
        claim(store, LAYOUT, sleep=Waiting(meanwhile=lambda: beat(store, ELSEWHERE)).sleep, driver=me)
    put_claim(store, me, 2, ended=None)  # it lands after all
    held = claim(store, LAYOUT, sleep=never)
    assert held.number == 3
    held.release()


def test_takeover_asks_nobody_and_the_other_learns_of_it(store: Store) -> None:
    held = claim(store, LAYOUT)
    taken = claim(store, LAYOUT, takeover=True, sleep=never)
    assert (taken.number, held.look(), held.superseded_by, taken.look()) == (2, 2, 2, None)
    for each in (held, taken):
        each.release()


def test_a_driver_that_cannot_beat_still_learns_that_it_is_superseded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = fast_claim(store)
    put_claim(store, ELSEWHERE, 2)

    def full(key: str, data: bytes) -> None:
        raise StorageLost("no space left")

    monkeypatch.setattr(store, "overwrite", full)
    deadline = time.monotonic() + 5
    while held.superseded_by is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert held.superseded_by == 2
    held.release()


def test_a_living_driver_keeps_beating(store: Store) -> None:
    held = fast_claim(store)
    first = store.info(beat_key(LAYOUT, 1)).modified
    deadline = time.monotonic() + 5
    while store.info(beat_key(LAYOUT, 1)).modified == first and time.monotonic() < deadline:
        time.sleep(0.005)
    assert store.info(beat_key(LAYOUT, 1)).modified > first
    held.release()


class SeenTogether:
    """A store whose first look waits until every racer has looked: all saw the same last claim."""

    def __init__(self, store: Store, start: threading.Barrier) -> None:
        self._store, self._start, self._looked = store, start, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(self._store.list(prefix))
        if not self._looked:
            self._looked = True
            self._start.wait(10)
        return iter(found)


@pytest.mark.parametrize("takeover", [False, True])
def test_of_many_racing_claimers_one_wins_and_the_others_look_again(store: Store, takeover: bool) -> None:
    put_claim(store, dataclasses.replace(Driver.this_process(), pid=2**22 + 1))
    start = threading.Barrier(6)
    won: list[Claim] = []
    refused: list[OutputError] = []

    def compete() -> None:
        try:
            won.append(claim(SeenTogether(store, start), LAYOUT, sleep=never, takeover=takeover))  # type: ignore[arg-type]
        except OutputError as error:
            refused.append(error)

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([each.number for each in won], len(refused), highest_claim(store, LAYOUT)) == ([2], 5, 2)
    won[0].release()


class Unclear:
    """A store whose creates lose their answers."""

    def __init__(self, store: Store, *, applied: bool, answer: type[Exception], times: int = 1) -> None:
        self._store, self._applied, self._answer, self._times = store, applied, answer, times

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> None:
        self._times -= 1
        if self._times < 0 or self._applied:
            self._store.create(key, data)
        if self._times >= 0:
            raise self._answer(key)


@pytest.mark.parametrize("answer", [Uncertain, KeyExists])
@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_to_a_claim_neither_loses_nor_doubles_it(
    store: Store, answer: type[Exception], applied: bool
) -> None:
    held = claim(Unclear(store, applied=applied, answer=answer), LAYOUT, sleep=never)  # type: ignore[arg-type]
    assert (held.number, highest_claim(store, LAYOUT)) == (1, 1)
    held.release()


class Late:
    """A store that does not answer the first put, and applies it after whoever put it has looked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: tuple[str, bytes] | None = None
        self._is_first = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> None:
        if self._is_first:
            self._is_first, self._pending = False, (key, data)
            raise Uncertain
        self._store.create(key, data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self._pending:
            self._store.create(*self._pending)
            self._pending = None
        return self._store.list(prefix)


def test_a_claim_that_lands_after_it_was_looked_for_is_not_taken_for_anothers(store: Store) -> None:
    held = claim(Late(store), LAYOUT, sleep=never)  # type: ignore[arg-type]
    assert (held.number, held.look(), highest_claim(store, LAYOUT)) == (1, None, 1)
    held.release()


def test_a_store_that_never_says_is_given_up(store: Store) -> None:
    unclear = Unclear(store, applied=False, answer=Uncertain, times=10 * MAX_LOOKS)
    with pytest.raises(StorageLost, match="no claim of this job could be made"):
        claim(unclear, LAYOUT, sleep=never)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"\xff", b"{}", b'{"pid": "x"}', b'{"host": "h", "pid": 1, "later": true}']
)
def test_a_claim_nobody_can_read_is_waited_for_like_any_driver_elsewhere(store: Store, record: bytes) -> None:
    store.create(claim_key(LAYOUT, 1), record)
    store.overwrite(beat_key(LAYOUT, 1), record)
    waiting = Waiting()
    held = claim(store, LAYOUT, sleep=waiting.sleep)
    assert (held.number, len(waiting.slept)) == (2, 1)
    held.release()


def test_a_claim_of_a_later_version_is_understood(store: Store) -> None:
    later = {**dataclasses.asdict(Driver.this_process()), "version": 9}
    store.create(claim_key(LAYOUT, 1), json.dumps(later).encode())
    with pytest.raises(OutputError, match="is alive"):
        claim(store, LAYOUT, sleep=never)


def test_other_names_among_the_drivers_are_no_claims(store: Store) -> None:
    for name in ("00000009.beat", "9.json", "000000009.json", "x.json", "00000009.json.tmp"):
        store.create(LAYOUT.drivers_prefix + name, b"{}")
    assert highest_claim(store, LAYOUT) == 0
