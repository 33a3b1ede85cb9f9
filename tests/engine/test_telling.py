"""What a run keeps of its progress, whatever the store does meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrec.engine import telling
from batchrec.engine.telling import WRITE_EVERY_S, Journal, Quiet
from batchrec.output.layout import Layout
from batchrec.spec import StoreOptions
from batchrec.stats import RunProgress, ShardStats
from batchrec.storage import Store, open_store
from batchrec.storage.local_store import LocalStore

LAYOUT = Layout("ab" * 32)


class StuckStore(LocalStore):
    """A disk that takes its time: a write waits until it may go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writing, self.may_write = threading.Event(), threading.Event()
        self.written: list[bytes] = []

    def overwrite(self, key: str, data: bytes) -> None:
        self.writing.set()
        assert self.may_write.wait(20)
        self.written.append(data)
        super().overwrite(key, data)


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[StuckStore]:
    store = StuckStore(tmp_path)
    yield store
    store.may_write.set()


def journal_in(store: Store, clock: Clock) -> Journal:
    return Journal(Quiet(), store, LAYOUT, 3, 1000, 10, clock=clock)


def progress(num_ok: int) -> RunProgress:
    return RunProgress(num_ok=num_ok, num_failed=0, num_shards_done=1, stats=ShardStats())


def kept(store: Store) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.read(LAYOUT.progress_key))
    return found


def test_progress_is_written_now_and_then(tmp_path: Path, clock: Clock) -> None:
    store = open_store(str(tmp_path), StoreOptions())
    journal = journal_in(store, clock)
    journal.tick(progress(1))
    clock.now = WRITE_EVERY_S - 1
    journal.tick(progress(2))
    journal.close()
    assert (kept(store)["num_ok_this_run"], kept(store)["driver"], kept(store)["num_rows"]) == (1, 3, 1000)


def test_a_store_that_hangs_does_not_hold_up_the_run_and_gets_the_latest_alone(stuck: StuckStore, clock: Clock) -> None:
    journal = journal_in(stuck, clock)
    began = time.monotonic()
    journal.tick(progress(0))
    assert stuck.writing.wait(10)
    for number in range(1, 50):
        clock.now += WRITE_EVERY_S
        journal.tick(progress(number))
    assert time.monotonic() - began < 5
    stuck.may_write.set()
    journal.close()
    assert kept(stuck)["num_ok_this_run"] == 49
    assert len(stuck.written) == 2


def test_a_store_that_hangs_does_not_hold_up_the_end(
    stuck: StuckStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "_CLOSING_S", 0.1)
    journal = journal_in(stuck, clock)
    journal.tick(progress(0))
    began = time.monotonic()
    journal.close()
    assert time.monotonic() - began < 5


def log_in(store: Store) -> str:
    found = list(store.list(LAYOUT.log_key(3)))
    return store.read(LAYOUT.log_key(3)).decode() if found else ""


def wait_for_line(store: Store, line: str) -> None:
    give_up_at = time.monotonic() + 20
    while line not in log_in(store):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_the_first_line_is_kept_at_once_since_the_machine_may_die_soon(tmp_path: Path, clock: Clock) -> None:
    store = open_store(str(tmp_path), StoreOptions())
    journal = journal_in(store, clock)
    journal.say("worker 0 is ready")
    wait_for_line(store, "worker 0 is ready")
    journal.say("worker 1 is ready")
    clock.now += WRITE_EVERY_S
    journal.tick(progress(1))
    wait_for_line(store, "worker 1 is ready")
    journal.say("the last line")
    journal.close()
    assert "the last line" in log_in(store)
